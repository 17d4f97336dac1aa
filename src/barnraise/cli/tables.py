"""Members and runs as lines for a person."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from barnraise.cli import words

Said = dict[str, Any]


def members_lines(members: Sequence[Said]) -> list[str]:
    """A line per member."""
    width = max((len(one["member"]) for one in members), default=0)
    return [member_line(one, width) for one in members]


def member_line(one: Said, width: int) -> str:
    """`basel  idle since 12 s · Basel University Hospital · certificate for 29 days`."""
    name = f"{one['member']:{width}}"
    if one["status"] == "unconfirmed":
        return (
            f"{name}  waits to be confirmed; fingerprint {one['fingerprint']} "
            f"(barnraise members confirm {one['member']})"
        )
    parts = [_doing(one) if "state" in one else one["status"]]
    if one.get("organisation"):
        parts.append(one["organisation"])
    if one["status"] == "member" and one.get("certificate"):
        parts.append(_certificate(one["certificate"] - time.time()))
    if abs(one.get("skew", 0.0)) > 60:
        parts.append(f"its clock is {one['skew']:+.0f} s off")
    return f"{name}  {' · '.join(parts)}"


def _doing(one: Said) -> str:
    said = f"{one['state']} {one['detail']}".strip()
    return said if one["seconds"] is None else f"{said} since {words.duration(one['seconds'])}"


def _certificate(left: float) -> str:
    if left <= 0:
        return "certificate has ended"
    return (
        f"certificate for {left / 86400:.0f} days"
        if left > 172800
        else (f"certificate for {left / 3600:.0f} h")
    )


def plan_lines(told: Said) -> list[str]:
    """What `run plan` found."""
    lines = [
        f"{told['name']} · agreement {told['agreement']}",
        f"signed by {told['signed']} of {len(told['members'])}; {told['quorum']} must",
    ]
    width = max(len(one["member"]) for one in told["members"])
    for one in told["members"]:
        why = f": {one['why']}" if one["why"] else ""
        lines.append(f"  {one['member']:{width}}  {one['readiness']}{why}")
    if told["bytes"] is not None:
        down, up = words.size(told["bytes"]["down"]), words.size(told["bytes"]["up"])
        lines.append(f"each round and member: {down} down, {up} up")
    else:
        lines.append("bytes each way: known once the members have been asked and a round has run")
    if told["open"]:
        lines.append(f"the run {told['open']} is open")
    return lines


def run_line(one: Said) -> str:
    """`neighbours-1  finished  sha256:…`."""
    said = f"{one['name']}  {one['state']}"
    if one["model"]:
        said += f"  {one['model']}"
    if one["error"]:
        said += f"  error[{one['error']['error']}] {one['error']['what']}"
    return said
