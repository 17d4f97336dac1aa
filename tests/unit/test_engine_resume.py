"""Killed at every entry of the journal and at every commit of the members, then run again: the same end.

The kill is an exception that nothing catches; `tests/faults` does the same with SIGKILL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apps
import pytest
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from barnraise.coordinator import directory
from barnraise.coordinator.journal import Journal
from barnraise.coordinator.members import MemberStore
from barnraise.coordinator.recorder import NoRecorder, recorder
from barnraise.protocols import merkle
from barnraise.protocols.entries import Entry
from barnraise.protocols.errors import BarnraiseError
from barnraise.testing import Federation, Run

SERVERS: dict[str, Callable[[], ServerApp]] = {
    "flower's FedAvg": apps.server_app,
    "push and pull": apps.everything,
    "seals": apps.sealing,
}
CONFIG = {"rounds": 2}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the engine or of an app catches it."""


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power, so nothing need be synced."""
    original = directory._open
    monkeypatch.setattr(
        directory,
        "_open",
        lambda root, failpoint, durable: original(root, failpoint, durable=False),
    )


def federation(**options: Any) -> Federation:
    return Federation(members=2, **options)


def at(moment: str, index: int) -> Callable[[str, int], None]:
    def failpoint(now: str, number: int) -> None:
        if (now, number) == (moment, index):
            raise Killed

    return failpoint


def run(
    place: Path,
    server: ServerApp,
    calls: list[str] | None = None,
    failpoint: Callable[[str, int], None] | None = None,
    fed: Federation | None = None,
) -> Run:
    fed = fed or federation()
    plan = fed.plan(server, apps.client_app(calls), CONFIG)
    return fed.execute(plan, place, failpoint=failpoint or at("never", -1))


def entries(place: Path) -> list[Entry]:
    log = Journal(place / "journal.db", failpoint=at("never", -1))
    try:
        return [entry for _, entry in log.entries()]
    finally:
        log.close()


def nth(place: Path, type_: str, count: int = 1) -> int:
    """The index of the entry of this type that is the `count`-th."""
    return [i for i, e in enumerate(entries(place)) if e.type == type_][count - 1]


def facts(found: list[Entry]) -> Iterator[tuple[str, Any]]:
    """What the entries say, without the time and without the sequence of verdicts."""
    for entry in found:
        if entry.type == "batch.closed":
            yield entry.type, entry.body


@pytest.mark.parametrize("name", SERVERS)
def test_killed_at_any_entry_the_run_ends_as_if_nobody_had(tmp_path: Path, name: str) -> None:
    server = SERVERS[name]
    whole = run(tmp_path / "whole", server())
    count = len(entries(tmp_path / "whole"))
    assert count >= 13
    for index in range(count):
        for moment in ("before", "after"):
            place = tmp_path / f"{moment}-{index}"
            with pytest.raises(Killed):
                run(place, server(), failpoint=at(moment, index))
            before = entries(place)
            assert len(before) <= index if moment == "before" else len(before) > index
            calls: list[str] = []
            again = run(place, server(), calls)
            assert again.digest == whole.digest, (moment, index)
            after = entries(place)
            assert after[: len(before)] == before
            assert list(facts(after)) == list(facts(entries(tmp_path / "whole")))
            accepted = {e.body["order"] for e in before if e.type == "reply.accepted"}
            assert accepted.isdisjoint(calls)
            if whole.outcome.report or name == "flower's FedAvg":
                assert (place / "model.safetensors").is_file()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_commit_of_the_members_the_run_ends_as_if_nobody_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole = run(tmp_path / "whole", apps.everything())
    original = MemberStore.commit
    commits = 0

    def count(self: MemberStore) -> None:
        nonlocal commits
        commits += 1
        if moment == "before" and commits == deadly:
            raise Killed
        original(self)
        if moment == "after" and commits == deadly:
            raise Killed

    monkeypatch.setattr(MemberStore, "commit", count)
    for deadly in range(1, 100):
        commits, place = 0, tmp_path / f"commit-{deadly}"
        try:
            run(place, apps.everything())
        except Killed:
            commits = -1000
            assert run(place, apps.everything()).digest == whole.digest
        else:
            break
    assert 4 < deadly < 100


def test_killed_again_and_again_it_still_comes_to_its_end(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", apps.everything())
    place, kills = tmp_path / "run", 0

    while True:
        size = len(entries(place)) if (place / "journal.db").exists() else 0
        try:
            ended = run(place, apps.everything(), failpoint=at("after", size))
            break
        except Killed:
            kills += 1
    assert ended.digest == whole.digest
    assert kills > 10


def test_faults_strike_in_their_round_whoever_was_killed_before(tmp_path: Path) -> None:
    fed = federation()
    fed.drop("site-01", round=2)
    whole = run(tmp_path / "whole", apps.sealing(), fed=fed)
    assert [b.absent for b in whole.rounds] == [{}, {"site-01": "no reply before the batch closed"}]
    for index in range(len(entries(tmp_path / "whole"))):
        place = tmp_path / str(index)
        with pytest.raises(Killed):
            run(place, apps.sealing(), failpoint=at("after", index), fed=fed)
        assert run(place, apps.sealing(), fed=fed).digest == whole.digest


# --- replay without any client --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_a_replay_needs_no_client_and_ends_in_the_same_digest(tmp_path: Path, name: str) -> None:
    whole = run(tmp_path / "run", SERVERS[name]())
    before = entries(tmp_path / "run")
    calls: list[str] = []
    fed = federation()
    again = fed.run(
        SERVERS[name](), apps.client_app(calls), CONFIG, directory=tmp_path / "run", replay=True
    )
    assert again.digest == whole.digest and calls == []
    assert entries(tmp_path / "run") == before
    assert all(batch.replayed for batch in again.batches)


def test_a_replay_that_ends_elsewhere_says_so(tmp_path: Path) -> None:
    def server(extra: float) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            recorder(grid).finish(apps.initial() if extra == 0 else apps.mean([]), {})

        return app

    run(tmp_path / "run", server(0.0))
    with pytest.raises(BarnraiseError) as other:
        federation().run(
            server(1.0), apps.client_app(), CONFIG, directory=tmp_path / "run", replay=True
        )
    assert other.value.code == "R102"


def test_an_unfinished_run_cannot_be_replayed(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", apps.everything(), failpoint=at("after", 12))
    with pytest.raises(BarnraiseError) as unfinished:
        federation().run(
            apps.everything(), apps.client_app(), CONFIG, directory=tmp_path / "run", replay=True
        )
    assert unfinished.value.code == "R103"


def test_a_finished_run_is_shown_not_repeated_and_gets_its_model_file_back(tmp_path: Path) -> None:
    whole = run(tmp_path / "run", apps.sealing())
    (tmp_path / "run" / "model.safetensors").unlink()
    calls: list[str] = []
    again = run(tmp_path / "run", apps.sealing(), calls)
    assert again.outcome.finished_before and again.digest == whole.digest and calls == []
    assert (tmp_path / "run" / "model.safetensors").is_file()


# --- seals ---------------------------------------------------------------------------------------------


def test_resume_goes_on_behind_the_seal_without_running_earlier_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    fed, long = federation(), {"rounds": 6}
    whole = fed.run(apps.sealing(), apps.client_app(), long, directory=tmp_path / "whole")
    seals = [i for i, e in enumerate(entries(tmp_path / "whole")) if e.type == "round.sealed"]
    plan = fed.plan(apps.sealing(), apps.client_app(), long)
    with pytest.raises(Killed):
        fed.execute(plan, place, failpoint=at("after", seals[3] + 1))
    read: list[int] = []
    original = Journal._checked

    def spy(self: Journal, row: tuple[int, bytes, bytes], expected: int) -> tuple[int, bytes]:
        read.append(row[0])
        return original(self, row, expected)

    monkeypatch.setattr(Journal, "_checked", spy)
    done: list[int] = []
    plan = fed.plan(apps.sealing(done), apps.client_app(), long)
    assert fed.execute(plan, place).digest == whole.digest
    assert done == [5, 6]
    opened = nth(place, "run.opened")
    earlier = [
        i for i in read[: read.index(seals[3]) + 1] if i > opened + 2
    ]  # it looks ahead by two
    assert min(earlier) >= seals[3], "what lies before the seal was read"


def test_randomness_starts_anew_at_each_seal(tmp_path: Path) -> None:
    """The server's generators draw differently before and after a kill; a seal must undo that."""
    drawn: list[float] = []

    def server() -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            own = recorder(grid)
            seal = own.resume()
            for number in range(seal.round + 1 if seal else 1, 3):
                drawn.append(float(apps.np.random.random()) + apps.random.random())
                own.seal(number, apps.initial(), apps.RecordDict(), {})
            own.finish(apps.initial(), {})

        return app

    run(tmp_path / "whole", server())
    whole = drawn.copy()
    assert whole[0] != whole[1]
    drawn.clear()
    first = nth(tmp_path / "whole", "round.sealed")
    with pytest.raises(Killed):
        run(tmp_path / "run", server(), failpoint=at("after", first))
    drawn.clear()
    run(tmp_path / "run", server())
    assert drawn == whole[1:]


def test_a_seal_with_batches_in_flight_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    done: list[str] = []

    def server() -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            own = recorder(grid)
            resumed = own.resume()
            done.append(f"from {resumed.round if resumed else 0}")
            nodes = list(grid.get_node_ids())
            ask = apps.RecordDict({"config": apps.ConfigRecord({"a": 1})})
            if resumed is None:
                waiting = set(
                    grid.push_messages([apps.Message(ask, n, "query.name") for n in nodes])
                )
                own.seal(1, apps.initial(), apps.RecordDict(), {})
                while waiting:
                    for reply in grid.pull_messages(waiting):
                        waiting.discard(reply.metadata.reply_to_message_id)

        return app

    whole = run(tmp_path / "whole", server())
    found = entries(tmp_path / "whole")
    sealed = next(i for i, e in enumerate(found) if e.type == "round.sealed")
    with pytest.raises(Killed):
        run(tmp_path / "run", server(), failpoint=at("after", sealed))
    assert run(tmp_path / "run", server()).digest == whole.digest
    assert done == ["from 0"] * 3


def test_what_the_batches_before_a_seal_came_to_is_not_forgotten(tmp_path: Path) -> None:
    """The digest of an app that names no model, and whether every member failed, count all batches."""

    def server(done: list[int]) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            own = recorder(grid)
            seal = own.resume()
            for number in range(seal.round + 1 if seal else 1, 3):
                done.append(number)
                content = apps.RecordDict({"arrays": apps.initial()})
                nodes = list(grid.get_node_ids())
                list(grid.send_and_receive([apps.Message(content, n, "train") for n in nodes]))
                own.seal(number, apps.initial(), apps.RecordDict(), {})

        return app

    fed = federation()
    fed.poison("site-00", round=2)
    fed.poison("site-01", round=2)
    done: list[int] = []
    whole = run(tmp_path / "whole", server(done), fed=fed)
    assert [len(batch.accepted) for batch in whole.rounds] == [2, 0]
    sealed = [i for i, e in enumerate(entries(tmp_path / "whole")) if e.type == "round.sealed"]
    with pytest.raises(Killed):
        run(tmp_path / "run", server(done), failpoint=at("after", sealed[0] + 1), fed=fed)
    assert run(tmp_path / "run", server(done), fed=fed).digest == whole.digest
    assert done == [1, 2, 1, 2, 2]


def test_a_damaged_seal_is_not_gone_on_from(tmp_path: Path) -> None:
    run(tmp_path / "whole", apps.sealing())
    sealed = nth(tmp_path / "whole", "round.sealed")
    with pytest.raises(Killed):
        run(tmp_path / "run", apps.sealing(), failpoint=at("after", sealed))
    seal = next(e for e in entries(tmp_path / "run") if e.type == "round.sealed")
    blob = seal.body["model"]
    path = tmp_path / "run" / "blobs" / "sha256" / blob[7:9] / blob[9:]
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BarnraiseError) as damaged:
        run(tmp_path / "run", apps.sealing())
    assert damaged.value.code == "D106"


def test_on_flowers_own_grids_the_recorder_does_nothing() -> None:
    class Theirs:
        """A grid that is not ours."""

    own = recorder(Theirs())  # type: ignore[arg-type]
    assert isinstance(own, NoRecorder)
    assert own.resume() is None
    own.rule(apps.FedAvg())
    own.seal(1, apps.initial(), apps.RecordDict(), {})
    own.finish(apps.initial(), {})


# --- directories that are not this run's ------------------------------------------------------------------


def test_another_config_seed_or_membership_is_refused_naming_both(tmp_path: Path) -> None:
    run(tmp_path / "run", apps.sealing())
    other = {"rounds": 9}
    for fed, config, said in (
        (federation(), other, ["config rounds: the directory has 2, this command 9"]),
        (federation(seed=5), CONFIG, ["seed: the directory has 0, this command 5"]),
        (Federation(members=3), CONFIG, ["2 members", "3 members"]),
        (federation(quorum=1), CONFIG, ["rounds.quorum: the directory has none, this command 1"]),
    ):
        with pytest.raises(BarnraiseError) as another:
            fed.run(apps.sealing(), apps.client_app(), config, directory=tmp_path / "run")
        assert another.value.code == "D101"
        assert all(words in another.value.evidence for words in said)
        assert "\n" not in another.value.evidence, "nothing that is the same is told"
    assert run(tmp_path / "run", apps.sealing()).outcome.finished_before


def test_a_lost_journal_is_not_taken_for_a_new_run(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "run", apps.sealing(), failpoint=at("after", 10))
    for file in (tmp_path / "run").glob("journal.db*"):
        file.unlink()
    with pytest.raises(BarnraiseError) as lost:
        run(tmp_path / "run", apps.sealing())
    assert lost.value.code == "D106" and "lost" in lost.value.what


def test_a_replay_checks_the_whole_record(tmp_path: Path) -> None:
    """Even where an entry was rewritten together with its leaf."""
    run(tmp_path / "run", apps.sealing())
    db = sqlite3.connect(tmp_path / "run" / "journal.db")
    with db:
        rows = db.execute("SELECT idx, entry FROM entries").fetchall()
        index, data = next(row for row in rows if b'"all answered"' in row[1])
        forged = data.replace(b'"all answered"', b'"all Answered"')
        leaf = merkle.leaf_hash(forged)
        db.execute("UPDATE entries SET entry=? WHERE idx=?", (forged, index))
        db.execute("UPDATE nodes SET hash=? WHERE level=0 AND idx=?", (leaf, index))
    db.close()
    with pytest.raises(BarnraiseError) as damaged:
        federation().run(
            apps.sealing(), apps.client_app(), CONFIG, directory=tmp_path / "run", replay=True
        )
    assert damaged.value.code == "D106"
