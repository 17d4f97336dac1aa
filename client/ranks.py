"""The member's processes that train one model together: gradients averaged over all of them, in each step.

Where the process is one of a `torch.distributed` group, `joined()` is that group. Each process has the whole
model and takes `batch` examples of its own in a step, so that a step is that of one process with `batch`
times as many. All draw the same numbers and each takes its part of them, so which examples these are does
not hang on how many processes there are. Knows nothing of orders and of files.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks(Protocol):
    """`size` processes, of which this is number `rank`."""

    rank: int
    size: int

    def average(self, model: nn.Module, loss: Tensor) -> float:
        """Make each gradient the mean over all processes, in place; returns the mean loss."""
        ...

    def clock(self) -> float:
        """Seconds, as the first process counts them: the same number at all."""
        ...


class Group:
    """The default group of `torch.distributed`. Every process must make the same calls."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @torch.no_grad()
    def average(self, model: nn.Module, loss: Tensor) -> float:
        """One sum over all processes, in float32 (float64 where a parameter is).

        What has no gradient here but has one elsewhere is zero here; what has none anywhere keeps none.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        wide = any(p.dtype == torch.float64 for p in parameters)
        dtype = torch.float64 if wide else torch.float32
        flags = [float(p.grad is not None) for p in parameters]
        head = torch.tensor([0.0, *flags], dtype=dtype, device=parameters[0].device)
        head[0] = loss.detach().to(dtype)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([head, *(part.reshape(-1).to(dtype) for part in parts)])
        dist.all_reduce(flat)
        at = len(head)
        for parameter, part, has in zip(parameters, parts, flat[1:at].tolist(), strict=True):
            if has:
                mean = flat[at : at + part.numel()].view_as(part) / self.size
                parameter.grad = part.copy_(mean.to(part.dtype))
            at += part.numel()
        return float(flat[0]) / self.size

    def clock(self) -> float:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        now = torch.tensor(time.monotonic(), dtype=torch.float64, device=device)
        dist.broadcast(now, 0)
        return float(now)


def joined() -> Ranks | None:
    """The group of which this process is one of several; None where it is alone."""
    alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
    return None if alone else Group()
