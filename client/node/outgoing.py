"""What a worker answered, looked at before it is signed: an update by its size, an error by its words.

The files that are looked at are the daemon's own copies from then on, so what was measured is what leaves.
"""

from __future__ import annotations

import logging

from barnraise.client.node.desk import Order
from barnraise.client.node.gate import Gate
from barnraise.client.node.kept import Answer
from barnraise.client.node.spool import Spool
from barnraise.protocols.content import Envelope, Failure

FORBIDDEN = Failure(
    2, "this site's policy forbids its reply to leave"
)  # Flower's code for a failure


def checked(gate: Gate, order: Order, answer: Answer, spool: Spool, log: logging.Logger) -> Answer:
    """The answer as it may leave: itself, or an error in its place. Raises `ContentError`."""
    reply = spool.left(answer)
    if reply.failure is not None:
        said = gate.plain(reply.failure.reason)
        if said == reply.failure.reason:
            return answer
        log.warning("the error's own words stay here: %r", reply.failure.reason[:2000])
        return spool.reword(answer, Envelope(failure=Failure(reply.failure.code, said)))
    if not gate.measures(order.type):
        return answer
    for blob in reply.blobs():
        spool.own(blob)
    asked = Envelope.decode(spool.read(order.content))
    if not (why := gate.forbids(asked, reply, spool.find)):
        return answer
    log.error("N323: the reply to %s does not leave: %s", order.id, why)
    return spool.reword(Answer(order.id, ""), Envelope(failure=FORBIDDEN))
