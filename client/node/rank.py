"""One process of a worker that is several: started by the launcher that `[worker]` in policy.toml names.

    LAUNCHER… python -m barnraise.client.node.rank SOCKET HINDERED

The launcher (torchrun, srun) tells each process its number and how many there are, as `torch.distributed`
reads it from the environment. Number 0 connects to SOCKET, behind which the daemon is, and is the worker;
the others follow it. When one ends in an error the launcher ends all: that is what keeps an order from
waiting for a process that is gone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from barnraise.client.node.crew import STALL, Crew
from barnraise.client.node.handlers import follow, serve


def main(arguments: Sequence[str]) -> int:
    """Its exit status."""
    crew = join()
    try:
        if crew.rank:
            follow(crew)
            return 0
        own = socket.socket(socket.AF_UNIX)
        own.connect(arguments[0])
        return 0 if serve(own, json.loads(arguments[1]), crew) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def join() -> Crew:
    """Meet the others. NCCL where each process has a GPU of its own, Gloo elsewhere."""
    store, rank, size = next(iter(rendezvous("env://")))
    number = int(os.environ.get("LOCAL_RANK", rank))
    gpu = torch.cuda.is_available() and torch.cuda.device_count() > number
    if gpu:
        torch.cuda.set_device(number)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=STALL),
    )
    return Crew(PrefixStore("crew", store), rank, size)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    os._exit(status)  # Gloo's threads are not waited for
