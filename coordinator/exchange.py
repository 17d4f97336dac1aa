"""Content in and out, in pieces of at most 1 MiB, from any offset: the Exchange service (DESIGN §7).

Each call is served by a thread of its own, which reads or writes the files; what is whole is handed to
the Grid's thread, which alone puts it into the blob store. A member fetches what its open orders name
and delivers to its own orders; at most one piece of each call is in memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from barnraise.coordinator import refusals
from barnraise.coordinator.access import caller
from barnraise.coordinator.desk import Desk, Part, Standing
from barnraise.coordinator.fleet import Delivery
from barnraise.coordinator.incoming import Arrival, Offer
from barnraise.coordinator.presence import Presence, percent
from barnraise.coordinator.room import Claim, Room
from barnraise.coordinator.turns import Turns
from barnraise.protocols import bulk
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.federation_pb2_grpc import ExchangeServicer
from barnraise.protocols.files import is_full
from barnraise.protocols.transfers import CHUNK

SHARED = 2 * CHUNK  # bytes of a part up to which it is read once for all who ask for it
AT_ONCE = 3  # transfers that move at a time, in and out; those whose peer is slow come on top

Said = pb.FromMember | bulk.Piece  # as `bulk.from_member` reads it


@dataclass(frozen=True)
class Handed:
    """A reply that is all in: those of its parts that came, which the Grid's thread takes.

    `files`, of which those that are `synced` are on the disk, as far as their bytes go; and `envelope`,
    where that is no file.
    """

    delivery: Delivery
    files: Mapping[str, Path] = field(default_factory=dict)
    synced: frozenset[str] = frozenset()
    envelope: bytes | None = None


@dataclass(frozen=True)
class Office:
    """What the services have of the fleet; everything here may be used from any thread.

    `file_of` says where a durable blob lies. `judged` looks for a verdict on record and has its receipt
    told; `hand_in` gives the Grid's thread a reply; `live` says whether the Grid has replayed its journal.
    `room` is the disk's.
    """

    desks: Mapping[str, Desk]
    presence: Presence
    now: Callable[[], float]
    folder: Path
    file_of: Callable[[str], Path]
    judged: Callable[[str, str], bool]
    hand_in: Callable[[Handed], None]
    live: Callable[[], bool]
    durable: bool
    room: Room

    def desk(self) -> tuple[str, Desk]:
        """The caller's name and desk; `Refused` (N202) if it is not admitted to the run."""
        name = caller().name
        if (desk := self.desks.get(name)) is None:
            raise refusals.not_admitted(name)
        return name, desk


class Exchange(ExchangeServicer):
    """Has no state of its own but `unknown`, how many offers were for no order of their member's, and the
    small part that was read last, by its digest."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._lock = threading.Lock()
        self._unknown = 0
        self._turns, self._turns_out = Turns(AT_ONCE), Turns(AT_ONCE)
        self._shared: tuple[str, tuple[tuple[int, bytes], ...]] | None = None  # set in one step

    @property
    def unknown(self) -> int:
        with self._lock:
            return self._unknown

    # --- out ---------------------------------------------------------------------------------------

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[bytes]:  # type: ignore[override]
        """The bytes from `offset` on, as chunks. N209 unless an open order of the caller names them."""
        name, desk = self._office.desk()
        part = desk.part(request.digest)
        if part is None:
            raise refusals.not_yours()
        if request.offset > part.size:
            raise refusals.beyond_the_end(request.offset, part.size)
        with self._turns_out.taken(name, context.is_active) as turn:
            for at, chunk in self._chunks(part, request.offset):
                yield chunk
                turn.moved(len(chunk))
                self._office.presence.detail(name, "fetching", percent(at, part.size))

    def _chunks(self, part: Part, at: int) -> Iterator[tuple[int, bytes]]:
        """Each chunk from `at` on, as it is sent, with where it ends. One is in memory at a time, but
        for a small part, which the members of a batch ask for together: it is read once for them."""
        if at or part.size > SHARED:
            yield from self._read(part, at)
            return
        shared = self._shared
        if shared is None or shared[0] != part.digest:
            shared = self._shared = part.digest, tuple(self._read(part, 0))
        yield from shared[1]

    def _read(self, part: Part, at: int) -> Iterator[tuple[int, bytes]]:
        if part.data is not None:
            for start in range(at, part.size, CHUNK):
                data = part.data[start : start + CHUNK]
                yield start + len(data), bulk.chunk(data)
            return
        try:
            file = self._office.file_of(part.digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise refusals.not_now("the content is not there") from None
        with file:
            while chunk := bulk.chunk(os.pread(file.fileno(), CHUNK, at)):
                at = min(at + CHUNK, part.size)
                yield at, chunk

    # --- in ----------------------------------------------------------------------------------------

    def Deliver(
        self, request_iterator: Iterator[Said], context: grpc.ServicerContext
    ) -> Iterator[pb.ToMember]:
        """Offer, Wanted, pieces, Taken. Of a reply that is not needed any more nothing is wanted."""
        name, desk = self._office.desk()
        offer = self._offer(request_iterator)
        standing = self._standing(name, desk, offer.order)
        if standing == "open" and (sent := desk.sent(offer.order)) is not None:
            yield from self._take_in(name, desk, offer, sent.cap, request_iterator)
            return
        if desk.standing(offer.order) == "withdrawn":
            self._hand_in(name, desk, offer, offer.claimed(0))
        desk.repeat(offer.order)
        yield pb.ToMember(wanted=pb.Wanted())
        yield pb.ToMember(taken=pb.Taken())

    @staticmethod
    def _offer(pieces: Iterator[Said]) -> Offer:
        """What a delivery begins with; nothing of the message stays beside it."""
        first = next(pieces, None)
        if not isinstance(first, pb.FromMember) or first.WhichOneof("said") != "offer":
            raise refusals.nonsense("a delivery begins with its offer")
        return Offer.of(first.offer)

    def _standing(self, name: str, desk: Desk, order: str) -> Standing:
        """What became of this order; N204 if the member has no such order, N211 if that is not known."""
        standing = desk.standing(order)
        if standing != "unknown":
            return standing
        live = self._office.live()
        with self._disk_refusals():
            judged = self._office.judged(name, order)
        if judged:
            return "taken"
        if not live:
            raise refusals.not_now("the run is being replayed")
        with self._lock:
            self._unknown += 1
        raise refusals.unknown_order()

    def _take_in(
        self, name: str, desk: Desk, offer: Offer, cap: int, pieces: Iterator[Said]
    ) -> Iterator[pb.ToMember]:
        if offer.size > cap:
            self._hand_in(name, desk, offer, offer.claimed(cap))
            raise refusals.too_large(offer.size, cap)
        with closing(self._arrival(name, desk, offer)) as arrival, self._claim(arrival) as claim:
            wants = [pb.Want(digest=digest, offset=at) for digest, at in arrival.wanted()]
            with self._turns.taken() as turn:  # before that, nothing of it is on its way
                yield pb.ToMember(wanted=pb.Wanted(parts=wants))
                while not arrival.complete:
                    moved = self._move(self._piece(pieces), arrival)
                    turn.moved(moved)
                    claim.spent(moved)
                    percent_in = percent(arrival.done, arrival.total)
                    self._office.presence.detail(name, "delivering", percent_in)
        self._hand_in(name, desk, offer, offer.size, arrival)
        yield pb.ToMember(taken=pb.Taken())

    def _arrival(self, name: str, desk: Desk, offer: Offer) -> Arrival:
        ours = {part.digest: desk.part(part.digest) for part in offer.parts}

        def spared(digest: str) -> bool:
            """The member had it from us, with the order, and it is still here."""
            return ours[digest] is not None and self._office.file_of(digest).is_file()

        # The file of a reply that waits to be judged lies there until the Grid takes it: with the right
        # size it is whole, and is left as it is.
        if any(desk.handed(part.digest) not in (None, part.size) for part in offer.parts):
            raise refusals.malformed("a part that is in already has another size")
        had = ((part, ours[part.digest]) for part in offer.parts)
        if any(sent is not None and sent.size != part.size for part, sent in had):
            raise refusals.malformed("a part that came with the order has another size")
        with self._disk_refusals():
            return Arrival(
                self._office.folder / name,
                offer.parts,
                offer.content,
                offer.envelope,
                spared=spared,
                waits=lambda digest: desk.handed(digest) is not None,
                durable=self._office.durable,
            )

    def _move(self, piece: bulk.Piece, arrival: Arrival) -> int:
        """Take a piece; how many bytes it brought."""
        with self._disk_refusals():
            arrival.piece(piece.digest, piece.offset, piece.data)
        return len(piece.data)

    def _claim(self, arrival: Arrival) -> Claim:
        return self._office.room.claim(arrival.total - arrival.done)

    @contextmanager
    def _disk_refusals(self) -> Iterator[None]:
        """N211 for what the disk says: the member keeps its reply and tries again."""
        try:
            yield
        except (OSError, BarnraiseError) as error:
            if is_full(error):
                self._office.room.lacking(CHUNK)
            raise refusals.not_now(
                "the disk is full" if is_full(error) else "the disk failed"
            ) from error

    @staticmethod
    def _piece(pieces: Iterator[Said]) -> bulk.Piece:
        said = next(pieces, None)
        if not isinstance(said, bulk.Piece):
            raise refusals.nonsense("the delivery ended before its last piece")
        return said

    def _hand_in(
        self, name: str, desk: Desk, offer: Offer, size: int, came: Arrival | None = None
    ) -> None:
        sizes = {part.digest: part.size for part in offer.parts} if came is not None else {}
        if not desk.take(offer.order, sizes):
            return
        at = self._office.now()
        delivery = Delivery(
            offer.order, name, offer.content, size, offer.statement, at, frozenset(sizes)
        )
        self._office.hand_in(
            Handed(delivery, came.files, came.synced, came.envelope) if came else Handed(delivery)
        )


def add_exchange(servicer: Exchange, server: grpc.Server) -> None:
    """Serve it: what content travels in is bytes here, as `protocols.bulk` writes and reads them."""
    handlers: dict[str, Any] = {
        "Fetch": grpc.unary_stream_rpc_method_handler(
            servicer.Fetch,
            request_deserializer=pb.FetchRequest.FromString,
            response_serializer=bulk.as_it_is,
        ),
        "Deliver": grpc.stream_stream_rpc_method_handler(
            servicer.Deliver,
            request_deserializer=bulk.from_member,
            response_serializer=pb.ToMember.SerializeToString,
        ),
    }
    generic = grpc.method_handlers_generic_handler(bulk.SERVICE, handlers)
    server.add_generic_rpc_handlers((generic,))
