"""What must hold of a log's entries, from the first to the last. Pure: bytes in, reasons out.

    Rules.see(index, data)    what is wrong with this entry, given all before it; [] for a good one
    Rules.named               the digests that the last entry names
    Rules.entry, Rules.body   the last entry with its whole body, None unless it was good; the digest by
                              which it named that body, or ""

An entry is canonical JSON of a known type; a statement is signed by the member's enrolled key and bound
to its federation, run and order; a verdict names an order that was sent to that member in that run, and
is the only one on it; a batch closes once, with what was accepted and not set aside. It knows neither
hashes nor checkpoints nor files: `blob` gives it the few bodies that entries name, None where they are
gone; `check` is asked about statements' signatures, and may take them for later. `barnraise log check`
stands on it, and so does `barnraise verify`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from barnraise.protocols import canonical, notes, statements, stating
from barnraise.protocols.agreements import Agreement, AgreementError
from barnraise.protocols.canonical import NotCanonical
from barnraise.protocols.entries import Entry, EntryError
from barnraise.protocols.identity import is_name, order_id
from barnraise.protocols.invite import log_name
from barnraise.protocols.statements import NO_POLICY, StatementError

Blob = Callable[[str], bytes | None]
VERDICTS = ("reply.accepted", "reply.refused", "reply.late")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "federation.founded": ("federation", "log", "authority"),
    "member.enrolled": ("member", "key", "organisation"),
    "member.revoked": ("member", "key", "reason"),
    "member.left": ("member", "key", "statement"),
    "charter.adopted": ("agreement", "charter"),
    "charter.signed": ("agreement", "member", "statement"),
    "data.stated": ("member", "document", "open", "statement"),
    "run.opened": ("run", "federation", "app", "members"),
    "roster.seen": ("run", "members"),
    "batch.sent": ("run", "batch", "kind", "orders"),
    "batch.pulled": ("run", "orders"),
    "reply.accepted": ("run", "batch", "order", "member", "content", "statement"),
    "reply.refused": ("run", "batch", "order", "member", "code", "reason"),
    "reply.late": ("run", "batch", "order", "member"),
    "batch.closed": ("run", "batch", "reason", "accepted", "set_aside", "absent"),
    "round.sealed": ("run", "round", "model", "content", "batches"),
    "run.closed": ("run", "model", "named"),
    "release.published": ("run", "manifest", "model", "contributions"),
}


class _Wrong(Exception):
    """What is wrong with an entry."""


@dataclass
class _Batch:
    """`orders` maps an order's id to its member; `accepted` what was accepted to its content."""

    orders: dict[str, str]
    accepted: dict[str, str] = field(default_factory=dict)
    judged: set[str] = field(default_factory=set)
    closed: bool = False


@dataclass
class _Run:
    """`members` maps a name to its key (hex). `unsigned`: it is on an engine that signs nothing, and nobody
    has a key. `batches` are those that are not closed, or had silent
    members; `sent` is the number of the last one."""

    members: Mapping[str, str]
    unsigned: bool = False
    batches: dict[int, _Batch] = field(default_factory=dict)
    sent: int = 0
    round: int = -1
    closed: bool = False
    model: str = ""


@dataclass
class _Charter:
    agreement: Agreement | None
    signed: set[str] = field(default_factory=set)


class Rules:
    """`federation`, `log` and `members` (name → hex key of who is a member now) are what the entries
    say so far; `witnesses` those of the newest agreement, or else of the newest run; `data` maps a member
    to the digest of its last data statement. `signatures` counts the statements that hold, `unsigned` the
    replies of runs that say that nobody signs in them."""

    def __init__(self, blob: Blob, check: statements.Check = statements.check_signature) -> None:
        self._blob = blob
        self._check_signature = check
        self._charters: dict[str, _Charter] = {}
        self._runs: dict[str, _Run] = {}
        self._revoked: set[str] = set()
        self.federation = self.log = ""
        self.members: dict[str, str] = {}
        self.witnesses: Mapping[str, str] = {}
        self.data: dict[str, str] = {}
        self.signatures = self.unsigned = 0
        self.named: list[str] = []
        self.entry: Entry | None = None
        self.body = ""

    def see(self, index: int, data: bytes) -> list[str]:
        """Take the next entry into account."""
        self.named, self.entry, self.body = [], None, ""
        try:
            entry = Entry.decode(data)
            if set(entry.body) == {"run", "blob"}:
                entry = self._whole(entry)
            _check_fields(entry)
            self._check_place(index, entry)
            self.named += _named(entry)
            self._check(entry)
            self.entry = entry
        except (EntryError, _Wrong) as error:
            return [str(error)]
        except (StatementError, AgreementError) as error:
            return [f"{entry.type}: {error}"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return [f"{entry.type}: a field is not of the kind that it should be"]
        return []

    def _whole(self, entry: Entry) -> Entry:
        """The entry with the body that it names."""
        name = self.body = str(entry.body["blob"])
        self.named.append(name)
        held = self._blob(name) if canonical.is_digest(name) else None
        if held is None or canonical.digest(held) != name:
            raise _Wrong(f"{entry.type}: its body is not there, {name}")
        try:
            body = canonical.parse(held)
        except NotCanonical as error:
            raise _Wrong(f"{entry.type}: its body is {error}") from None
        if not isinstance(body, dict) or body.get("run") != entry.body["run"]:
            raise _Wrong(f"{entry.type}: its body is of another run")
        return Entry(entry.type, entry.time, body)

    def _check_place(self, index: int, entry: Entry) -> None:
        if (index == 0) != (entry.type == "federation.founded"):
            raise _Wrong(f"{entry.type}: a log begins with federation.founded, and has no other")
        if "run" not in entry.body or entry.type == "run.opened":
            return
        run = self._runs.get(str(entry.body["run"]))
        if run is None:
            raise _Wrong(f"{entry.type}: the run {entry.body['run']} was never opened")
        if run.closed != (entry.type == "release.published"):
            state = "was closed before" if run.closed else "is not closed"
            raise _Wrong(f"{entry.type}: the run {entry.body['run']} {state}")

    def _check(self, entry: Entry) -> None:
        body = entry.body
        match entry.type:
            case "federation.founded":
                self._founded(body)
            case "member.enrolled":
                self._enrolled(body)
            case "member.revoked" | "member.left":
                self._ended(entry.type, body)
            case "charter.adopted":
                self._adopted(body)
            case "charter.signed":
                self._charter_signed(body)
            case "data.stated":
                self._stated(body)
            case "run.opened":
                self._opened(body)
            case "roster.seen":
                self._only_members(entry.type, body["run"], body["members"])
            case "batch.sent":
                self._sent(body)
            case "reply.accepted" | "reply.refused" | "reply.late":
                self._judged(entry.type, body)
            case "batch.closed":
                self._closed(body)
            case "round.sealed":
                self._sealed(body)
            case "run.closed":
                self._run_closed(body)
            case "release.published":
                self._published(body)

    # --- the federation ------------------------------------------------------------------------------

    def _founded(self, body: Mapping[str, Any]) -> None:
        try:
            name, _ = notes.parse_verifier_key(body["log"])
        except ValueError as error:
            raise _Wrong(f"federation.founded: its log's key is {error}") from None
        if name != log_name(body["federation"]):
            raise _Wrong(f"federation.founded: the key is that of the log {name}")
        self.federation, self.log = body["federation"], body["log"]

    def _enrolled(self, body: Mapping[str, Any]) -> None:
        name, key = body["member"], body["key"]
        if not is_name(name) or len(bytes.fromhex(key)) != 32:
            raise _Wrong(f"member.enrolled: {name!r} is no member with a key")
        if key in self._revoked:
            raise _Wrong(f"member.enrolled: the keys of {name} were revoked before")
        if name in self.members:
            raise _Wrong(f"member.enrolled: {name} is a member already")
        self.members[name] = key
        self.data.pop(name, None)

    def _ended(self, type_: str, body: Mapping[str, Any]) -> None:
        name, key = body["member"], body["key"]
        if self.members.get(name) != key:
            raise _Wrong(f"{type_}: {name} is no member with these keys")
        if type_ == "member.left":
            payload = self._verified(key, name, "leave", body["statement"])
            if (payload.get("federation"), payload.get("member")) != (self.federation, name):
                raise _Wrong(f"{type_}: the statement of {name} is of another federation or member")
        self._revoked.add(key)
        del self.members[name]

    def _adopted(self, body: Mapping[str, Any]) -> None:
        digest = body["agreement"]
        held = self._blob(digest) if canonical.is_digest(digest) else None
        if held is None or canonical.digest(held) != digest:
            raise _Wrong(f"charter.adopted: the agreement {digest} is not there")
        agreement = Agreement.decode(held)
        if (agreement.federation, agreement.log) != (self.federation, self.log):
            raise _Wrong("charter.adopted: the agreement is of another federation or log")
        if agreement.charter != body["charter"]:
            raise _Wrong("charter.adopted: the agreement names another charter")
        for name, key in agreement.members.items():
            if self.members.get(name) != key:
                raise _Wrong(f"charter.adopted: {name} is no member with the keys agreed on")
        self._charters.setdefault(digest, _Charter(agreement))
        self.witnesses = agreement.members

    def _charter_signed(self, body: Mapping[str, Any]) -> None:
        charter, name = self._charters.get(body["agreement"]), body["member"]
        if charter is None or charter.agreement is None:
            raise _Wrong("charter.signed: no such agreement was adopted")
        if name in charter.signed:
            raise _Wrong(f"charter.signed: {name} has signed it before")
        charter.agreement.check_signature(name, body["statement"])
        self.signatures += 1
        charter.signed.add(name)

    def _stated(self, body: Mapping[str, Any]) -> None:
        name, document = body["member"], body["document"]
        if (key := self.members.get(name)) is None:
            raise _Wrong(f"data.stated: {name} is no member")
        if not canonical.is_digest(document) or type(body["open"]) is not bool:
            raise _Wrong(
                f"data.stated: {document!r} is no digest, or it is not said whether it is open"
            )
        said = (document, body["open"], body["statement"])
        stating.check_signed(bytes.fromhex(key), self.federation, name, *said)
        self.signatures += 1
        self.data[name] = document

    def _verified(self, key: str, name: str, kind: str, statement: Any) -> dict[str, Any]:
        raw = bytes.fromhex(key)
        payload = statements.verify(raw, name, kind, statement, self._check_signature)
        self.signatures += 1
        return payload

    # --- runs ----------------------------------------------------------------------------------------

    def _opened(self, body: Mapping[str, Any]) -> None:
        run, members = body["run"], dict(body["members"])
        if run in self._runs:
            raise _Wrong(f"run.opened: the run {run} was opened before")
        if body["federation"] != self.federation:
            raise _Wrong(f"run.opened: it is of the federation {body['federation']}")
        self._runs[run] = _Run(members, body.get("unsigned", False) is True)
        if self._runs[run].unsigned:
            _check_unsigned(body)
            return
        for name, key in members.items():
            if self.members.get(name) != key:
                raise _Wrong(f"run.opened: {name} is no member with these keys")
        if agreed := body.get("agreement", ""):
            self._check_agreed(self._charters.get(agreed), members, body["app"]["digest"])
        else:
            self.witnesses = members

    def _check_agreed(self, charter: _Charter | None, members: Mapping[str, str], app: str) -> None:
        if charter is None or (agreement := charter.agreement) is None:
            raise _Wrong("run.opened: its agreement was never adopted")
        if agreement.app != app:
            raise _Wrong(f"run.opened: its app is {app}, agreed on was {agreement.app}")
        if strangers := [n for n, key in members.items() if agreement.members.get(n) != key]:
            raise _Wrong(f"run.opened: {strangers[0]} is not in the agreement with these keys")
        if len(charter.signed) < agreement.quorum:
            signed = f"{len(charter.signed)} have signed, {agreement.quorum} must"
            raise _Wrong(f"run.opened: of its agreement {signed}")

    def _only_members(self, type_: str, run: str, names: Any) -> None:
        if strangers := sorted(set(names) - self._runs[run].members.keys()):
            raise _Wrong(f"{type_}: {strangers[0]} is no member of the run")

    def _sent(self, body: Mapping[str, Any]) -> None:
        run, number = self._runs[body["run"]], body["batch"]
        if number != run.sent + 1:
            raise _Wrong(f"batch.sent: batch {number} follows batch {run.sent}")
        run.sent = number
        run.batches[number] = _Batch(dict(orders_of(body)))
        self._only_members("batch.sent", body["run"], run.batches[number].orders.values())

    def _batch(self, type_: str, body: Mapping[str, Any]) -> _Batch:
        batch = self._runs[body["run"]].batches.get(body["batch"])
        if batch is None:
            raise _Wrong(f"{type_}: no batch {body['batch']} was sent in this run")
        return batch

    def _judged(self, type_: str, body: Mapping[str, Any]) -> None:
        batch, order, name = self._batch(type_, body), body["order"], body["member"]
        if batch.orders.get(order) != name:
            raise _Wrong(f"{type_}: no order {order} was sent to {name} in batch {body['batch']}")
        if order in batch.judged:
            raise _Wrong(f"{type_}: there is a verdict on the order {order} already")
        batch.judged.add(order)
        if batch.closed != (type_ == "reply.late"):
            state = "closed before" if batch.closed else "not closed"
            raise _Wrong(f"{type_}: batch {body['batch']} was {state}")
        if type_ == "reply.accepted":
            batch.accepted[order] = body["content"]
            self._check_reply(body)

    def _check_reply(self, body: Mapping[str, Any]) -> None:
        """DESIGN §8: a reply's statement binds federation, run, order, content and policy."""
        if self._runs[body["run"]].unsigned:
            if body["statement"] is not None:
                raise _Wrong("reply.accepted: a statement in a run that says it is unsigned")
            self.unsigned += 1
            return
        key = self._runs[body["run"]].members[body["member"]]
        said = self._verified(key, body["member"], "reply", body["statement"])
        wanted = statements.reply_payload(
            self.federation, body["run"], body["order"], body["content"], NO_POLICY
        )
        if said.keys() != wanted.keys():
            raise _Wrong("reply.accepted: its statement has other fields")
        for field_ in ("federation", "run", "order", "content"):
            if said[field_] != wanted[field_]:
                raise _Wrong(f"reply.accepted: its statement names another {field_}")

    def _closed(self, body: Mapping[str, Any]) -> None:
        batch, where = self._batch("batch.closed", body), f"batch.closed: batch {body['batch']}"
        if batch.closed:
            raise _Wrong(f"{where} was closed before")
        batch.closed = True
        aside = set(body["set_aside"])
        if not aside <= batch.accepted.keys():
            raise _Wrong(f"{where} sets aside what was not accepted")
        if body["accepted"] != {o: c for o, c in batch.accepted.items() if o not in aside}:
            raise _Wrong(f"{where} names other contributions than were accepted")
        silent = sorted(m for o, m in batch.orders.items() if o not in batch.judged)
        if sorted(body["absent"]) != silent:
            raise _Wrong(f"{where} names other members as silent")
        if not silent:
            del self._runs[body["run"]].batches[body["batch"]]

    def _sealed(self, body: Mapping[str, Any]) -> None:
        run = self._runs[body["run"]]
        if body["round"] <= run.round:
            raise _Wrong(f"round.sealed: round {body['round']} follows round {run.round}")
        run.round = body["round"]
        if body["batches"] != run.sent:
            raise _Wrong(f"round.sealed: it stands on {body['batches']} batches of {run.sent}")
        if not set(body.get("open", ())) <= run.batches.keys():
            raise _Wrong("round.sealed: it names batches that are not open")

    def _run_closed(self, body: Mapping[str, Any]) -> None:
        run = self._runs[body["run"]]
        if still := [n for n, batch in run.batches.items() if not batch.closed]:
            raise _Wrong(f"run.closed: batch {still[0]} was never closed")
        run.closed, run.model = True, body["model"]
        run.batches.clear()

    def _published(self, body: Mapping[str, Any]) -> None:
        if not canonical.is_digest(body["manifest"]):
            raise _Wrong("release.published: its manifest is no digest")
        if body["model"] != self._runs[body["run"]].model:
            raise _Wrong("release.published: its model is not the one that the run ended with")


def _check_fields(entry: Entry) -> None:
    if lacking := [name for name in _FIELDS.get(entry.type, ()) if name not in entry.body]:
        raise _Wrong(f"{entry.type}: it has no {lacking[0]}")


def _check_unsigned(body: Mapping[str, Any]) -> None:
    """A run that is unsigned stands for nobody: no keys, and nothing that anybody agreed on."""
    if body.get("agreement", ""):
        raise _Wrong("run.opened: it is unsigned, and names an agreement")
    if wrong := [n for n, key in body["members"] if key != "" or not is_name(n)]:
        raise _Wrong(f"run.opened: it is unsigned, and {wrong[0]!r} has a key or is no name")


def orders_of(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(order, member) of a `batch.sent`; `n` counts identical orders within the batch (DESIGN §6)."""
    seen: Counter[tuple[str, ...]] = Counter()
    for group in body["orders"]:
        for name in group["members"]:
            key = (name, group["type"], group["group"], group["content"])
            yield order_id(body["run"], body["batch"], *key, seen[key]), name
            seen[key] += 1


def _named(entry: Entry) -> Iterator[str]:
    """The digests of blobs that an entry names."""
    body = entry.body
    match entry.type:
        case "charter.adopted":
            yield from (body["agreement"], body["charter"])
        case "data.stated":
            yield body["document"]
        case "batch.sent":
            yield from {group["content"] for group in body["orders"]}
        case "reply.accepted":
            yield body["content"]
        case "round.sealed":
            yield from (body["model"], body["content"])
        case "run.closed":
            yield from [body["model"]] if body["named"] else []
