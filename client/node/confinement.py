"""What a worker is confined to, as the daemon asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Confinement:
    """What of this machine's data the code may read, and whether it may not run with less apart."""

    directories: tuple[str, ...]
    required: bool
