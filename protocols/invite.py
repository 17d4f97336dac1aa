"""An invite: all that a node needs to join, in one line that can be mailed. And what people compare aloud.

The line is `barnraise1_` and base64url: characters that a double click selects as one word. It ends in a
checksum, so that one which lost or changed a character says so, and is not mistaken for an invite to
somewhere else. White space, which mail programs put in, does not count.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import astuple, dataclass, field

from barnraise.protocols import notes, pki
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.identity import is_name

PREFIX = "barnraise1_"
LIMIT = 16384
"""Characters of the longest line that is looked at."""

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,64}")


@dataclass(frozen=True)
class Invite:
    """`Invite.parse(str(invite)) == invite`. Addresses are `host:port`; an IPv6 host is in brackets.

    `authority` is the DER of the federation's root, `log_key` the verifier key of its log, `token` the
    secret that admits `member`, once.
    """

    federation: str
    member: str
    session: str
    enrolment: str
    authority: bytes
    log_key: str
    token: str = field(repr=False)

    def __str__(self) -> str:
        parts = [part if isinstance(part, bytes) else part.encode() for part in astuple(self)]
        body = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, line: str) -> Invite:
        """Raises N101."""
        body = _opened("".join(line[:LIMIT].split()))
        federation, member, session, enrolment, authority, log_key, token = _parts(body)
        try:
            invite = cls(
                federation.decode(),
                member.decode(),
                session.decode(),
                enrolment.decode(),
                authority,
                log_key.decode(),
                token.decode(),
            )
        except UnicodeDecodeError:
            raise _damaged("a part of it is not text") from None
        invite.check()
        return invite

    def check(self) -> None:
        """N101 unless every part is what it should be."""
        if not is_name(self.federation) or not is_name(self.member):
            raise _damaged("the federation's or the member's name is malformed")
        for address in (self.session, self.enrolment):
            split_address(address)
        if not _TOKEN.fullmatch(self.token):
            raise _damaged("its token is malformed")
        try:
            pki.load_authority(self.authority)
            name, _ = notes.parse_verifier_key(self.log_key)
        except ValueError as error:
            raise _damaged(f"its authority's certificate or its log's key: {error}") from None
        if name != log_name(self.federation):
            raise _damaged(f"its log key is that of {name!r}")


def log_name(federation: str) -> str:
    """The name of a federation's log, and of the key that signs it."""
    return f"{federation}/log"


def split_address(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without brackets) and port of a `host:port`; N101 if it is none."""
    host, _, port = address.rpartition(":")
    digits = port.isascii() and port.isdecimal() and len(port) <= 5 and not port.startswith("0")
    if not _HOST.fullmatch(host) or not digits or int(port) > 65535:
        raise _damaged(f"{address!r} is no address of the form host:port")
    return host.strip("[]"), int(port)


def spoken(identity_key: bytes, log_key: str) -> str:
    """What two people compare aloud before a member is admitted: 20 decimal digits, 66 bits.

    It covers the member's identity key and the log's verifier key, so it differs if either side was
    given another's.
    """
    covered = b"barnraise fingerprint\n" + identity_key + log_key.encode()
    number = int.from_bytes(hashlib.sha256(covered).digest(), "big") % 10**20
    digits = f"{number:020d}"
    return " ".join(digits[i : i + 5] for i in range(0, 20, 5))


def _opened(text: str) -> bytes:
    """The bytes in an invite's line, whose checksum is right."""
    if not text.startswith(PREFIX):
        raise _damaged(f"it does not begin with {PREFIX!r}")
    encoded = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
    except ValueError:
        raise _damaged("it holds a character that no invite has, or lacks its end") from None
    body, checksum = data[:-8], data[-8:]
    again = base64.urlsafe_b64encode(data).decode().rstrip("=")
    if again != encoded or checksum != _checksum(body):
        raise _damaged("its checksum is wrong: a character was changed or lost")
    return body


def _parts(body: bytes) -> list[bytes]:
    """The seven length-prefixed parts."""
    parts, rest = [], body
    while rest:
        size = int.from_bytes(rest[:2], "big")
        part, rest = rest[2 : 2 + size], rest[2 + size :]
        parts.append(part)
        if len(part) != size or len(parts) > 7:
            break
    if len(parts) != 7 or b"".join(len(p).to_bytes(2, "big") + p for p in parts) != body:
        raise _damaged("it is from another version of Barnraise")
    return parts


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"barnraise invite\n" + body).digest()[:8]


def _damaged(why: str) -> BarnraiseError:
    return BarnraiseError(
        "N101",
        "the invite cannot be used",
        why,
        next="copy the whole line again, or ask the federation's operator for a new invite",
    )
