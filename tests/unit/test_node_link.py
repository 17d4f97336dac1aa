"""What a node has yet to say of itself: the newest, and nothing of what it did before."""

from __future__ import annotations

from itertools import islice

from barnraise.client.node.link import _Outgoing
from barnraise.protocols import federation_pb2 as pb


def test_progress_of_what_is_over_is_not_said_after_the_next_state() -> None:
    said: list[str | None] = []
    outgoing = _Outgoing(pb.Hello(), lambda message: said.append(message.WhichOneof("said")))
    outgoing.put("progress", pb.FromNode(progress=pb.Progress(order="before", what="step")))
    outgoing.drop("progress")
    outgoing.put("state", pb.FromNode(state=pb.State(state="evaluating", order="now")))
    list(islice(outgoing, 2))
    outgoing.close()
    assert list(outgoing) == [] and said == ["hello", "state"]
