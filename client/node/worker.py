"""The worker's process: cut off from keys and network first, then the ClientApp is loaded, once.

Started by the daemon as `python -m barnraise.client.node.worker SOCKET NODE_DIR MEMORY PARENT`. Nothing
heavy is imported before the fork, since the processes that stand around the worker keep it in memory.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from barnraise.client.node import sandbox

HIDDEN = frozenset({"logs"})


def main(arguments: Sequence[str]) -> int:
    """Run the worker to its end; its exit status."""
    number, home, memory, parent = arguments
    hindered = sandbox.enter_namespaces()
    contained = not hindered["processes"]
    if not hindered["directory"]:
        hindered["directory"] = sandbox.hide(Path(home), HIDDEN)
    own = socket.socket(fileno=int(number))

    def work() -> None:
        os.setsid()
        if contained and not hindered["directory"]:
            sandbox.show_own_processes()
        sandbox.give_up_rights(int(memory) or None)
        _serve(own, hindered)

    return sandbox.run_inside(work, contained, int(parent), own.close)


def _serve(own: socket.socket, hindered: dict[str, str]) -> None:
    try:
        from barnraise.client.node.handlers import serve

        serve(own, hindered)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
