"""How many bytes a round moves for one member, before anything starts: of a charter's own model.

The model is made by its task in a process of its own, for that needs torch, which `serve` never loads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_LIMIT = 120.0  # seconds


@lru_cache(8)
def of_a_round(app: Path, text: str) -> Mapping[str, int] | None:
    """`down` and `up` of a round; None where only the app knows, or if its model cannot be made."""
    if not (app / "charter.toml").is_file():
        return None
    command = [sys.executable, "-m", "barnraise.cli.sizes", str(app)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=True)
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return {"down": int(found["down"]), "up": int(found["up"])}


def main(app: Path) -> None:
    """Print the sizes of the charter's run in `app`."""
    from barnraise.client.tasks import load_task
    from barnraise.protocols.charter import Charter

    charter = Charter.read(app / "charter.toml")
    state = load_task(charter.task, app).model().state_dict()
    whole = sum(t.numel() * t.element_size() for t in state.values())
    per = {"int8": 1.02, "int4": 0.52, "bf16": 2.0, "fp32": 4.0, "topk": 0.1}
    count = sum(t.numel() for t in state.values())
    codec = charter.training.codec
    up = whole if codec is None else int(count * per[codec])
    sys.stdout.write(json.dumps({"down": 2 * whole, "up": up}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
