"""A site that has joined: it learns, waits for its admin, runs what was approved and holds to its policy.

One coordinator and one node's directory for the file, where a test needs no state of its own.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import RUN, ended, wait_until
from site_kit import Federation, Institution, institution

from barnraise.client.node.sent import FILE, listed
from barnraise.protocols import statements
from barnraise.protocols.agreements import Agreement


@pytest.fixture
def federation() -> Iterator[Federation]:
    made = Federation()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, federation: Federation) -> Iterator[Institution]:
    with institution(tmp_path, federation) as made:
        yield made


def working(federation: Federation, site: Institution, deed: str = "pass", **more: Any) -> str:
    """The node has approved the app with this deed, and attends a run of it; the agreement."""
    agreement = federation.propose(deed, **more)
    site.start()
    wait_until(lambda: (site.proposal(agreement) / "proposal.json").exists())
    site.command("approve", agreement)
    federation.signed()
    federation.open_run(agreement)
    federation.until(lambda: any(s["hello"].run == RUN for s in federation.sessions))
    return agreement


def test_from_proposal_to_model_and_out_again(federation: Federation, site: Institution) -> None:
    process = site.start()
    federation.attended()
    waits = site.command("status")
    assert (waits["running"], waits["connected"], waits["run"]) == (True, True, "")
    agreement = federation.propose()
    wait_until(lambda: (site.proposal(agreement) / "proposal.json").exists())
    folder = site.proposal(agreement)
    assert stat.S_IMODE((folder / "app" / "tiny" / "client.py").stat().st_mode) == 0o400
    assert not list(folder.rglob("__pycache__"))
    assert "waits for this site's approval" in site.command("status")["waits"]
    shown = site.command("review")
    assert shown["agreement"] == agreement
    assert "tiny.client:app" in shown["charter_text"]
    assert [f["path"] for f in shown["files"]] == ["tiny/__init__.py", "tiny/client.py"]

    site.command("approve", agreement[:15])
    held = Agreement.decode((folder / "agreement.json").read_bytes())
    held.check_signature("basel", federation.signed())
    federation.open_run(agreement)
    order = federation.order(2.0)
    reply = federation.delivered(order)
    payload = statements.verify(
        bytes.fromhex(held.members["basel"]), "basel", "reply", reply.statement
    )
    assert payload["policy"] == statements.NO_POLICY
    federation.receipt(order)
    wait_until(lambda: not site.kept()["replies"])
    assert site.command("status")["run"] == RUN
    assert not list(folder.rglob("__pycache__"))

    federation.close_run()
    wait_until(lambda: site.command("status")["run"] == "")
    left = site.command("leave", "--yes")
    assert left["left"]["models"] == ["tiny-1: rounds 1-3"]
    statement = federation.signed("leave")
    said = statements.verify(bytes.fromhex(held.members["basel"]), "basel", "leave", statement)
    assert (said["federation"], said["member"]) == ("barn", "basel")
    assert process.wait(60) == 0
    kinds = {row["kind"] for row in site.command("sent")["sent"]}
    assert {"hello", "state", "statement", "reply"} <= kinds
    (row,) = [r for r in site.command("sent")["sent"] if r["kind"] == "reply"]
    assert (row["what"], row["digest"], row["run"], row["under"]) == (
        order,
        reply.content,
        RUN,
        agreement,
    )
    assert row["detail"]["metrics"]["num-examples"] == 3


def test_one_changed_byte_is_refused_and_the_site_stays_there(
    federation: Federation, site: Institution
) -> None:
    agreement = federation.propose()
    site.start()
    client = site.proposal(agreement) / "app" / "tiny" / "client.py"
    wait_until(client.exists)
    site.command("approve", agreement)
    federation.signed()
    client.chmod(0o600)
    client.write_bytes(client.read_bytes() + b" ")
    federation.open_run(agreement)
    why = federation.held("P103")
    assert "what lies in" in why
    assert not (site.home / "logs" / "worker.log").exists()
    assert "is refused" in site.command("status")["waits"]
    assert site.command("review", agreement, ok=False)["error"] == "P103"
    client.write_bytes(client.read_bytes()[:-1])
    site.command("resume")
    federation.delivered(federation.order(1.0))


def test_a_change_of_the_code_is_asked_for_again_and_shown(
    federation: Federation, site: Institution
) -> None:
    working(federation, site)
    other = federation.propose("print('other', flush=True)", tiny__more_py="x = 1\n")
    wait_until(lambda: (site.proposal(other) / "proposal.json").exists())
    shown = site.command("review", other)
    assert {f["path"]: f["change"] for f in shown["files"]} == {
        "tiny/__init__.py": "same",
        "tiny/client.py": "changed",
        "tiny/more.py": "added",
    }
    assert "+    print('other', flush=True)" in shown["diff"]
    federation.open_run(other)
    federation.until(lambda: not federation.sessions[-1]["hello"].run)
    assert other not in federation.sessions[-1]["hello"].agreements


def test_a_paused_site_is_held_and_goes_on(federation: Federation, site: Institution) -> None:
    working(federation, site)
    site.command("pause", "--why", "the cluster is being moved")
    assert "the cluster is being moved" in federation.held("paused")
    order = federation.order(1.0)
    assert "held back" in site.command("status")["waits"]
    assert not federation.deliveries
    site.command("resume")
    federation.delivered(order)


def test_a_policy_holds_back_and_a_wrong_one_holds_everything(
    federation: Federation, site: Institution
) -> None:
    site.policy("[limits]\nrounds_a_day = 1\n[consent]\neach_run = true\n")
    working(federation, site)
    federation.held("waits for this site's approval")
    site.command("approve", RUN)
    first = federation.delivered(federation.order(1.0))
    assert first.statement
    second = federation.order(2.0)
    assert "until" in federation.held("1 rounds were worked on today")
    site.policy("[limits]\nrounds_a_day = 0\n")
    federation.held("no policy")
    assert site.command("policy", "show", ok=False)["error"] == "P101"
    site.policy("[limits]\nrounds_a_day = 9\n")
    reply = federation.delivered(second)
    key = bytes.fromhex(Agreement.decode(_agreement(site)).members["basel"])
    policy = statements.verify(key, "basel", "reply", reply.statement)["policy"]
    assert policy == site.command("policy", "show")["digest"] != statements.NO_POLICY


def _agreement(site: Institution) -> bytes:
    (folder,) = [p for p in (site.home / "proposals").iterdir() if not p.name.startswith(".")]
    return (folder / "agreement.json").read_bytes()


def test_what_is_too_large_or_too_much_does_not_leave(
    federation: Federation, site: Institution
) -> None:
    site.policy("[limits]\nupdate_norm = 1.5\n")
    deed = (
        "config = message.content['config']\n"
        "if config['n'] == 1:\n"
        "    np.random.random = lambda: 100.0\n"
        "else:\n"
        "    np.random.random = lambda: 0.5"
    )
    working(federation, site, deed)
    small = federation.delivered(federation.order(1.0, size=4))
    assert small.envelope.failure is None
    large = federation.delivered(federation.order(1.0, size=4, config={"n": 1}))
    assert large.envelope.failure is not None
    assert large.envelope.failure.reason == "this site's policy forbids its reply to leave"
    assert "has the norm 200" in site.log
    federation.receipt(small.order)
    site.policy("[limits]\nbytes_out_a_day = '1 kB'\n")
    order = federation.order(1.0, size=100_000)
    forbidden = federation.delivered(order)
    assert forbidden.envelope.failure is not None
    assert "N323" in site.log


def test_draining_finishes_and_ends(federation: Federation, site: Institution) -> None:
    working(federation, site)
    order = federation.order(1.0)
    federation.delivered(order)
    assert site.command("drain")["running"]
    assert site.processes[-1].poll() is None
    federation.receipt(order)
    assert site.processes[-1].wait(60) == 0


def test_without_a_daemon_the_same_is_done_in_the_files(
    federation: Federation, site: Institution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement = federation.propose()
    process = site.start()
    wait_until(lambda: (site.proposal(agreement) / "proposal.json").exists())
    assert ended(process) == 0
    assert not (site.home / "node.sock").exists()
    told = site.command("status")
    assert told["running"] is False
    assert "no node runs here" in told["waits"]
    assert site.command("approve", "tiny")["running"] is False
    assert site.command("approve", "nothing", ok=False)["error"] == "P102"
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf '[limits]\\nrounds_a_day = 3\\n' > \"$1\"\n")
    editor.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(editor))
    site.command("policy", "edit")
    assert site.command("policy", "show")["policy"]["limits"]["rounds_a_day"] == 3
    editor.write_text('#!/bin/sh\necho nonsense > "$1"\n')
    assert site.command("policy", "edit", ok=False)["error"] == "P101"
    assert site.command("policy", "show")["policy"]["limits"]["rounds_a_day"] == 3
    editor.write_text(
        '#!/bin/sh\ngrep -q nonsense "$1" && printf \'[limits]\\nrounds_a_day = 3\\n\' > "$1"\n'
    )
    site.command("policy", "edit")
    assert not (site.home / "policy.toml.draft").exists()
    federation.open_run(agreement)
    site.start()
    federation.signed()
    federation.delivered(federation.order(1.0))
    assert [r.kind for r in listed(site.home / FILE)].count("reply") == 1


@pytest.mark.parametrize("lie", ["path", "file", "key", "size"])
def test_a_proposal_that_lies_is_not_looked_at(
    federation: Federation, site: Institution, lie: str
) -> None:
    agreement = federation.propose()
    said = federation.asked[agreement]
    match lie:
        case "path":
            said.files[0].path = "../../approved.json"
        case "file":
            federation.material[said.files[1].digest] += b"# more"
        case "key":
            changed = json.loads(said.agreement)
            changed["members"]["basel"] = "0" * 64
            said.agreement = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        case "size":
            said.files[0].size = 2**60
    site.start()
    if lie == "file":
        wait_until(lambda: "is not it" in site.command("status")["coordinator"]["trouble"])
    else:
        wait_until(lambda: site.command("status")["coordinator"]["asked"])
        (one,) = site.command("status")["coordinator"]["asked"]
        assert one["fault"]
    assert not site.proposal(agreement).exists()
    assert site.command("approve", agreement, ok=False)["error"] == "P102"
