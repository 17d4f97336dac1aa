"""An app that its site approved and that means harm: what it tries fails, and the try is on record."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_kit import Delivered, wait_until
from site_kit import RUN, Federation, Institution, institution

from barnraise.client.node import frames, landlock
from barnraise.client.node.plain import UNSAID
from barnraise.protocols.content import Values

HARM = """
import socket, subprocess
CODE = os.path.dirname(os.path.dirname(__file__))

def tried(what):
    try:
        return str(what())
    except BaseException as error:
        return "! " + type(error).__name__

def harm():
    open("/proc/self/maps").close()  # no harm: torch reads it when it is imported
    found = {}
    found["key"] = tried(lambda: open(HOME + "/identity.key").read())
    found["secret"] = tried(lambda: open(HOME + "/secret", "rb").read())
    found["key by another program"] = tried(
        lambda: subprocess.run(["cat", HOME + "/identity.key"], capture_output=True, check=True).stdout
    )
    found["socket"] = tried(lambda: socket.socket().connect(("127.0.0.1", PORT)))
    found["datagram"] = tried(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", PORT)))
    found["node.sock"] = tried(lambda: socket.socket(socket.AF_UNIX).connect(HOME + "/node.sock"))
    found["other data"] = tried(lambda: open(OTHER).read())
    found["written beside the data"] = tried(lambda: open(DATA + "/new", "w").write("x"))
    found["written to the code"] = tried(lambda: open(CODE + "/tiny/client.py", "a").write("#"))
    found["written to the spool"] = tried(lambda: open(HOME + "/spool/current.json", "w").write("{}"))
    found["written to the user's"] = tried(lambda: open(os.path.dirname(HOME) + "/mine", "w").write("x"))
    found["link"] = tried(lambda: os.symlink(HOME + "/identity.key", HOME + "/spool/outgoing/link"))
    found["namespace"] = tried(lambda: subprocess.run(["unshare", "-U", "true"], check=True))
    found["the approved data"] = tried(lambda: open(DATA + "/ward.csv").read())
    found["scratch"] = tried(lambda: open(os.environ["HOME"] + "/x", "w").write("x"))
    print(dict(os.environ), flush=True)
    found["environment"] = " ".join(sorted(os.environ))
    return found

config = message.content["config"]
if config["n"] == 1:
    raise type("Patient_4711_has_" + open(DATA + "/ward.csv").read(), (Exception,), {})("quoted")
if config["n"] == 2:
    raise ValueError("quoted: " + open(DATA + "/ward.csv").read())
if config["n"] == 3:
    os.mkdir(HOME + "/spool/outgoing/folder")
    os.mkfifo(HOME + "/spool/outgoing/" + "f" * 64)
return harm()
"""


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


def said(reply: Delivered) -> dict[str, Any]:
    (record,) = [r for name, r in reply.envelope.records if name == "said"]
    assert isinstance(record, Values)
    return dict(record.items)


def deed(body: str) -> str:
    """`body` as an inner function, since what it returns is what the handler says."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return f"def look():\n{indented}\nreturn look()"


def reason(reply: Delivered) -> str:
    assert reply.envelope.failure is not None
    return reply.envelope.failure.reason


@pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no landlock")
def test_an_app_that_means_harm(federation: Federation, site: Institution, tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other.csv"
    data.mkdir()
    (data / "ward.csv").write_text("diabetes")
    other.write_text("of another project")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        facts = {"HOME": str(site.home), "DATA": str(data), "OTHER": str(other), "PORT": port}
        head = "".join(f"{name} = {value!r}\n" for name, value in facts.items())
        site.policy(f"[data]\ndirectories = ['{data}']\n[isolation]\nrequired = true\n")
        agreement = federation.propose(deed(head + HARM))
        site.start(SECRET_TOKEN="hidden")
        wait_until(lambda: (site.proposal(agreement) / "proposal.json").exists())
        site.command("approve", agreement)
        federation.signed()
        federation.open_run(agreement)
        federation.until(lambda: any(s["hello"].run == RUN for s in federation.sessions))
        found = said(federation.delivered(federation.order(1.0)))
    works = {name for name, what in found.items() if not what.startswith("!")}
    assert works == {"the approved data", "scratch", "environment"}
    assert found["the approved data"] == "diabetes"
    assert "SECRET_TOKEN" not in found["environment"]
    assert "hidden" not in site.worker_log

    log = site.log
    for tried in (
        f"the code tried: read {site.home}/identity.key",
        f"the code tried: read {other}",
        f"the code tried: write {data}/new",
        "the code tried: socket of family 2",
        f"the code tried: write {site.home}/spool/current.json",
    ):
        assert tried in log, tried
    assert "tried: read /proc" not in log, "what may be read is no try"
    assert site.command("status")["tries"] >= 5

    assert reason(federation.delivered(federation.order(1.0, config={"n": 1}))) == UNSAID
    plain = reason(federation.delivered(federation.order(1.0, config={"n": 2})))
    assert plain.startswith("ValueError at client.py:")
    federation.delivered(federation.order(1.0, config={"n": 3}))
    federation.delivered(federation.order(1.0))
    assert "diabetes" not in json.dumps(
        [row for row in site.command("sent")["sent"] if row["kind"] == "error"]
    )
    assert site.processes[-1].poll() is None


REFUSING = """
import sys
from barnraise.client.node import landlock, worker
landlock.confine = lambda *paths, tcp: "this kernel has no landlock"
sys.exit(worker.main(sys.argv[1:]))
"""


def test_where_isolation_is_required_and_lacks_nothing_is_loaded(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    orders = {"home": str(tmp_path), "parent": os.getpid(), "memory": None}
    orders |= {"confined": True, "required": True, "reading": [], "writing": []}
    command = [sys.executable, "-P", "-c", REFUSING, str(theirs.fileno()), json.dumps(orders)]
    with ours, theirs:
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        ours.settimeout(60)
        heard = frames.receive(ours)
        assert heard is not None
        assert heard["said"] == "refused"
        assert heard["hindered"]["files"] == "this kernel has no landlock"
        assert frames.receive(ours) is None
        assert process.wait(60) == 0
