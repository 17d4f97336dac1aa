"""The worker's process: cut off from keys, network and files first, then the ClientApp is loaded, once.

Started by the daemon as `python -m barnraise.client.node.worker SOCKET JSON`, where the JSON is an `Orders`.
Nothing heavy is imported before the fork, since the processes that stand around the worker keep it in memory.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from barnraise.client.node import frames, sandbox
from barnraise.client.node.confinement import Orders, cover, shut

HIDDEN = frozenset({"logs", "approved", "receipts", "witness", "evidence", "federation"})


def main(arguments: Sequence[str]) -> int:
    """Run the worker to its end; its exit status."""
    number, orders = int(arguments[0]), Orders(**json.loads(arguments[1]))
    hindered = sandbox.enter_namespaces(network=not orders.on_host)
    if orders.launcher and not orders.on_host and not hindered["network"]:
        sandbox.loopback_up()
    contained = not hindered["processes"]
    if not hindered["directory"]:
        hindered["directory"] = sandbox.hide(Path(orders.home), HIDDEN)
        cover(orders)
    own = socket.socket(fileno=number)

    def work() -> None:
        os.setsid()
        if contained and not hindered["directory"]:
            sandbox.show_own_processes()
        sandbox.give_up_rights(orders.memory)
        shut(orders, hindered)
        if orders.required and any(hindered.values()):
            frames.send(own, {"said": "refused", "hindered": hindered})
            os._exit(0)
        _serve(own, hindered, orders)

    return sandbox.run_inside(work, contained, orders.parent, own.close)


def _serve(own: socket.socket, hindered: dict[str, str], orders: Orders) -> None:
    try:
        if orders.launcher:
            from barnraise.client.node import launched

            scratch, alone = Path(orders.writing[-1]), not orders.on_host
            os._exit(launched.run(own, orders.launcher, scratch, hindered, alone=alone) & 0xFF)
        from barnraise.client.node.handlers import serve

        serve(own, hindered)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
