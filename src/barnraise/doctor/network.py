"""Whether a port can be reached and who answers: names, TCP, TLS, each told from the others."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from barnraise.doctor.check import Check
from barnraise.protocols.invite import split_address

PATIENCE = 5.0  # seconds of one try
_DATES = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED


def port(
    what: str, address: str, roots: Path, pair: tuple[Path, Path] | None = None
) -> list[Check]:
    """Checks of one port, up to the first that fails. `roots` holds the authority's certificate, `pair` the
    certificate and key that the port asks for."""
    host, number = split_address(address)
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = f"look whether {host} is spelled right and this machine's name service works"
        return [Check(f"{what}: name", f"{host}: {error.strerror or error}", "H101", fix)]
    resolved = Check(f"{what}: name", f"{host} is {found[0][4][0]}")
    try:
        connection = socket.create_connection((host, number), timeout=PATIENCE)
    except OSError as error:
        fix = f"see that the coordinator serves, and that port {number} may be reached from here"
        saw = f"{address}: {error.strerror or 'no answer'}"
        return [resolved, Check(f"{what}: TCP", saw, "H102", fix)]
    with connection:
        return [resolved, Check(f"{what}: TCP", address), _tls(what, connection, host, roots, pair)]


def _tls(
    what: str,
    connection: socket.socket,
    host: str,
    roots: Path,
    pair: tuple[Path, Path] | None,
) -> Check:
    name = f"{what}: TLS"
    try:
        context = ssl.create_default_context(cafile=str(roots))
        context.set_alpn_protocols(["h2"])
        if pair is not None:
            context.load_cert_chain(*pair)
        with context.wrap_socket(connection, server_hostname=host) as secured:
            return Check(name, f"{secured.version()}, and it is the federation's coordinator")
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _DATES:
            fix = "set the clock that is wrong; if none is, the operator serves again with ca.key there"
            return Check(name, f"its certificate: {error.verify_message}", "H104", fix)
        fix = "do not go on: ask the operator for the address, and who else could answer there"
        return Check(name, f"another authority's: {error.verify_message}", "H103", fix)
    except (ssl.SSLError, OSError) as error:
        fix = "ask the operator for the address: what answers there is no coordinator"
        return Check(name, f"it speaks no TLS: {error}", "H110", fix)
