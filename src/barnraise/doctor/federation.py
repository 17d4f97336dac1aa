"""The operator's side: the federation's directory, its keys, its server's certificate, both ports."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography import x509

from barnraise.cli.asked import asked
from barnraise.coordinator.federation import Description
from barnraise.doctor import network
from barnraise.doctor.check import Check
from barnraise.protocols import pki
from barnraise.protocols.errors import BarnraiseError

SOON = 7 * 86400.0  # seconds before the end of the server's certificate


def checks(directory: Path) -> list[Check]:
    """Everything that serving needs, and whether it can be reached from here."""
    try:
        said = Description.read(directory)
    except BarnraiseError as error:
        return [Check("federation", error.evidence, "H108", error.next)]
    folder = directory / "federation"
    missing = [n for n in ("ca.crt", "log.key", "members.db") if not (folder / n).exists()]
    if missing:
        fix = "restore the federation's directory from a backup"
        return [Check("keys", f"{folder / missing[0]} is missing", "H108", fix)]
    found = [Check("federation", said.name), _issuing(folder), _certificate(folder)]
    served = asked(directory, "serve", "status", {}, network.PATIENCE) is not None
    if not served:
        fix = f"barnraise serve {directory}"
        return [*found, Check("serving", "no process serves it", "H111", fix)]
    found.append(Check("serving", "a process serves it"))
    found += network.port("enrolment", said.enrolment, folder / "ca.crt")
    found += network.port("sessions", said.session, folder / "ca.crt")
    return found


def _issuing(folder: Path) -> Check:
    if (folder / "ca.key").exists():
        return Check("authority", "its key is here: members can join and renew")
    return Check("authority", "its key is kept elsewhere: nobody can join or renew meanwhile")


def _certificate(folder: Path) -> Check:
    """The server's own, which it makes anew itself, given the authority's key."""
    path = folder / "server.crt"
    if not path.exists():
        return Check("certificate", "it is made when the federation is served")
    left = pki.validity(x509.load_pem_x509_certificate(path.read_bytes()))[1] - time.time()
    saw = f"the server's is valid for {left / 86400:.0f} days"
    if left < SOON and not (folder / "ca.key").exists():
        fix = f"put the key back at {folder / 'ca.key'}, and serve again"
        return Check("certificate", saw, "H104", fix)
    return Check("certificate", saw)
