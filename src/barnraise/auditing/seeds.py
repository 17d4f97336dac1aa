"""A member's secret, from which its handlers' randomness follows: by a simulation's seed, or its own."""

from __future__ import annotations

from pathlib import Path

from barnraise.client.keys import NodeKeys
from barnraise.coordinator.audit.audit import Audit
from barnraise.coordinator.local import LocalMember
from barnraise.coordinator.plans import source_kept
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.randomness import commitment, simulation_secret


def secret_of(audit: Audit, member: str, seed: int | None, node: Path | None) -> bytes:
    """By the node's directory if there is one, else by the simulation's seed: the one given, or the one that
    the run's directory keeps. Raises U109 for what is not the run's."""
    if node is not None:
        return _of_node(audit, member, node)
    if seed is None and (kept := source_kept(audit.source.root)) is not None:
        seed = kept["seed"]
    if seed is None:
        raise wrong(
            "a member's training follows from its secret, which is not here",
            "a simulation's follows from its seed; a node keeps its own",
            "give --seed N, that of the simulation, or --node DIR, the member's own node directory",
        )
    secret = simulation_secret(seed)
    if (found := commitment(secret)) != audit.run.opened["seed"]:
        raise wrong(
            f"the seed {seed} is not that of the run",
            f"its commitment is {found}, that of the run {audit.run.opened['seed']}",
            "give the --seed of the simulation; a run that was served has none, but its nodes' secrets",
        )
    return LocalMember.simulated(secret, member, {}).secret


def _of_node(audit: Audit, member: str, node: Path) -> bytes:
    if not (node / "identity.key").is_file() or not (node / "secret").is_file():
        raise wrong(
            f"{node} is no node directory", "it has no identity.key or no secret", "give one"
        )
    keys = NodeKeys.open(node)
    if keys.public_key != audit.run.members[member].public_key:
        why = f"its identity key is not the one that {member} had in the run"
        raise wrong(f"{node} is not the node of {member}", why, f"give the directory of {member}")
    return keys.secret


def wrong(what: str, why: str, remedy: str) -> BarnraiseError:
    """U109."""
    return BarnraiseError("U109", what, why, next=remedy)
