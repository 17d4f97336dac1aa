"""`barnraise log` on a run's directory: the history, proofs that stand alone, and everything checked."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from barnraise.coordinator.journal import Journal
from barnraise.protocols import merkle

AppMaker = Callable[..., Path]
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run of this file is kept."""
    return tmp_path_factory.mktemp("kept") / "d"


@pytest.fixture
def ran(barnraise: Command, make_odd_app: AppMaker, tmp_path: Path, kept: Path) -> Path:
    """A copy of a run of three members, of which one sends what nobody can use."""
    if not kept.exists():
        app = make_odd_app("tiny", {2: 'arrays["w"] = arrays["w"] * np.float32("nan")'})
        done = barnraise("sim", "run", app, "--sites", "3", "--dir", kept, "--json")
        assert done.code == 0, done.err
    return shutil.copytree(kept, tmp_path / "d")


def key_of(barnraise: Command) -> str:
    entries = barnraise("log", "show", "d", "--json").object["entries"]
    return str(entries[0]["body"]["log"])


def test_the_log_reads_like_a_history(barnraise: Command, ran: Path) -> None:
    shown = barnraise("log", "show", "d")
    assert shown.code == 0 and shown.err == ""
    told = [line[29:] for line in shown.out.splitlines()]
    assert told[0].startswith("Federation sim founded; its log's key is sim/log+")
    assert told[1:4] == ["site-00 enrolled", "site-01 enrolled", "site-02 enrolled"]
    assert re.fullmatch(r"Run \w+ of tiny opened; 3 members: site-00 site-01 site-02", told[4])
    assert "  site-02 refused in batch 1: M106 arrays[w] holds NaN or infinity" in told
    assert "Batch 1 closed: 2 of 3 members; all answered" in told
    assert told[-1].startswith("Run ") and " closed: the model is sha256:" in told[-1]
    later = barnraise("log", "show", "d", "--since", "4").out
    assert later == "".join(shown.out.splitlines(keepends=True)[4:])
    assert barnraise("log", "show", "d", "--since", "2999-01-01").out == ""
    assert barnraise("log", "show", "d", "--since", "2020-01-01T00:00Z").out == shown.out
    assert barnraise("log", "show", "d", "--since", "soon").code == 2


def test_everything_in_an_honest_log_checks(barnraise: Command, ran: Path) -> None:
    checked = barnraise("log", "check", "d", "--json")
    assert checked.code == 0, checked.err
    assert checked.object["ok"] and checked.object["signatures"] > 6
    lines = checked.err.splitlines()
    assert [line.split(".")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert "with 3 witnesses one colluder defeats the quorum" in lines[-1]
    assert " 0 are not kept" in lines[2]


def test_a_proof_stands_alone(barnraise: Command, ran: Path, tmp_path: Path) -> None:
    entries = barnraise("log", "show", "d", "--json").object["entries"]
    verdict = next(e for e in entries if e["type"] == "reply.refused")
    proven = barnraise("log", "prove", verdict["body"]["order"], "d", "-o", "p.tlog-proof")
    assert proven.code == 0, proven.err
    by_index = barnraise("log", "prove", str(verdict["index"]), "d")
    assert by_index.out.encode() == (tmp_path / "p.tlog-proof").read_bytes()
    key = key_of(barnraise)
    shutil.rmtree(ran)
    check = ("log", "check", "p.tlog-proof", "--key", key, "--entry")
    checked = barnraise(*check, "p.tlog-proof.entry", "--json")
    assert checked.object["index"] == verdict["index"]
    other = tmp_path / "other"
    other.write_bytes((tmp_path / "p.tlog-proof.entry").read_bytes() + b" ")
    refused = barnraise(*check, "other")
    assert refused.code == 1 and "error[L104]" in refused.err and "another root" in refused.err


def test_a_proof_needs_an_entry_and_a_key(barnraise: Command, ran: Path, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("c2sp.org/tlog-proof@v1\n")
    assert barnraise("log", "check", "p").code == 2
    assert barnraise("log", "check", "none", "--key", "k").code == 2
    refused = barnraise("log", "check", "p", "--key", key_of(barnraise), "--entry", "p")
    assert "error[L104]" in refused.err
    missing = barnraise("log", "prove", "9999", "d")
    assert missing.code == 1 and "error[L102]" in missing.err
    assert "error[L101]" in barnraise("log", "show", "nowhere").err
    (ran / "secret").unlink()
    assert barnraise("log", "prove", "1", "d").code == 0, "under the witnessed checkpoint"
    for kept in ran.glob("cosignatures.db*"):
        kept.unlink()
    unsigned = barnraise("log", "prove", "1", "d")
    assert unsigned.code == 1 and "error[L105]" in unsigned.err


def rewrite(place: Path, old: bytes, new: bytes) -> None:
    """Forge the first entry that holds `old`, and the whole tree to fit it."""
    log = Journal(place / "journal.db")
    entries = list(log.raw())
    log.close()
    index = next(i for i, data in enumerate(entries) if old in data)
    entries[index] = entries[index].replace(old, new)
    db = sqlite3.connect(place / "journal.db")
    frontier = merkle.Frontier()
    nodes = [n for data in entries for n in frontier.append(merkle.leaf_hash(data))]
    with db:
        db.execute("UPDATE entries SET entry=? WHERE idx=?", (entries[index], index))
        db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", nodes)
    db.close()


def flip_entry(place: Path) -> None:
    db = sqlite3.connect(place / "journal.db")
    with db:
        db.execute("UPDATE entries SET entry = x'7b7d' WHERE idx = 7")
    db.close()


def spoil_blob(place: Path) -> None:
    blob = next((place / "blobs" / "sha256").glob("??/*"))
    blob.write_bytes(blob.read_bytes()[:-1])


def folder_for_blob(place: Path) -> None:
    blob = next((place / "blobs" / "sha256").glob("??/*"))
    blob.unlink()
    blob.mkdir()


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "an entry that was changed": (flip_entry, "entry 7 is not what was appended"),
    "a statement that was forged": (
        lambda place: rewrite(place, b'"keyid":"site-00"', b'"keyid":"site-01"'),
        "signed as 'site-01', not as 'site-00'",
    ),
    "a member whose key was exchanged": (
        lambda place: rewrite(place, b'"member":"site-01"', b'"member":"site-09"'),
        "site-01 is no member with these keys",
    ),
    "a blob that was cut": (spoil_blob, "is damaged"),
    "a folder in a blob's place": (folder_for_blob, "is damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_hold_together_is_told(barnraise: Command, ran: Path, name: str) -> None:
    act, reason = WRONG[name]
    act(ran)
    checked = barnraise("log", "check", "d", "--json")
    assert checked.code == 1
    assert checked.object["error"] == "L103" and reason in checked.object["evidence"]
    assert "WRONG: " in checked.err


def test_the_verbs_read_beside_a_writer(barnraise: Command, ran: Path) -> None:
    """Nothing is locked out, and nothing that is not durable is seen."""
    log = Journal(ran / "journal.db")
    log._db.execute("BEGIN IMMEDIATE")
    log._db.execute("INSERT INTO entries VALUES (?, x'00', NULL)", (len(log),))
    assert barnraise("log", "check", "d", "--json").object["entries"] == len(log)
    log._db.execute("ROLLBACK")
    log.close()


def test_reading_a_log_needs_neither_torch_nor_flower() -> None:
    code = (
        "import sys, barnraise.cli.log_work, barnraise.cli.main;"
        "sys.exit(len({'torch', 'flwr', 'grpc'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_json_entries_are_the_entries(barnraise: Command, ran: Path) -> None:
    shown = barnraise("log", "show", "d", "--json").object
    log = Journal(ran / "journal.db")
    held = [{"index": i, **json.loads(data)} for i, data in enumerate(log.raw())]
    log.close()
    assert shown["entries"] == held and shown["size"] == len(held)


def before_the_run(barnraise: Command, directory: str) -> list[tuple[str, object]]:
    entries = barnraise("log", "show", directory, "--json").object["entries"]
    found = [(e["type"], e["body"]) for e in entries]
    return found[: [type_ for type_, _ in found].index("run.opened") + 1]


def test_l9_nodes_of_their_own_are_founded_and_logged_alike(
    barnraise: Command, make_app: AppMaker
) -> None:
    app = make_app()
    for directory, more in (("local", []), ("nodes", ["--processes"])):
        done = barnraise("sim", "run", app, "--sites", "2", "--dir", directory, *more)
        assert done.code == 0, done.err
        checked = barnraise("log", "check", directory, "--json")
        assert checked.code == 0, checked.err
    assert before_the_run(barnraise, "local") == before_the_run(barnraise, "nodes")
    assert barnraise("log", "prove", "4", "nodes").out.startswith("c2sp.org/tlog-proof@v1\n")
