"""A node on a host of its own, as far as the kernel is concerned: a throttled link, and a partition.

The node is a real one (daemon and worker processes) in a network namespace, joined to the coordinator's by a
pair of veth devices; `tc tbf` is what makes the link slow, `ip link set down` what parts them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation import Federation, Member, federation
from network import Line

from barnraise.coordinator import events
from barnraise.coordinator.rounds import Policy

HERE, THERE = "10.213.77.1", "10.213.77.2"
RATE = "4mbit"
MODEL = 1 << 19  # float32 values: 2 MiB, four seconds each way


def ip(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ip", *words], capture_output=True)


@dataclass
class Host:
    """The namespace, and this end of its link."""

    name: str
    device: str

    def throttle(self) -> bool:
        shape = ["root", "tbf", "rate", RATE, "burst", "32kbit", "latency", "400ms"]
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


@pytest.fixture
def host() -> Iterator[Host]:
    """Another host, in a namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to make network namespaces")
    if shutil.which("ip") is None or shutil.which("tc") is None:
        pytest.skip("needs iproute2's `ip` and `tc` (Debian: apt-get install iproute2)")
    made = Host(f"barn{os.getpid()}", f"barn{os.getpid()}"[:15])
    if ip("netns", "add", made.name).returncode != 0:
        pytest.skip("needs a kernel that lets this process make network namespaces")
    try:
        near = ["link", "add", made.device, "type", "veth", "peer", "name", "far"]
        if ip(*near, "netns", made.name).returncode != 0:
            pytest.skip("needs veth devices in this kernel")
        inside = ("netns", "exec", made.name, "ip")
        for words in (
            ("addr", "add", f"{HERE}/30", "dev", made.device),
            ("link", "set", made.device, "up"),
            (*inside, "addr", "add", f"{THERE}/30", "dev", "far"),
            (*inside, "link", "set", "far", "up"),
            (*inside, "link", "set", "lo", "up"),
        ):
            assert ip(*words).returncode == 0, words
        if not made.throttle():
            pytest.skip("needs the queueing discipline `tbf` in this kernel")
        yield made
    finally:
        ip("netns", "del", made.name)


def abroad(barn: Federation, name: str) -> Path:
    """The directory of a node that reaches the coordinator from the other host."""
    line = Line(barn.house.port, barn.house.port, HERE)
    barn.members[name] = Member(barn, name, line)
    return barn.members[name].home


@pytest.mark.slow
def test_a_throttled_link_and_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    """The link is parted in the middle of bob's download, and joined when he counts as absent."""
    names, hosts = ("ada", "bob", "cyd"), (HERE, "127.0.0.1")
    with federation(tmp_path, monkeypatch, names, address="0.0.0.0:0", hosts=hosts) as barn:
        home, parted, joined = abroad(barn, "bob"), list[str](), list[str]()

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
