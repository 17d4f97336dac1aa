"""What `barnraise verify` does; imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from barnraise.cli import words
from barnraise.coordinator.verify.findings import Check
from barnraise.coordinator.verify.log import Progress
from barnraise.coordinator.verify.policy import Policy, PolicyError
from barnraise.coordinator.verify.run import Verified
from barnraise.coordinator.verify.run import verify as verified
from barnraise.protocols.errors import BarnraiseError

_MAX_POLICY = 1 << 20  # bytes
_MOST = 100  # faults that are told


def verify(directory: Path, policy: Path | None) -> dict[str, Any]:
    """The checks in numbered lines on stderr. Raises V101 to V119."""
    trusted = _policy(policy) if policy is not None else None
    with _bar() as progress:
        found = verified(directory, trusted, progress)
    for number, check in enumerate(found.checks, 1):
        _tell(number, check)
    if found.faults:
        raise failed(directory, found)
    assert found.manifest is not None
    _say("This is what holds. What nobody can know from a release:")
    for line in found.unknowable:
        _say(f"  - {line}")
    manifest = found.manifest
    return {
        "ok": True,
        "federation": manifest.federation,
        "log": manifest.log,
        "run": manifest.run,
        "manifest": found.digest,
        "model": manifest.model,
        "contributions": manifest.contributions,
        "entries": found.entries,
        "root": found.root,
        "signatures": found.signatures,
        "cosigned": found.cosigned,
        "checks": [{"name": check.name, "facts": check.facts} for check in found.checks],
        "unknowable": found.unknowable,
    }


def _tell(number: int, check: Check) -> None:
    if not check.faults:
        first, *more = check.facts
        _say(f"{number:>2}. {check.name}: {first}")
        for fact in more:
            _say(f"    {fact}")
        return
    _say(f"{number:>2}. {check.name}: does not hold")
    for fault in check.faults[:_MOST]:
        _say(f"    WRONG {fault.code} {fault}")


def failed(directory: Path, found: Verified) -> BarnraiseError:
    """What a release that does not hold is told as."""
    faults = found.faults
    failed = [check.name for check in found.checks if check.faults]
    more = [f"and {len(faults) - _MOST} more"] if len(faults) > _MOST else []
    return BarnraiseError(
        faults[0].code,
        f"{directory} is not a release that holds: {failed[0]}",
        "\n".join([*(words.plain(f"{fault.code} {fault}") for fault in faults[:_MOST]), *more]),
        next="do not use it; ask the federation for the release again",
    )


def _policy(path: Path) -> Policy:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_POLICY + 1)
        if len(data) > _MAX_POLICY:
            raise PolicyError(f"it has more than {_MAX_POLICY} bytes")
        return Policy.parse(data.decode())
    except (OSError, ValueError) as error:
        raise BarnraiseError(
            "V102", f"the policy {path} cannot be read", str(error), next="see docs/verify.md"
        ) from None


def _say(line: str) -> None:
    sys.stderr.write(f"{words.plain(line)}\n")


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar for what takes long, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield progress
