"""What a member demands of the log before it works, and what it takes for proof. Pure: no files, no clock.

    step           a checkpoint must continue the one that was seen before, or be an earlier state of it
    included       an entry must be in the log of that checkpoint
    check_opened   the run must be opened as the site approved it
    check_order    an order must stand in its `batch.sent`, among approved members
    check_receipt  a receipt's entry must judge this member's own reply, as the receipt says

Each raises `Misconduct` with a code and the reason: what an honest coordinator never does. What is merely
missing, or late, is for the caller to wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from barnraise.protocols import merkle, notes, statements
from barnraise.protocols.canonical import NotCanonical, digest, parse
from barnraise.protocols.entries import MAX_ENTRY, Entry, EntryError
from barnraise.protocols.identity import order_id
from barnraise.protocols.merkle import ProofError
from barnraise.protocols.notes import Checkpoint, NoteError

MAX_PATH = 64  # hashes of a proof
MAX_BODY = 2 << 20  # bytes of a body that is too large for an entry

FORKED, WENT_BACK, UNPROVED = "N310", "N311", "N312"
OTHER_RUN, OTHER_ORDER, OTHER_VERDICT = "N313", "N314", "N315"


class Misconduct(Exception):
    """What no honest coordinator does. `code` is of `errors.CODES`; `what` is one sentence."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code, self.what = code, what


def quorum(members: int) -> int:
    """How many cosignatures witness a checkpoint: ⌊(n+f)/2⌋+1 with f = ⌊(n−1)/3⌋ (DESIGN §8)."""
    if members < 1:
        raise ValueError("a federation without members has no witnesses")
    faulty = (members - 1) // 3
    return (members + faulty) // 2 + 1


# --- the log --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a coordinator shows of its log, unverified: a checkpoint's note, and proofs towards it.

    `consistency` is between `old_size` and the checkpoint's size, whichever is smaller. `inclusion` is of
    `entry` at `index`; no entry is shown where it is empty. `body` is the blob that an entry
    {run, blob} names.
    """

    note: bytes
    old_size: int = 0
    consistency: tuple[bytes, ...] = ()
    index: int = 0
    inclusion: tuple[bytes, ...] = ()
    entry: bytes = b""
    body: bytes = b""


def opened(note: bytes, log_key: str) -> Checkpoint:
    """The checkpoint in a note of the log with this verifier key; `Misconduct` (N312) if it is none."""
    try:
        return notes.open_checkpoint(note, log_key).checkpoint
    except NoteError as error:
        raise Misconduct(UNPROVED, f"what is shown as the log's checkpoint is {error}") from None


def wanted(kept: Checkpoint | None, shown: Checkpoint) -> tuple[int, int] | None:
    """Between which two sizes a consistency proof is needed; None if none is."""
    if kept is None or kept.size == shown.size:
        return None
    return min(kept.size, shown.size), max(kept.size, shown.size)


def step(kept: Checkpoint | None, shown: Checkpoint, path: Sequence[bytes]) -> Checkpoint:
    """The newest of both, if they are of one log; `Misconduct` (N310, N311) if that is not proved.

    `path` is between the sizes that `wanted` names. The first checkpoint that a node ever sees is taken
    as it is; an earlier state of what it has seen is no newer view, and no misconduct.
    """
    if kept is None:
        return shown
    if kept.size == shown.size:
        if kept.root != shown.root:
            what = f"the log's coordinator has signed two different logs of {kept.size} entries"
            raise Misconduct(FORKED, what)
        return kept
    older, newer = sorted((kept, shown), key=lambda c: c.size)
    try:
        if len(path) > MAX_PATH:
            raise ProofError("the consistency path is too long")
        merkle.check_consistency(older.size, newer.size, older.root, newer.root, path)
    except ProofError as error:
        raise _broken(kept, shown, error) from None
    return newer


def _broken(kept: Checkpoint, shown: Checkpoint, error: ProofError) -> Misconduct:
    sizes = f"{kept.size} entries were seen, {shown.size} are shown"
    if shown.size < kept.size:
        return Misconduct(WENT_BACK, f"the log went back: {sizes}, and {error}")
    return Misconduct(FORKED, f"the log does not continue what was seen: {sizes}, and {error}")


def included(shown: Shown, checkpoint: Checkpoint) -> Entry:
    """The entry that is shown, with its whole body; `Misconduct` (N312) unless the log holds it."""
    try:
        if len(shown.inclusion) > MAX_PATH or len(shown.entry) > MAX_ENTRY:
            raise ProofError("the proof or its entry is too long")
        merkle.check_inclusion(
            merkle.leaf_hash(shown.entry),
            shown.index,
            checkpoint.size,
            shown.inclusion,
            checkpoint.root,
        )
        return _whole(Entry.decode(shown.entry), shown.body)
    except (ProofError, EntryError, NotCanonical) as error:
        what = f"the entry that is shown is not proved to be number {shown.index}: {error}"
        raise Misconduct(UNPROVED, what) from None


def _whole(entry: Entry, body: bytes) -> Entry:
    """The entry with the body that it names, where that was too large for it."""
    if set(entry.body) != {"run", "blob"}:
        return entry
    if len(body) > MAX_BODY or digest(body) != entry.body["blob"]:
        raise ProofError("the body beside it is not the one that it names")
    value = parse(body)
    if not isinstance(value, dict) or value.get("run") != entry.body["run"]:
        raise ProofError("the body beside it is not one of its run")
    return Entry(entry.type, entry.time, value)


# --- what entries must say ------------------------------------------------------------------------


@dataclass(frozen=True)
class Approved:
    """What a site approved, as far as the log can show it. `members`: name → hex key; None: not pinned.

    `one_content`: whether every member of a train batch must be sent the same.
    """

    member: str
    public_key: bytes
    federation: str
    run: str
    app: str
    members: Mapping[str, str] | None = None
    one_content: bool = False


def check_opened(entry: Entry, approved: Approved) -> None:
    """`Misconduct` (N313) unless this is the `run.opened` of the approved run and app.

    Every member that it names must be one that was approved, with its key, and this member among them.
    """
    try:
        _check_opened(entry, approved)
    except (KeyError, TypeError, ValueError) as error:
        raise Misconduct(OTHER_RUN, f"the entry that opens the run is malformed: {error}") from None


def _check_opened(entry: Entry, approved: Approved) -> None:
    body = entry.body
    said = (entry.type, body["run"], body["federation"], body["app"]["digest"])
    expected = ("run.opened", approved.run, approved.federation, approved.app)
    for what, was, should in zip(("type", "run", "federation", "app"), said, expected, strict=True):
        if was != should:
            raise Misconduct(OTHER_RUN, f"the run was opened with another {what}: {was!r}")
    members = {str(name): str(key) for name, key in body["members"]}
    if len(members) != len(body["members"]):
        raise Misconduct(OTHER_RUN, "the run was opened with two members of one name")
    if members.get(approved.member) != approved.public_key.hex():
        raise Misconduct(OTHER_RUN, "the run was opened without this member, or with another key")
    for name, key in members.items() if approved.members is not None else ():
        if approved.members is not None and approved.members.get(name) != key:
            what = f"the run was opened with {name!r}, whom this site's agreement does not name so"
            raise Misconduct(OTHER_RUN, what)


@dataclass(frozen=True)
class OrderSeen:
    """An order as it came: what its `batch.sent` must say of it."""

    id: str
    batch: int
    type: str
    group: str
    content: str


def check_order(entry: Entry, order: OrderSeen, approved: Approved) -> None:
    """`Misconduct` (N314) unless this is the `batch.sent` in which this order to this member stands."""
    try:
        _check_order(entry, order, approved)
    except (KeyError, TypeError, ValueError) as error:
        raise Misconduct(OTHER_ORDER, f"the entry of the batch is malformed: {error}") from None


def _check_order(entry: Entry, order: OrderSeen, approved: Approved) -> None:
    body = entry.body
    if (entry.type, body["run"], body["batch"]) != ("batch.sent", approved.run, order.batch):
        what = f"the entry shown for batch {order.batch} is another: {entry.type}"
        raise Misconduct(OTHER_ORDER, what)
    named = {name for group in body["orders"] for name in group["members"]}
    if approved.members is not None and (invented := sorted(named - approved.members.keys())):
        what = f"batch {order.batch} was sent to {invented[0]!r}, whom the agreement does not name"
        raise Misconduct(OTHER_ORDER, what)
    if order.id not in _orders_of(approved, body):
        raise Misconduct(OTHER_ORDER, f"the order is not in the batch that the log has: {order.id}")
    asked = (order.type, order.group, order.content)
    if _orders_of(approved, body)[order.id] != asked:
        raise Misconduct(OTHER_ORDER, f"the log has another order under this id: {order.id}")
    contents = {g["content"] for g in body["orders"] if _is_train(g["type"])}
    if approved.one_content and _is_train(order.type) and len(contents) > 1:
        what = f"the members were sent {len(contents)} different contents in batch {order.batch}"
        raise Misconduct(OTHER_ORDER, what)


def _orders_of(approved: Approved, body: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """This member's orders in a `batch.sent`: id → (type, group, content)."""
    seen: dict[tuple[str, str, str], int] = {}
    orders = {}
    for group in body["orders"]:
        key = (group["type"], group["group"], group["content"])
        for _ in range(list(group["members"]).count(approved.member)):
            n = seen.get(key, 0)
            seen[key] = n + 1
            id_ = order_id(body["run"], body["batch"], approved.member, *key, n)
            orders[id_] = key
    return orders


def _is_train(type_: str) -> bool:
    return type_.partition(".")[0] == "train"


def check_receipt(
    entry: Entry, data: bytes, receipt: Mapping[str, Any], content: str, approved: Approved
) -> None:
    """`Misconduct` (N315) unless the entry judges this member's reply as its receipt says.

    `data` are the entry's bytes, `content` the digest of the reply that is kept. What was accepted must
    carry this member's own statement over the very content that it names.
    """
    try:
        _check_receipt(entry, data, receipt, content, approved)
    except (KeyError, TypeError, ValueError) as error:
        raise Misconduct(OTHER_VERDICT, f"the entry of the verdict is malformed: {error}") from None


def _check_receipt(
    entry: Entry, data: bytes, receipt: Mapping[str, Any], content: str, approved: Approved
) -> None:
    body, verdict = entry.body, receipt["verdict"]
    said = {
        "entry": digest(data),
        "verdict": entry.type.removeprefix("reply."),
        "reason": body.get("reason", ""),
        "order": body["order"],
    }
    for name, value in said.items():
        if receipt[name] != value:
            raise Misconduct(OTHER_VERDICT, f"a receipt says another {name} than its entry")
    if verdict not in ("accepted", "refused", "late"):
        raise Misconduct(OTHER_VERDICT, f"a receipt's entry is no verdict: {entry.type}")
    if (body["run"], body["member"]) != (approved.run, approved.member):
        raise Misconduct(OTHER_VERDICT, "a receipt's entry judges another member's reply")
    mine = _signed_by(approved, body)
    if verdict == "accepted" and not mine:
        what = "a receipt's entry accepts what this member has not signed"
        raise Misconduct(OTHER_VERDICT, what)
    if body["content"] != content and not mine:
        raise Misconduct(OTHER_VERDICT, "a receipt's entry judges a content that was never sent")


def _signed_by(approved: Approved, body: Mapping[str, Any]) -> bool:
    """Whether an entry carries this member's statement over the content that it judges."""
    try:
        payload = statements.verify(
            approved.public_key, approved.member, "reply", body["statement"]
        )
    except statements.StatementError:
        return False
    expected = statements.reply_payload(
        approved.federation, approved.run, body["order"], body["content"], payload.get("policy", "")
    )
    return payload == expected
