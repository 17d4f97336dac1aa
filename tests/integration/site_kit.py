"""A scripted coordinator that asks for agreements too, and a site that its admin holds with the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
from node_kit import CLIENT, FEDERATION, IDENTITY, MEMBER, RUN, Coordinator, Site, enrolled

from barnraise.cli.main import run
from barnraise.protocols import federation_pb2 as pb
from barnraise.protocols.agreements import Agreement, Work
from barnraise.protocols.apps import app_digest
from barnraise.protocols.canonical import digest
from barnraise.protocols.federation_pb2_grpc import (
    MembershipServicer,
    add_MembershipServicer_to_server,
)
from barnraise.protocols.identity import simulated_key

KEYS = {
    MEMBER: IDENTITY.public_key().public_bytes_raw().hex(),
    "berlin": simulated_key(b"k" * 32, "berlin").public_key().public_bytes_raw().hex(),
}


class Federation(Coordinator, MembershipServicer):
    """`run` is the agreement under which the run is open, or ""; sessions between runs are welcomed idle."""

    def __init__(self) -> None:
        super().__init__()
        self.material: dict[str, bytes] = {}
        self.asked: dict[str, pb.Proposal] = {}
        self.statements: list[tuple[str, dict[str, Any]]] = []
        self.run = ""
        self.apps: dict[str, str] = {}

    def add_services(self, server: grpc.Server) -> None:
        add_MembershipServicer_to_server(self, server)

    def welcomed(self, hello: pb.Hello) -> dict[str, Any]:
        if self.run and self.run in hello.agreements:
            return {"agreement": self.run}
        return {"run": "", "run_id": ""}

    def propose(
        self, deed: str = "pass", rounds: int | None = None, name: str = "tiny", **files: str
    ) -> str:
        """Ask for an agreement on the app whose training begins with `deed`; the agreement's digest."""
        indented = "\n".join(f"    {line}" for line in deed.splitlines())
        client = CLIENT.replace("    pass\n", indented + "\n").replace(NOTE, QUIET)
        code = {"tiny/__init__.py": b"", "tiny/client.py": client.encode()}
        code |= {
            path.replace("__", "/").replace("_py", ".py"): text.encode()
            for path, text in files.items()
        }
        text = Work(name, "tiny.client:app", {"n": 1}, rounds).text().encode()
        vkey = self.membership().log_key
        agreement = Agreement(FEDERATION, vkey, digest(text), app_digest(code), KEYS, 2)
        return self.ask(agreement, text, code, name)

    def ask(self, agreement: Agreement, text: bytes, code: Mapping[str, bytes], name: str) -> str:
        said = pb.Proposal(
            agreement=agreement.encode(),
            name=name,
            adopted=f"2026-03-04T05:06:{len(self.asked):02d}Z",
            charter_size=len(text),
            files=[pb.AppFile(path=p, digest=digest(d), size=len(d)) for p, d in code.items()],
        )
        with self.changed:
            self.material |= {digest(text): text} | {digest(d): d for d in code.values()}
            self.asked[agreement.digest] = said
            self.apps[agreement.digest] = agreement.app
        self.notice()
        return agreement.digest

    def notice(self) -> None:
        with self.changed:
            self._tell(pb.ToNode(notice=pb.Notice(what="proposals")))

    def open_run(self, agreement: str) -> None:
        """From now on the run is open; sessions begin again, as when a coordinator does."""
        with self.changed:
            self.run, self.app, self.opened = agreement, self.apps[agreement], None
        self.cut_session()

    def close_run(self) -> None:
        with self.changed:
            self.run = ""
        self.dismiss("finished")

    def signed(self, kind: str = "charter", count: int = 1) -> dict[str, Any]:
        """Wait for so many statements of this kind; the last."""
        found = self.until(
            lambda: (f := [s for k, s in self.statements if k == kind]) and len(f) >= count and f
        )
        return dict(found[-1])

    def held(self, words: str) -> str:
        """Wait until the newest state is held with these words; the reason."""

        def last() -> str:
            states = [m.state for m in self.said if m.HasField("state")]
            return states[-1].held if states and words in states[-1].held else ""

        return str(self.until(last))

    # --- Membership -----------------------------------------------------------------------------

    def Proposals(
        self, request: pb.ProposalsRequest, context: grpc.ServicerContext
    ) -> pb.ProposalList:
        with self.changed:
            return pb.ProposalList(proposals=list(self.asked.values()))

    def Material(
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.Chunk]:
        yield pb.Chunk(data=self.material[request.digest][request.offset :])

    def Sign(self, request: pb.Signed, context: grpc.ServicerContext) -> pb.SignReply:
        self._heard("charter", request)
        return pb.SignReply(signed=1, quorum=2)

    def Leave(self, request: pb.Signed, context: grpc.ServicerContext) -> pb.LeaveReply:
        self._heard("leave", request)
        return pb.LeaveReply(models=["tiny-1: rounds 1-3"])

    def _heard(self, kind: str, request: pb.Signed) -> None:
        with self.changed:
            self.statements.append((kind, json.loads(request.statement)))
            self.changed.notify_all()


NOTE = 'with open(context.node_config["notes"], "a") as file:\n        file.write(text + "\\n")'
QUIET = "print(text, flush=True)"


class Institution(Site):
    """A site whose admin speaks with `barnraise node …`."""

    def command(self, *words: str, ok: bool = True) -> dict[str, Any]:
        """What `barnraise node WORDS --json` says; its exit status has to be what `ok` says."""
        out = StringIO()
        code = run(["node", *words, "--dir", str(self.home), "--json"], out)
        assert (code == 0) == ok, out.getvalue()
        return json.loads(out.getvalue())  # type: ignore[no-any-return]

    def policy(self, text: str) -> None:
        (self.home / "policy.toml").write_text(text)

    def proposal(self, agreement: str) -> Path:
        return self.home / "proposals" / agreement[7:]


@contextmanager
def institution(place: Path, coordinator: Federation) -> Iterator[Institution]:
    """A site that has joined and approved nothing; its processes have ended afterwards."""
    enrolled(place / "node", coordinator)
    made = Institution(place / "node", coordinator, place / "notes")
    try:
        yield made
    finally:
        made.end()


__all__ = ["RUN", "Federation", "Institution", "institution"]
