"""Run in a process of its own, so that what hostile peers cost can be read from /proc: a coordinator.

hostile_coordinator.py DIRECTORY     reads commands from standard input; answers each with one line
    port                             the session port
    pair NAME                        a member's key and certificate, and the authority's, as files
    order NAME                       an order to this member; its id
    arrivals SECONDS                 the orders whose replies have come within so many seconds
    round NAME...                    these members train; whose reply was accepted, and why the others' not
    peak                             the most memory that this process has had, in kB
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "session"))

from flwr.app import Message, RecordDict
from session_kit import LARGE, SOON, House, arrays, member, pair, pem

from barnraise.coordinator import events
from barnraise.coordinator.grid import DurableGrid
from barnraise.coordinator.rounds import Policy

GRIDS: list[DurableGrid] = []  # the house's one, once a round was asked for


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def trained(house: House, names: list[str]) -> dict[str, str]:
    """What became of each member's reply, judged as in a run; the engine's own rounds do no more."""
    grid = GRIDS[0] if GRIDS else house.grid(Policy(deadline=SOON))
    GRIDS[:] = [grid]
    content = RecordDict({"arrays": arrays(1.0, size=LARGE)})
    list(grid.send_and_receive([Message(content, member(n).node_id, "train") for n in names]))
    told = (e for e in house.events if isinstance(e, events.Answered))
    verdicts = {e.member: e.reason or e.verdict for e in told}
    house.events.clear()
    return verdicts


def answer(house: House, said: list[str], batch: int) -> Any:
    match said:
        case ["port"]:
            return house.port
        case ["pair", name]:
            key, certificate = pair(house.authority, name)
            (house.root / f"{name}.key").write_bytes(key)
            (house.root / f"{name}.crt").write_bytes(certificate)
            (house.root / "ca.crt").write_bytes(pem(house.authority.certificate_der))
            return str(house.root)
        case ["order", name]:
            order = house.order(name, batch, house.content(1.0, size=1000))
            house.fleet.dispatch([order])
            return order.id
        case ["arrivals", seconds]:
            arrived = house.fleet.arrivals(house.fleet.now() + float(seconds))
            house.accept(arrived)
            return [d.order for d in arrived]
        case ["round", *names]:
            return trained(house, names)
        case ["peak"]:
            return peak()
    raise ValueError(said)


if __name__ == "__main__":
    house = House(Path(sys.argv[1]))
    for number, line in enumerate(sys.stdin, 1):
        print(json.dumps(answer(house, line.split(), number)), flush=True)
    house.close()
