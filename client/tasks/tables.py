"""Rows of numbers in .csv and .npz files. Knows nothing of models.

A .csv file's columns go by their names: features are in ascending order of name, so that members whose
files have them in another order agree without talking.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import cut, shortened

Table = tuple[NDArray[np.generic], NDArray[np.generic]]
"""x of shape (rows, …) and y of shape (rows,), of any dtypes."""
MAX_FLOAT32 = float(np.finfo(np.float32).max)


def read_npz(path: Path) -> Table:
    """The arrays `x` and `y` of a .npz file; nothing is unpickled. Raises D202."""
    try:
        held = np.load(path, allow_pickle=False)
        if not isinstance(held, np.lib.npyio.NpzFile):
            raise unusable(path, "it is a single array, not a .npz archive of x and y")
        with held:
            if lacking := [name for name in ("x", "y") if name not in held.files]:
                there = ", ".join(held.files) or "nothing"
                raise unusable(path, f"it has no {' and no '.join(lacking)}; it has {cut(there)}")
            return held["x"], held["y"]
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from None
    except (ValueError, EOFError, BadZipFile):
        raise unusable(path, "it is no .npz archive of plain arrays of numbers") from None


def features_of(path: Path, label: str) -> tuple[str, ...]:
    """The columns of a .csv file beside `label`, in ascending order of name. Raises D202."""
    with _lines(path) as lines:
        header = _header(path, lines, label)
    return tuple(sorted(name for name in header if name != label))


def read_csv(path: Path, label: str, classes: int) -> Table:
    """A .csv file's features, float32 (rows, features), and classes, int64 (rows,). Raises D202."""
    with _lines(path) as lines:
        header = _header(path, lines, label)
        order = sorted((i for i, n in enumerate(header) if n != label), key=header.__getitem__)
        place = header.index(label)
        x: list[list[float]] = []
        y: list[int] = []
        for row in lines:
            if not row:
                continue
            where = f"line {lines.line_num}"
            if len(row) != len(header):
                raise unusable(path, f"{where} has {len(row)} values, the header {len(header)}")
            x.append([_number(path, f"{where}, column {header[i]!r}", row[i]) for i in order])
            y.append(_class(path, f"{where}, column {label!r}", row[place], classes))
    return np.array(x, np.float32).reshape(len(y), len(order)), np.array(y, np.int64)


@contextmanager
def _lines(path: Path) -> Iterator[Any]:
    """A csv reader over the file; what it and the file raise becomes D202."""
    reader: Any = None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True, skipinitialspace=True)
            yield reader
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise unusable(path, "it is not UTF-8 text") from None
    except csv.Error as error:
        raise unusable(path, f"line {reader.line_num}: {error}") from None


def _header(path: Path, lines: Any, label: str) -> list[str]:
    header = [name.strip() for name in next(lines, [])]
    there = cut(", ".join(header))
    if not header:
        raise unusable(path, "it has no header in its first line")
    if label not in header:
        hint = "" if len(header) > 1 else "; columns are separated by commas"
        raise unusable(path, f"its header has no {label!r}; it has {there}{hint}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise unusable(path, f"its header has {cut(twice[0])!r} twice")
    return header


def _number(path: Path, where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise unusable(path, f"{where}: {shortened(text)} is not a number") from None
    if not abs(number) <= MAX_FLOAT32:
        raise unusable(path, f"{where}: {cut(text)} is not a finite number in float32")
    return number


def _class(path: Path, where: str, text: str, classes: int) -> int:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise unusable(path, f"{where}: {shortened(text)} is not a whole number")
    if not 0 <= number < classes:
        raise unusable(path, f"{where}: the class {cut(text)} is not in [0, {classes})")
    return int(number)


def difference(one: tuple[str, ...], other: tuple[str, ...]) -> str:
    """How the second set of columns differs from the first; empty if it does not."""
    lacks = ", ".join(repr(n) for n in one if n not in other)
    adds = ", ".join(repr(n) for n in other if n not in one)
    told = [f"it lacks {cut(lacks)}"] if lacks else []
    return " and ".join([*told, *([f"has {cut(adds)} besides"] if adds else [])])


def unusable(path: Path, why: str) -> BarnraiseError:
    return BarnraiseError("D202", f"{path} cannot be used", why, next=f"mend or remove {path}")
