"""The ClientApp of `deploy/flower`: the built-in one, told by each order which charter and order it is.

    --node-config   data="/path"      the directory of this member's data
                    secret="/path"    a file of 32 bytes or more: with it the same order gives the same reply
    run config      data="/path"      in a simulation: a directory with one sub-directory for each partition
                    seed=N            in a simulation: what the secrets follow from

Each handler runs by the one runner of ours, so that an error says no more than its class and its place.
Flower starts a process for each message, in which torch's generator would begin alike every time: here it
is seeded for each order. What a member keeps between rounds lies in Flower's `Context.state`, which ends
with Flower's run.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from barnraise.client.app import client_app
from barnraise.protocols import flower
from barnraise.protocols.content import Failure
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.randomness import derive, simulation_secret

MARK = "barnraise"  # as in coordinator.flower_fleet, of which a member's side knows nothing
LEAST = 32  # bytes of a secret


class FlowerClient(ClientApp):
    """Registers nothing of its own: what arrives is handed to the built-in ClientApp, which each process
    makes for itself, since Flower's simulation sends this object to others."""

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply, or an error whose reason quotes nothing that the member has."""
        try:
            said = message.content.config_records.pop(MARK, None)
            if said is None:
                raise _unset("charter", "the order was not sent by barnraise.flowerapp.server")
            order, told = str(said["order"]), self._told(context, str(said["charter"]))
            seed = derive(_secret(context), "order", order)
        except BarnraiseError as error:
            sys.stderr.write(f"{error}\n")
            return _failed(message, Failure(flower.RAISED, f"{error.code}: {error.what}"))
        carry = flower.load_carry(context)
        handled = flower.run_handler(_built_in(), message, told, carry, seed)
        if handled.log:
            sys.stderr.write(handled.log.rstrip("\n") + "\n")
        if handled.carry is not None:
            flower.save_carry(context, handled.carry)
        if handled.failure is not None or handled.reply is None:
            return _failed(message, handled.failure or Failure(flower.RAISED, "no reply"))
        return Message(handled.reply, reply_to=message)

    def _told(self, context: Context, charter: str) -> Context:
        """The same context, whose state it shares, with the charter and this member's directory."""
        config: dict[str, Any] = {**context.node_config}
        config.setdefault("data", _directory(context))
        run = {**context.run_config, "charter": charter}
        return flower.new_context(context.run_id, context.node_id, config, context.state, run)


@cache
def _built_in() -> ClientApp:
    return client_app()


def _directory(context: Context) -> str:
    """The member's data; in a simulation, where nodes have numbers, the sub-directory of that number."""
    if "data" in context.node_config:
        return str(context.node_config["data"])
    root, number = Path(str(context.run_config.get("data", ""))), _partition(context)
    if number is None or not root.is_absolute():
        raise _unset("data", "its node config has no `data`: --node-config 'data=\"/path\"'")
    folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if number >= len(folders):
        raise _unset("data", f"{root} has {len(folders)} sub-directories; this is node {number}")
    return str(folders[number])


def _secret(context: Context) -> bytes:
    """What this member's randomness follows from; drawn anew for each order where nothing says."""
    if (path := context.node_config.get("secret")) is not None:
        try:
            held = Path(str(path)).read_bytes()
        except OSError as error:
            raise _unset("secret", f"{path}: {error.strerror}") from None
        if len(held) < LEAST:
            raise _unset("secret", f"{path} has {len(held)} bytes; {LEAST} are needed")
        return held
    seed, number = int(context.run_config.get("seed", -1)), _partition(context)
    if seed >= 0 and number is not None:
        return derive(simulation_secret(seed), "member", str(number))
    return os.urandom(LEAST)


def _partition(context: Context) -> int | None:
    number = context.node_config.get("partition-id")
    return int(number) if number is not None else None


def _failed(message: Message, failure: Failure) -> Message:
    return Message(Error(failure.code, failure.reason), reply_to=message)


def _unset(key: str, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "K111",
        f"this node has no usable {key}",
        evidence,
        "the order was answered with an error",
        "correct --node-config of this SuperNode, or the run config",
    )


app = FlowerClient()
