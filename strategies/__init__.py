"""How replies become the next model; every rule a flwr `Strategy`. Knows `protocols` only.

`FedAvg` and `DiLoCo` for apps; `make` for charters. A rule is opened x reducer x outer (`base`).
"""

from barnraise.strategies.base import ExactStrategy
from barnraise.strategies.diloco import DiLoCo
from barnraise.strategies.fedavg import FedAvg
from barnraise.strategies.registry import make

__all__ = ["DiLoCo", "ExactStrategy", "FedAvg", "make"]
