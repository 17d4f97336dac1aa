"""What a coordinator refuses at its session port, and with which words.

    Refused    carries a gRPC status by name, a code of `protocols.errors.CODES`, and one sentence

The status details that a node reads are "N204: the sentence". Knows nothing of gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass

UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Refused(Exception):
    """A call that is not answered. `status` is the name of a gRPC status code."""

    status: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


def no_member(why: str) -> Refused:
    return Refused("PERMISSION_DENIED", "N201", why)


def revoked() -> Refused:
    return no_member(
        "the certificate is of no member of this federation, or of one that was revoked"
    )


def not_admitted(member: str) -> Refused:
    return Refused("PERMISSION_DENIED", "N202", f"{member} is not admitted to this run")


def nonsense(why: str) -> Refused:
    return Refused("INVALID_ARGUMENT", "N203", why)


def unknown_order() -> Refused:
    return Refused("NOT_FOUND", "N204", "this run has no such order for this member")


def malformed(why: str) -> Refused:
    return Refused("INVALID_ARGUMENT", "N205", f"a malformed offer: {why}")


def too_large(size: int, cap: int) -> Refused:
    return Refused("RESOURCE_EXHAUSTED", "N206", f"{size} bytes; at most {cap} are taken")


def out_of_place(why: str) -> Refused:
    return Refused("INVALID_ARGUMENT", "N207", why)


def wrong_bytes(digest: str) -> Refused:
    return Refused("DATA_LOSS", "N208", f"what came as {digest} has another digest; it was dropped")


def not_yours() -> Refused:
    return Refused("NOT_FOUND", "N209", "no open order of this member names this content")


def beyond_the_end(offset: int, size: int) -> Refused:
    return Refused("OUT_OF_RANGE", "N209", f"offset {offset} of {size} bytes")


def displaced() -> Refused:
    return Refused("ABORTED", "N210", "a newer call of this member has taken this one's place")


def not_now(why: str) -> Refused:
    return Refused(UNAVAILABLE, "N211", why)


def no_statement(why: str) -> Refused:
    return Refused("INVALID_ARGUMENT", "F117", why)
