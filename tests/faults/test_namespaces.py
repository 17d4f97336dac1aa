"""Nodes on hosts of their own, as far as the kernel is concerned: slow links, partitions, hosts that die.

Each host is a network namespace in which a real node runs (daemon and worker processes), joined to the
coordinator's by a pair of veth devices; `tc tbf` is what makes a link slow, `ip link set down` what parts
them, and a host dies by losing its link and all its processes at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import hosts_kit
import pytest
from federation import Federation, Member, federation
from hosts_kit import ip
from network import Line

from barnraise.coordinator import events
from barnraise.coordinator.rounds import Policy

MEMBERS = ("ada", "bob", "cyd")
RATE = "4mbit"
MODEL = 1 << 19  # float32 values: 2 MiB, four seconds each way


@dataclass
class Host:
    """The namespace, and this end of its link. `here` is the coordinator's address on that link."""

    name: str
    device: str
    here: str
    there: str

    def throttle(self, rate: str = RATE) -> bool:
        shape = ["root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms"]
        near = subprocess.run(
            ["tc", "qdisc", "add", "dev", self.device, *shape], capture_output=True
        )
        far = ip("netns", "exec", self.name, "tc", "qdisc", "add", "dev", "far", *shape)
        return near.returncode == far.returncode == 0

    def part(self) -> None:
        assert ip("link", "set", self.device, "down").returncode == 0

    def join(self) -> None:
        assert ip("link", "set", self.device, "up").returncode == 0

    def start(self, home: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "barnraise.client.node", str(home)]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], stderr=subprocess.DEVNULL
        )

    def die(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing is said to anybody: the link first, then all processes."""
        self.part()
        for pid in map(int, ip("netns", "pids", self.name).stdout.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(20)


@contextmanager
def another_host(number: int) -> Iterator[Host]:
    """A host in a namespace, with a link of its own; the `number`-th of this test."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to make network namespaces")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("needs iproute2's `ip` and `tc` (Debian: apt-get install iproute2)")
    hosts_kit.clear()
    name, net = hosts_kit.name_of(number), hosts_kit.network(200)
    made = Host(name, name, f"{net}.{4 * number + 1}", f"{net}.{4 * number + 2}")
    if ip("netns", "add", made.name).returncode != 0:
        pytest.skip("needs a kernel that lets this process make network namespaces")
    try:
        near = ["link", "add", made.device, "type", "veth", "peer", "name", "far"]
        if ip(*near, "netns", made.name).returncode != 0:
            pytest.skip("needs veth devices in this kernel")
        inside = ("netns", "exec", made.name, "ip")
        for words in (
            ("addr", "add", f"{made.here}/30", "dev", made.device),
            ("link", "set", made.device, "up"),
            (*inside, "addr", "add", f"{made.there}/30", "dev", "far"),
            (*inside, "link", "set", "far", "up"),
            (*inside, "link", "set", "lo", "up"),
        ):
            assert ip(*words).returncode == 0, words
        yield made
    finally:
        hosts_kit.remove(made.name)


def throttled(host: Host, rate: str = RATE) -> Host:
    if not host.throttle(rate):
        pytest.skip("needs the queueing discipline `tbf` in this kernel")
    return host


@pytest.fixture
def host() -> Iterator[Host]:
    """Another host, at the end of a slow link."""
    with another_host(0) as made:
        yield throttled(made)


@pytest.fixture
def hosts() -> Iterator[dict[str, Host]]:
    """A host for each member."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(another_host(n)) for n, name in enumerate(MEMBERS, start=1)
        }


def abroad(barn: Federation, name: str, host: Host) -> Path:
    """The directory of a node that reaches the coordinator from that host."""
    line = Line(barn.house.port, barn.house.port, host.here)
    barn.members[name] = Member(barn, name, line)
    return barn.members[name].home


@pytest.mark.slow
def test_a_throttled_link_and_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    """The link is parted in the middle of bob's download, and joined when he counts as absent."""
    names, addresses = MEMBERS, (host.here, "127.0.0.1")
    with federation(tmp_path, monkeypatch, names, address="0.0.0.0:0", hosts=addresses) as barn:
        home, parted, joined = abroad(barn, "bob", host), list[str](), list[str]()

        def hook(event: events.Event) -> None:
            if not isinstance(event, events.MemberState) or event.member != "bob":
                return
            if event.state == "fetching" and event.detail not in ("", "0 %") and not parted:
                parted.append(event.detail)
                host.part()
            if event.state == "absent" and parted and not joined:
                joined.append(event.state)
                host.join()

        barn.watch(hook)
        process = host.start(home)
        try:
            barn.members["ada"].start()
            barn.members["cyd"].start()
            assert barn.house.fleet.wait_for(names, barn.house.fleet.now() + 60) == []
            barn.run(Policy(deadline=120.0), size=MODEL)
            (closed,) = barn.closed()
            assert closed.accepted == names and closed.reason == "all answered"
            assert parted and joined
            slow, quick = barn.answers("bob")[0], barn.answers("ada")[0]
            assert quick.seconds < 2.0 < slow.seconds
        finally:
            process.terminate()
            process.wait(20)


# --- three hosts ------------------------------------------------------------------------------------


class Town:
    """The coordinator here, and each member's node as a process on its own host."""

    def __init__(self, barn: Federation, hosts: dict[str, Host]) -> None:
        self.barn, self.hosts = barn, hosts
        self.homes = {name: abroad(barn, name, hosts[name]) for name in MEMBERS}
        self.processes = {name: hosts[name].start(self.homes[name]) for name in MEMBERS}

    def wait(self) -> None:
        fleet = self.barn.house.fleet
        assert fleet.wait_for(MEMBERS, fleet.now() + 60) == []

    def when(self, member: str, state: str, do: Callable[[], None]) -> None:
        """Do it once, the first time that this member is in this state."""
        done = list[str]()
        before = self.barn.house.fleet.watch

        def hook(event: events.Event) -> None:
            before(event)
            seen = isinstance(event, events.MemberState) and event.member == member
            if seen and event.state == state and not done:  # type: ignore[union-attr]
                done.append(state)
                do()

        self.barn.house.fleet.watch = hook

    def held(self, name: str) -> Callable[[], None]:
        """The member's handler does not end before this is called, once, while it is at work."""
        (node,) = [m.node_id for m in self.barn.house.fleet.roster() if m.name == name]
        hold = self.barn.root / "code" / f"hold-{node}"
        os.mkfifo(hold)

        def let_go() -> None:
            writer = os.open(hold, os.O_WRONLY)
            hold.unlink()
            os.close(writer)

        return let_go

    def die(self, name: str) -> None:
        self.hosts[name].die(self.processes[name])

    def raised(self, name: str) -> None:
        """The host comes back, and its node is started as its unit would."""
        self.hosts[name].join()
        self.processes[name] = self.hosts[name].start(self.homes[name])

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: dict[str, Host]) -> Iterator[Town]:
    addresses = tuple(host.here for host in hosts.values())
    where = {"address": "0.0.0.0:0", "hosts": ("127.0.0.1", *addresses)}
    with federation(tmp_path, monkeypatch, MEMBERS, **where) as barn:
        made = Town(barn, hosts)
        try:
            made.wait()
            yield made
        finally:
            made.close()


@pytest.mark.slow
def test_a_host_that_dies_in_a_round_and_comes_back(town: Town) -> None:
    """Its order is not lost with it: the node that is started there again answers the same round."""
    town.when("bob", "training", lambda: town.die("bob"))
    town.when("bob", "absent", lambda: town.raised("bob"))
    town.barn.run(Policy(deadline=60.0))
    (closed,) = town.barn.closed()
    assert closed.accepted == MEMBERS and closed.reason == "all answered"
    assert town.processes["bob"].poll() is None


def test_a_partition_in_a_round_that_closes_by_quorum(town: Town) -> None:
    """Who is behind it is absent by name; once it is over the member is in the next rounds again."""
    let_go = town.held("cyd")

    def part() -> None:
        town.hosts["cyd"].part()
        let_go()

    town.when("cyd", "training", part)
    before = town.barn.house.fleet.watch

    def healed(event: events.Event) -> None:
        before(event)
        if isinstance(event, events.BatchClosed) and event.absent:
            town.hosts["cyd"].join()

    town.barn.house.fleet.watch = healed
    town.barn.run(Policy(quorum=2, grace=2.0, deadline=60.0), rounds=6)
    first, *others = town.barn.closed()
    assert first.accepted == ("ada", "bob") and list(first.absent) == ["cyd"]
    assert len(others) == 5 and any("cyd" in one.accepted for one in others)


@pytest.mark.slow
def test_a_slow_host_is_late_for_nobody_but_itself(town: Town) -> None:
    """Its 2 MiB take four seconds each way; what the others sent is in long before, and is kept."""
    throttled(town.hosts["ada"])
    town.barn.run(Policy(deadline=120.0), size=MODEL)
    (closed,) = town.barn.closed()
    assert closed.accepted == MEMBERS
    slow, quick = town.barn.answers("ada")[0], town.barn.answers("cyd")[0]
    assert quick.seconds < 4.0 < slow.seconds
