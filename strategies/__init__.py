"""How replies become the next model; every rule a flwr `Strategy`. Knows `protocols` only.

`FedAvg`, `DiLoCo` and the rules of `robust` for apps; `make` for charters. A rule is opened x before x
reducer x outer (`base`), each of which may be your own.
"""

from barnraise.strategies.base import ExactStrategy
from barnraise.strategies.diloco import DiLoCo
from barnraise.strategies.fedavg import FedAvg
from barnraise.strategies.registry import make
from barnraise.strategies.robust import (
    CentredClipping,
    FedNova,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
)
from barnraise.strategies.scaffold import Scaffold

__all__ = [
    "CentredClipping",
    "DiLoCo",
    "ExactStrategy",
    "FedAvg",
    "FedNova",
    "GeometricMedian",
    "Krum",
    "Median",
    "MultiKrum",
    "Scaffold",
    "TrimmedMean",
    "make",
]
