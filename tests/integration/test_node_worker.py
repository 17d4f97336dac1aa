"""What a worker cannot reach, what it cannot do to its node, and that nothing of it is left over."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from node_kit import Coordinator, Delivered, Site, ended, in_directory, node_site, wait_until

from barnraise.client.node import node
from barnraise.protocols import flower
from barnraise.protocols.content import Failure, Values

TWICE = Failure(flower.CRASHED, "the worker died twice over this order")

LOOK_AROUND = """
import json
found = {"environment": sorted(os.environ), "files": [], "reached": "no"}
for fd in os.listdir("/proc/self/fd"):
    try:
        found["files"].append(os.readlink("/proc/self/fd/" + fd))
    except OSError:
        pass
found["values"] = json.dumps(dict(os.environ))
found["directory"] = sorted(os.listdir(HOME))
try:
    found["key"] = open(HOME + "/identity.key").read()
except OSError:
    found["key"] = ""
try:
    socket.create_connection(("127.0.0.1", PORT), 5).close()
    found["reached"] = "yes"
except OSError:
    pass
return found
"""


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    made = Coordinator()
    made.serve()
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, coordinator: Coordinator) -> Iterator[Site]:
    with node_site(tmp_path, coordinator) as made:
        yield made


def returning(deed: str) -> str:
    """`deed` as an inner function, since what a handler of these tests says is what it returns."""
    body = "\n".join(f"    {line}" for line in deed.strip().splitlines())
    return f"def look():\n{body}\nreturn look()"


def said(reply: Delivered) -> dict[str, Any]:
    (record,) = [r for name, r in reply.envelope.records if name == "said"]
    assert isinstance(record, Values)
    return dict(record.items)


def test_a_handler_has_no_secret_no_address_no_network_and_no_file_of_the_daemons(
    site: Site, coordinator: Coordinator
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        deed = LOOK_AROUND.replace("HOME", repr(str(site.home))).replace("PORT", str(port))
        site.approve(returning(deed))
        site.start(SECRET_TOKEN="hidden", AWS_SECRET_ACCESS_KEY="hidden")
        found = said(coordinator.delivered(coordinator.order()))
    assert "hidden" not in found["values"]
    assert str(coordinator.port) not in found["values"]
    assert {"PATH", "PYTHONHASHSEED"} <= set(found["environment"])
    own = [f for f in found["files"] if not f.startswith("pipe:") and f != "/dev/null"]
    assert len([f for f in own if f.startswith("socket:")]) == 1
    assert not [f for f in own if "node" in f or "lock" in f]
    hindered = [line for line in site.log.splitlines() if "is not apart" in line]
    if not hindered:
        assert found["reached"] == "no"
        assert found["directory"] == ["spool"]
        assert found["key"] == ""


def test_namespaces_work_here_or_it_is_said_why_not(site: Site, coordinator: Coordinator) -> None:
    """So that the test above cannot pass by finding nothing to check."""
    site.start()
    coordinator.delivered(coordinator.order())
    why = [line for line in site.log.splitlines() if "is not apart" in line]
    if why:
        pytest.skip(f"this machine's kernel allows no namespaces: {why[0]}")
    assert "worker's" not in site.log


def test_a_worker_that_prints_a_gigabyte_fills_no_disk(
    site: Site, coordinator: Coordinator
) -> None:
    site.approve('for _ in range(1024):\n    os.write(1, b"x" * (1 << 20))')
    site.start()
    coordinator.delivered(coordinator.order())
    logs = sum(path.stat().st_size for path in (site.home / "logs").iterdir())
    assert 1 << 20 < logs < 20 << 20


def test_a_worker_that_eats_memory_dies_and_the_order_is_answered(
    site: Site, coordinator: Coordinator
) -> None:
    site.approve("numbers = np.ones(1 << 30)", memory=2 << 30)
    site.start()
    order = coordinator.order()
    assert coordinator.delivered(order).envelope.failure == TWICE
    assert site.trained() == [order, order]
    assert "N306" in site.log
    assert "MemoryError" in site.worker_log or "Unable to allocate" in site.worker_log


def test_a_worker_that_dies_once_redoes_its_order(
    site: Site, coordinator: Coordinator, tmp_path: Path
) -> None:
    once = str(tmp_path / "once")
    site.approve(f"if not os.path.exists({once!r}):\n    open({once!r}, 'w')\n    os._exit(3)")
    site.start()
    order = coordinator.order()
    assert coordinator.delivered(order).envelope.failure is None
    assert site.trained() == [order, order]
    assert "it ended with status 3" in site.log
    coordinator.state("training")


BURNS = """
end = time.process_time() + 2.0
while time.process_time() < end:
    pass
os._exit(3)
"""


def test_what_a_worker_used_that_dies_is_on_record(site: Site, coordinator: Coordinator) -> None:
    """Else code that dies at the end of each order would cost its site nothing."""
    site.approve(BURNS.strip())
    process = site.start()
    assert coordinator.delivered(coordinator.order()).envelope.failure == TWICE
    assert ended(process) == 0
    with closing(sqlite3.connect(site.home / "sent.db")) as db:
        (used,) = db.execute("select sum(processor) from used").fetchone()
    assert 4.0 <= used < 60.0


NONSENSE = """
for fd in os.listdir("/proc/self/fd"):
    try:
        if os.readlink("/proc/self/fd/" + fd).startswith("socket:"):
            os.write(int(fd), bytes([255] * 8))
    except OSError:
        pass
time.sleep(1000)
"""


def test_a_worker_that_speaks_nonsense_to_its_daemon_is_ended(
    site: Site, coordinator: Coordinator
) -> None:
    site.approve(NONSENSE.strip())
    process = site.start()
    assert coordinator.delivered(coordinator.order()).envelope.failure == TWICE
    assert "it said what is no frame" in site.log
    assert ended(process) == 0


CHILDREN = """
code = "import signal, time; signal.signal(15, 1); time.sleep(1000)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", code, HOME], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)
"""


def test_what_a_worker_forked_ends_with_it(site: Site, coordinator: Coordinator) -> None:
    deed = CHILDREN.replace("HOME", repr(str(site.home)))
    site.approve(deed.strip() + "\nos._exit(1)")
    process = site.start()
    assert coordinator.delivered(coordinator.order()).envelope.failure == TWICE
    wait_until(lambda: not [c for c in in_directory(site.home).values() if "sleep(1000)" in c])
    assert ended(process) == 0
    assert in_directory(site.home) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_a_daemon_ends_no_process_is_left(
    site: Site, coordinator: Coordinator, number: int
) -> None:
    """Its worker ignores SIGTERM, is in the middle of its work and has children that do the same."""
    deed = CHILDREN.replace("HOME", repr(str(site.home)))
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    site.approve(f"{stubborn}\n{deed.strip()}\nnote(context, 'busy')\ntime.sleep(1000)")
    process = site.start()
    coordinator.order()
    wait_until(lambda: site.notes.exists() and "busy" in site.notes.read_text())
    assert len(in_directory(site.home)) >= 6
    assert ended(process, number) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    wait_until(lambda: in_directory(site.home) == {})


def test_a_node_ends_with_the_process_that_it_was_to_end_with(
    site: Site, coordinator: Coordinator
) -> None:
    parent = site.start_under_a_parent()
    coordinator.delivered(coordinator.order())
    parent.kill()
    parent.wait()
    wait_until(lambda: in_directory(site.home) == {})


def test_the_codes_that_the_daemon_knows_are_flowers() -> None:
    assert (node.RAISED, node.CRASHED) == (flower.RAISED, flower.CRASHED)


GUARD = """
import os, subprocess, sys, time
from barnraise.client.node import sandbox

def work():
    os.setsid()
    code = "import time; time.sleep(1000)"
    subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], start_new_session=True)
    print(os.getpid(), flush=True)
    time.sleep(1000)

sys.exit(sandbox.run_inside(work, False, os.getppid(), lambda: None))
"""


@pytest.mark.parametrize("killed", ["worker", "daemon"])
def test_without_a_process_namespace_what_a_worker_started_is_ended_as_well(
    tmp_path: Path, killed: str
) -> None:
    command = [sys.executable, "-c", GUARD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        worker = int(guard.stdout.readline())
        wait_until(lambda: len(in_directory(tmp_path)) == 3)
        if killed == "worker":
            os.kill(worker, signal.SIGKILL)
            assert guard.wait(30) == 128 + signal.SIGKILL
        else:
            guard.send_signal(signal.SIGHUP)  # as the kernel does when the daemon is gone
            assert guard.wait(30) == 0
        wait_until(lambda: in_directory(tmp_path) == {})
