"""What a node's commit says: the replies that wait for their receipts, `Context.state`, the carry.

Contents are named by the digests of their envelopes. A small envelope lies in the commit itself; a large one,
and every blob, is a file beside it. Pure; nothing here is read or written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from barnraise.protocols.canonical import digest, is_digest

Envelopes = Mapping[str, str]
"""Small envelopes as text, by their digests."""


def name_of(text: str) -> str:
    """The digest of the content whose envelope this is."""
    return digest(text.encode())


@dataclass(frozen=True)
class Reply:
    """A committed reply: its content, the bytes of envelope and blobs, and the statement over it."""

    content: str
    size: int
    statement: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """What `current.json` holds. `state` and `carry` name contents; None for empty.

    `done` are the last orders whose receipts came, oldest first. `envelopes`: the small ones of its contents.
    """

    run: str
    state: str | None = None
    carry: str | None = None
    replies: Mapping[str, Reply] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    envelopes: Envelopes = field(default_factory=dict)

    def encode(self) -> bytes:
        document = {
            "run": self.run,
            "state": self.state,
            "carry": self.carry,
            "replies": {order: vars(reply) for order, reply in self.replies.items()},
            "done": list(self.done),
            "envelopes": dict(self.envelopes),
        }
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, data: bytes) -> Kept:
        """`ValueError` for what `encode` does not write."""
        document = json.loads(data)
        try:
            replies = {order: Reply(**held) for order, held in document["replies"].items()}
            kept = cls(**{**document, "replies": replies, "done": tuple(document["done"])})
            renamed = {name_of(text) for text in kept.envelopes.values()} ^ {*kept.envelopes}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not what a node keeps: {error!r}") from None
        named = [*replies, *kept.done, *kept.contents()]
        if not all(is_digest(name) for name in named):
            raise ValueError("a name in it is no digest")
        if renamed:
            raise ValueError("an envelope in it is not what it is called")
        return kept

    def contents(self) -> list[str]:
        ours = [c for c in (self.state, self.carry) if c is not None]
        return [*ours, *(reply.content for reply in self.replies.values())]

    def answered(self, order: str, reply: Reply, answer: Answer) -> Kept:
        """With this reply; state and carry are the answer's, or stay as they were."""
        kept = replace(
            self,
            replies={**self.replies, order: reply},
            state=self.state if answer.state is None else answer.state,
            carry=self.carry if answer.carry is None else answer.carry,
        )
        looked_at = answer.contents()
        return kept._with({c: t for c, t in answer.envelopes.items() if c in looked_at})

    def receipted(self, order: str, remembered: int) -> Kept:
        """Without the reply to this order, which is among the last `remembered` that are done."""
        replies = {o: reply for o, reply in self.replies.items() if o != order}
        done = (*self.done, order)[-remembered:]
        return replace(self, replies=replies, done=done)._with({})

    def _with(self, more: Envelopes) -> Kept:
        """With those of these and its own envelopes whose contents it names."""
        known = {**more, **self.envelopes}
        return replace(self, envelopes={c: known[c] for c in self.contents() if c in known})


@dataclass(frozen=True)
class Answer:
    """What the worker left for an order, as digests of contents. None where the member stays as it was.

    `envelopes` are what the worker calls so; nobody has looked at them yet.
    """

    order: str
    content: str
    state: str | None = None
    carry: str | None = None
    envelopes: Envelopes = field(default_factory=dict)

    def contents(self) -> list[str]:
        return [c for c in (self.content, self.state, self.carry) if c is not None]
