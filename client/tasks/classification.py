"""`classification`: a multilayer perceptron over rows of numbers from .npz and .csv files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from barnraise.client.datafiles import data_files
from barnraise.client.tasks.tables import difference, features_of, read_csv, read_npz, unusable
from barnraise.client.tasks.task import Split, option, within_reason
from barnraise.protocols.errors import BarnraiseError

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


class Classification:
    """Rows of numbers to one of several classes; cross-entropy in nats.

    A .npz file holds `x`, numbers of shape (rows, …), and `y`, integers in [0, classes). A .csv file
    has a header; the column named by `label` is the class, the others are numbers, taken in ascending
    order of their names. Whether a row is held out follows from the hash of its numbers alone.
    """

    record_kind = "row"
    record_form = "the row's numbers, each a little-endian float32, then its class, an int64"

    def __init__(
        self,
        features: Annotated[int, option("numbers in a row", gt=0)],
        classes: Annotated[int, option("how many classes there are", gt=1)],
        hidden: Annotated[
            list[Annotated[int, option("a layer's width", gt=0)]],
            option("widths of the hidden layers", max_length=1000),
        ] = [64],  # noqa: B006
        label: Annotated[str, option("the .csv column that holds the class")] = "label",
        held_out: Annotated[float, option("part of the rows held out", gt=0, lt=1)] = 0.2,
    ) -> None:
        self.features, self.classes, self.hidden = features, classes, list(hidden)
        self.label, self.held_out = label, held_out
        within_reason(
            self.parameters(), features=features, classes=classes, hidden=max(hidden, default=0)
        )

    def parameters(self) -> int:
        """How many numbers the model has."""
        widths = [self.features, *self.hidden, self.classes]
        return sum((before + 1) * after for before, after in pairwise(widths))

    def model(self) -> nn.Module:
        widths = [self.features, *self.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.classes))

    def data(self, directory: Path) -> Split:
        x, y = self._rows(directory)
        places = np.array([_place(row) for row in x])
        order = np.argsort(places, kind="stable")
        cut = min(max(int((places < self.held_out).sum()), 1), len(order) - 1)
        return Split(_dataset(x, y, order[cut:]), _dataset(x, y, order[:cut]))

    def records(self, directory: Path) -> Iterator[bytes]:
        """The rows, file by file."""
        self.columns(directory)
        for path in _tables(directory):
            x, y = self._checked(path, *self._read(path))
            for row, label in zip(x.astype("<f4"), y.astype("<i8"), strict=True):
                yield row.tobytes() + label.tobytes()

    def files(self, directory: Path) -> Iterator[Path]:
        yield from _tables(directory)

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: list[Tensor]) -> Mapping[str, float]:
        """`accuracy`: how often the likeliest class was the right one."""
        return {"accuracy": (model(batch[0]).argmax(-1) == batch[1]).float().mean().item()}

    def columns(self, directory: Path) -> tuple[str, ...] | None:
        """The features' names in a member's .csv files, in their order; None if it has none.

        Raises D202, also if two files differ in them.
        """
        names: tuple[str, ...] | None = None
        first: Path | None = None
        for path in (p for p in _tables(directory) if p.suffix == ".csv"):
            found = features_of(path, self.label)
            if names is not None and (told := difference(names, found)):
                raise unusable(path, f"its columns are not those of {first}: {told}")
            if names is None:
                names, first = found, path
        return names

    def _rows(self, directory: Path) -> Rows:
        """Every file's rows, by path. Raises D201 or D202."""
        self.columns(directory)
        paths = _tables(directory)
        parts = [self._checked(path, *self._read(path)) for path in paths]
        rows = sum(len(y) for _, y in parts)
        if rows < 2:
            raise BarnraiseError(
                "D201",
                f"{directory} holds {rows or 'no'} rows",
                f"in {len(paths)} .npz and .csv files, but for links and what is hidden; "
                "at least two rows are needed",
                next=f"put the member's rows into {directory}",
            )
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])

    def _read(self, path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        if path.suffix == ".csv":
            return read_csv(path, self.label, self.classes)
        return read_npz(path)

    def _checked(self, path: Path, x: NDArray[np.generic], y: NDArray[np.generic]) -> Rows:
        if x.ndim == 0 or y.ndim != 1:
            raise unusable(path, "x is not of shape (rows, …), or y not of shape (rows,)")
        if len(y) == 0:
            return np.empty((0, self.features), np.float32), np.empty(0, np.int64)
        if x.dtype.kind not in "fiub" or y.dtype.kind not in "iu" or len(x) != len(y):
            raise unusable(path, "x is not of numbers, y not of integers, or they differ in length")
        flat = x.astype(np.float32).reshape(len(x), -1)
        if flat.shape[1] != self.features:
            raise unusable(path, f"a row has {flat.shape[1]} numbers, not {self.features}")
        if not np.isfinite(flat).all():
            raise unusable(path, "it holds NaN or infinity")
        classes = y.astype(np.int64)
        if classes.min() < 0 or classes.max() >= self.classes:
            raise unusable(path, f"a class is not in [0, {self.classes})")
        return flat, classes


def _tables(directory: Path) -> list[Path]:
    return list(data_files(directory, (".npz", ".csv")))


def _place(row: NDArray[np.float32]) -> float:
    """Where in [0, 1) this row falls."""
    return int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:6], "big") / 2.0**48


def _dataset(
    x: NDArray[np.float32], y: NDArray[np.int64], rows: NDArray[np.intp]
) -> Dataset[tuple[Tensor, ...]]:
    return TensorDataset(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
