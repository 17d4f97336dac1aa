"""The Transparency service: the log by request, for members alone. Every answer is bounded.

What a session pushes is enough for a node that is always there; this is for one that has seen another
size, and for people with questions. Behind the Guard, as every service of the session port.
"""

from __future__ import annotations

import grpc

from barnraise.coordinator import refusals
from barnraise.coordinator.access import caller
from barnraise.coordinator.prover import Prover
from barnraise.coordinator.refusals import Refused
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.federation_pb2_grpc import TransparencyServicer

MOST_ENTRIES = 256
MOST_BYTES = 1 << 20


class Transparency(TransparencyServicer):
    """Has no state of its own."""

    def __init__(self, prover: Prover) -> None:
        self._prover, self._log = prover, prover.log

    def Checkpoint(
        self, request: pb.CheckpointRequest, context: grpc.ServicerContext
    ) -> pb.CheckpointReply:
        return pb.CheckpointReply(
            checkpoint=self._log.checkpoint(), witnessed=self._log.witnessed() or b""
        )

    def Entries(self, request: pb.EntriesRequest, context: grpc.ServicerContext) -> pb.EntriesReply:
        """At most 256 entries and about 1 MiB, and at least one where there is one."""
        size = self._log.size()
        if request.start >= size:
            raise beyond(f"entry {request.start} of {size}")
        end = min(size, request.start + min(request.count, MOST_ENTRIES))
        reply, held = pb.EntriesReply(), 0
        for _, data in self._log.entries(request.start, end):
            held += len(data)
            if reply.entries and held > MOST_BYTES:
                break
            reply.entries.append(data)
        return reply

    def Inclusion(self, request: pb.InclusionRequest, context: grpc.ServicerContext) -> pb.Path:
        size = self._log.size()
        if not request.index < request.size <= size:
            raise beyond(f"entry {request.index} of {request.size} of {size}")
        return pb.Path(hashes=self._log.inclusion(request.index, request.size))

    def Consistency(self, request: pb.ConsistencyRequest, context: grpc.ServicerContext) -> pb.Path:
        size = self._log.size()
        if not request.old_size <= request.new_size <= size:
            raise beyond(f"from {request.old_size} to {request.new_size} of {size}")
        return pb.Path(hashes=self._log.consistency(request.old_size, request.new_size))

    def Cosign(self, request: pb.Cosignature, context: grpc.ServicerContext) -> pb.CosignReply:
        if why := self._prover.cosigned(caller().name, request.size, request.line):
            raise refusals.nonsense(why)
        return pb.CosignReply()


def beyond(what: str) -> Refused:
    return Refused("OUT_OF_RANGE", "N203", f"the log does not reach so far: {what}")
