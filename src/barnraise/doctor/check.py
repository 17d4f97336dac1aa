"""One line of the doctor's: what was looked at, whether it is well, and if not, the one thing to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from barnraise.protocols.errors import CODES


@dataclass(frozen=True)
class Check:
    """`code` is of `protocols.errors.CODES`, "" where all is well. `saw` is what was found."""

    name: str
    saw: str
    code: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        assert not self.code or (self.code in CODES and self.fix)

    @property
    def ok(self) -> bool:
        return not self.code

    def lines(self, width: int) -> list[str]:
        """For a person."""
        mark = "ok  " if self.ok else "FAIL"
        label = f"error[{self.code}] " if self.code else ""
        fix = [f"      {'':{width}}  fix: {self.fix}"] if self.fix else []
        return [f"{mark}  {self.name:{width}}  {label}{self.saw}", *fix]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}
