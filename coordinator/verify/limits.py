"""What a verifier cannot know, however well everything checks (DESIGN §9). Pure: facts in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator

from barnraise.coordinator.verify.policy import Policy
from barnraise.protocols import release

_FOLLOWS = {
    release.OPEN: "that the weights follow from the signed updates: `barnraise audit` recomputes it",
    release.AUDITORS: (
        "that the weights follow from the signed updates: they are encrypted to the charter's auditors, "
        "who can recompute it"
    ),
    release.SEALED: (
        "that the weights follow from the signed updates: these are not released, so nobody outside can "
        "recompute it"
    ),
}


def unknowable(contributions: str, members: int, stated: bool, policy: Policy | None) -> list[str]:
    """`contributions` is the release's mode, `members` how many may witness it, `stated` whether members
    have made statements of their data."""
    return list(_unknowable(contributions, members, stated, policy))


def _unknowable(mode: str, members: int, stated: bool, policy: Policy | None) -> Iterator[str]:
    if policy is None or not policy.log:
        yield "whether the log's key is the federation's: it was printed and not pinned"
    if policy is None or len(policy.members) < members:
        yield "whether every member's key is that of the institution which it names"
    yield _FOLLOWS[mode]
    yield "that an update came from the data that its member has, or from any"
    if stated:
        yield "that what a member states of its data is true; it is known that the member signed it"
    yield "that no update was poisoned"
    if members < 4:
        yield f"that no member colludes with the coordinator: of {members}, one that does can rewrite its log"
    else:
        yield "that most members do not collude with the coordinator to rewrite the log"
    yield "what the log has said since this checkpoint"
    yield "that what README.md and the other documents say is so: of them only the bytes are bound"
