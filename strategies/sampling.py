"""Which members are asked in a round. Pure: roster, seed and round in, members out.

Every member draws a lot: the SHA-256 of the seed, the round, what is asked, and its name. The k lowest
are asked. So the choice is uniform, follows from nothing but those, is the same in every Python and
NumPy, and does not hang on the order of the roster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from barnraise.protocols.errors import BarnraiseError

TRAIN, EVALUATE = "train", "evaluate"


def lot(seed: int, server_round: int, purpose: str, name: str) -> bytes:
    """SHA-256 of `seed`, `purpose`, `server_round` and `name`, each on a line, in UTF-8."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{server_round}\n{name}\n".encode()).digest()


def sample(
    names: Sequence[str], count: int, *, seed: int, server_round: int, purpose: str
) -> list[int]:
    """The indices in `names` of the `count` lowest lots, ascending."""
    lots = [(lot(seed, server_round, purpose, name), i) for i, name in enumerate(names)]
    return sorted(index for _, index in sorted(lots)[:count])


def how_many(available: int, fraction: float, at_least: int) -> int:
    """As Flower counts: `fraction` of those available, rounded down, but `at_least` so many."""
    return max(int(available * fraction), at_least)


def too_few(
    purpose: str,
    server_round: int,
    names: Sequence[str],
    asked: int,
    needed: int,
    minimum: int = 1,
) -> BarnraiseError:
    """R104, naming how many members the round needs and which there are.

    `minimum` is the fewest replies for which the rule is defined.
    """
    at_least = "min_train_nodes" if purpose == TRAIN else "min_evaluate_nodes"
    why = f"{at_least} and the fraction ask for {asked}, min_available_nodes makes it {needed}"
    remedy = f"let more members join, or lower {at_least} and min_available_nodes"
    if len(names) < minimum:
        why = f"the rule is defined for {minimum} replies and more"
        remedy = "let more members join, or choose a rule that needs fewer"
    return BarnraiseError(
        "R104",
        f"round {server_round} needs {needed} members to {purpose} and there are {len(names)}",
        f"{why}\nthere are: {', '.join(names) or 'none'}",
        changed=f"no member was asked to {purpose} in this round",
        next=remedy,
    )
