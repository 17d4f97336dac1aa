"""`/healthz` and `/metrics` over HTTP, of a federation that is served and of a node's directory."""

from __future__ import annotations

import json
import re
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from floor_kit import House
from prometheus_client.parser import text_string_to_metric_families

from barnraise.client.keys import NodeKeys
from barnraise.observing import listen
from barnraise.observing.coordinator import beside
from barnraise.observing.node import answering
from barnraise.protocols.errors import BarnraiseError


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def numbers(port: int) -> dict[str, float]:
    """Every sample by its name and labels."""
    status, text = ask(port, "/metrics")
    assert status == 200
    return {
        " ".join([one.name.removeprefix("barnraise_"), *one.labels.values()]): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_a_served_federation_is_told_of(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_: Any) -> str:
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket, "getfqdn", looked_up)
    ada = house.attend("ada")
    assert ada.next().HasField("welcome")
    house.propose()
    with beside("127.0.0.1:0")(house.operator, house.floor) as port:
        assert isinstance(port, int)
        status, line = ask(port, "/healthz")
        said = json.loads(line)
        assert (status, said["ok"], line.count("\n")) == (200, True, 1)
        assert said["why"] == "served; no run is open; 1 of 2 members attend"
        told = numbers(port)
        assert told["members idle"] == told["members absent"] == 1
        assert told["log_entries_total member.enrolled"] == 2
        assert told["disk_free_bytes"] > 0 and told["run_open"] == 0
        house.federation.ledger.revoked("bob", "test")
        assert numbers(port)["log_entries_total member.revoked"] == 1


def documented(prefix: str) -> set[str]:
    """The metrics of this prefix that the page lists, as samples are named."""
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `barnraise_")]
    rows = [row for row in rows if ("_node_" in row) == (prefix == "barnraise_node_")]
    found = [name for row in rows for name in re.findall(r"`([\w…]+)", row)]
    return {name.replace("…", "barnraise_node_today") for name in found}


def test_every_metric_is_documented(house: House, tmp_path: Path) -> None:
    house.attend("ada").next()
    NodeKeys.open(tmp_path / "node")
    with beside("0")(house.operator, house.floor) as port:
        told = set(re.findall(r"^# HELP (\w+)", ask(int(str(port)), "/metrics")[1], re.M))
    with answering(tmp_path / "node", "0") as port:
        of_node = set(re.findall(r"^# HELP (\w+)", ask(port, "/metrics")[1], re.M))
    assert told == documented("barnraise_")
    assert of_node | {"barnraise_node_certificate_end_seconds"} == documented("barnraise_node_")


def test_what_cannot_be_read_is_said_with_503(house: House) -> None:
    with beside("127.0.0.1:0")(house.operator, house.floor) as port:
        house.federation.log.close()
        house.federation.authority.close()
        status, line = ask(int(str(port)), "/healthz")
    assert (status, json.loads(line)["ok"]) == (503, False)
    assert json.loads(line)["why"].startswith("D106: ")


def test_nothing_but_these_pages_is_answered() -> None:
    with listen.listening("0", {"/healthz": lambda: listen.health_page(True, {})}) as port:
        assert ask(port, "/healthz?x=1")[0] == 200
        assert ask(port, "/")[0] == ask(port, "/../etc/passwd")[0] == 404
        assert ask(port, "/healthz", "POST")[0] == 501
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(listen.AT_ONCE)]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as more:
            assert more.recv(1) == b""
        for connection in held:
            connection.close()


def test_a_port_in_use_is_said() -> None:
    with listen.listening("0", {}) as port, pytest.raises(BarnraiseError) as error:
        listen.listening(str(port), {}).__enter__()
    assert error.value.code == "N118"


def test_a_node_that_does_not_run_is_not_well(tmp_path: Path) -> None:
    NodeKeys.open(tmp_path / "node")
    with answering(tmp_path / "node", "0") as port:
        status, line = ask(port, "/healthz")
        told = numbers(port)
    assert status == 503 and str(tmp_path) not in line
    assert json.loads(line)["why"] == "the node has not begun to attend, or ends"
    assert told["node_connected"] == 0 and told["node_today_rounds"] == 0


def test_a_question_that_comes_a_byte_at_a_time_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "PATIENCE", 0.3)
    with (
        listen.listening("0", {}) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as slow,
    ):
        slow.settimeout(5)
        slow.sendall(b"GET /h")
        assert slow.recv(1) == b""
