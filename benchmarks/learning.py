"""What the rules, partners and codecs do for learning: `python benchmarks/learning.py [--quick] [PART …]`.

    scaffold   rounds to a target on logistic regression over members that differ
    robust     accuracy under attack, and the price with none
    diloco     DiLoCo beside synchronous data-parallel training at equal tokens
    codecs     bytes and held-out loss of each update codec

Prints exactly one JSON object. `--docs` also writes it beside docs/learning.md, whose tables and plots it
makes anew; `--from FILE` does that from an earlier run's JSON. One thread: the losses are the same on any
machine with the same libraries; only `seconds_a_step` is measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)


def parts() -> Mapping[str, Callable[[bool, Sequence[int]], dict[str, Any]]]:
    from trials import convex, language, robust

    return {
        "scaffold": convex.run,
        "robust": robust.run,
        "diloco": language.diloco,
        "codecs": language.codecs,
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="*", help="which; default: all")
    parser.add_argument("--quick", action="store_true", help="a slice of each, one seed")
    parser.add_argument("--docs", action="store_true", help="make docs/learning.md's tables anew")
    parser.add_argument("--from", dest="file", type=Path, help="use these results, run nothing")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    logging.disable(logging.WARNING)
    sys.path.insert(0, str(ROOT / "tests"))  # the attacks lie beside the tests
    if args.file is not None:
        results = json.loads(args.file.read_text())
    else:
        import torch

        torch.set_num_threads(1)
        seeds = SEEDS[:1] if args.quick else SEEDS
        known = parts()
        results = {name: known[name](args.quick, seeds) for name in args.part or known}
    if args.docs:
        from trials import pages

        pages.write(results, ROOT / "docs")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
