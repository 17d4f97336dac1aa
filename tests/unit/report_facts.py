"""Facts of runs that never were, for the report's tests: of any size, with whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from math import exp
from typing import Any

from barnraise.coordinator.release.facts import DataFacts, Facts, MemberFacts
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.canonical import digest
from barnraise.protocols.charter import Charter
from barnraise.protocols.telling import RoundTold

CHARTER = """name = "stdlib"
licence = "Apache-2.0"

[task]
name = "causal-lm"
context = 128
width = 96

[training]
steps = 40
batch = 16
codec = "int8"

[strategy]
name = "diloco"
lr = 1.0
momentum = 0.3

[rounds]
count = 10
quorum = 3
grace = 30.0
deadline = 600.0

[release]
contributions = "open"
title = "A language model of the Alps"
description = "A small model of Python source text, to show how neighbours build together."
languages = ["en"]
contact = "model@example.org"
"""
NAMES = ("basel", "geneva", "lausanne", "zurich")


def hexed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def member(name: str, number: int = 0, **changed: Any) -> MemberFacts:
    kind = number % 2 == 0
    document = {
        "name": f"{name}-notes",
        "description": f"Source files that {name} keeps; not distributed.",
        "license": "https://example.org/terms",
        "distribution": [{"@type": "cr:FileObject", "name": "a.txt"}] if kind else [],
        "fed:recordCount": 1000 + number,
        "rai:dataBiases": ["Single site"],
        "rai:personalSensitiveInformation": ["Health"],
    }
    facts = MemberFacts(
        name,
        f"University of {name.title()}",
        hexed(name),
        str(int(hexed(name)[:16], 16)),
        steps=400,
        examples=6400,
        seconds=310.5 + number,
        data=DataFacts(digest(name.encode()), kind, document),
    )
    return replace(facts, **changed)


def told(number: int, names: Sequence[str], **changed: Any) -> RoundTold:
    """A round in which all went well; losses fall, a little differently at each member."""
    loss = 1.9 + 3.4 * exp(-number / 2.2)
    minute = f"2026-11-24T{8 + number // 60 % 12:02}:{number % 60:02}"
    own = {
        n: {"loss": loss + 0.07 * ((i * 7) % 5 - 2) / 2, "num-examples": 60}
        for i, n in enumerate(names)
    }
    one = RoundTold(
        number=number,
        model=digest(f"model {number}".encode()),
        started=f"{minute}:00.000000Z",
        ended=f"{minute}:41.000000Z",
        phases={"train": 25.0 + number % 7 if number else 0.0, "evaluate": 6.0, "other": 3.5},
        asked=tuple(names) if number else (),
        accepted=tuple(names) if number else (),
        refused={},
        late=(),
        absent=(),
        void=False,
        why="",
        before={"loss": loss * 1.1} if number else {},
        after={"loss": loss, "num-examples": 60 * len(names)},
        members=own,
        train={"loss": loss} if number else {},
        decision={},
        received=(4_600_000 + 10_000 * (number % 5)) if number else 5000,
        seconds_of=dict.fromkeys(names, 24.5) if number else {},
    )
    return replace(one, **changed)


def some_facts(names: Sequence[str] = NAMES, rounds: int = 10, **changed: Any) -> Facts:
    """A causal-lm of which nothing went wrong."""
    charter = Charter.parse(CHARTER)
    agreement = Agreement(
        "alps",
        "alps/log+1234abcd+AQID",
        digest(CHARTER.encode()),
        digest(b"app"),
        {n: hexed(n) for n in names},
        len(names),
    )
    facts = Facts(
        federation="alps",
        log="alps/log+1234abcd+AQID",
        run=hexed("run")[:16],
        name=charter.name,
        charter=charter,
        charter_text=CHARTER,
        terms=charter.release,
        licence=charter.licence,
        agreement=agreement,
        signed=tuple(names),
        members=tuple(member(n, i) for i, n in enumerate(names)),
        opened={"app": {"name": charter.name, "digest": digest(b"app")}},
        opened_at="2026-11-24T08:00:00.000000Z",
        closed_at="2026-11-24T08:12:30.000000Z",
        model=digest(b"the final model"),
        model_bytes=1_854_000,
        tensors=(("embed.weight", "F32", (256, 96)), ("out.weight", "F32", (96, 256))),
        parameters=463_000,
        rounds=tuple(told(number, names) for number in range(rounds + 1)),
        sent={number: 7_400_000 if number else 1_850_000 for number in range(rounds + 1)},
        final={"loss": 1.93, "num-examples": 240},
        contributions="open",
        code={"app.py": hexed("app.py")},
        versions={"barnraise": "0.1.0", "flwr": "1.41.0", "numpy": "2.4.6"},
        clause="barnraise verify stdlib-release",
    )
    return replace(facts, **changed)


def with_trouble(facts: Facts) -> Facts:
    """Round 3 with a refused and a late reply, round 5 void, round 6 with an absent member."""
    rounds, names = list(facts.rounds), [one.name for one in facts.members]
    first, second = names[0], names[1]
    rounds[3] = replace(
        rounds[3],
        accepted=tuple(names[2:]),
        refused={first: "M106: the array layers.0.weight holds NaN or infinity"},
        late=(second,),
        absent=(second,),
    )
    rounds[5] = replace(
        rounds[5],
        accepted=(first,),
        absent=tuple(names[1:]),
        void=True,
        why="1 of 4 replies counted, and the quorum is 3",
        members={},
        after=rounds[4].after,
    )
    rounds[6] = replace(rounds[6], accepted=tuple(names[1:]), absent=(first,))
    return replace(facts, rounds=tuple(rounds))


def compared(facts: Facts, better: float) -> Mapping[str, Any]:
    """A comparison in which the best member alone, the second, is `better` than all together."""
    names = [one.name for one in facts.members]
    loss = facts.rounds[-1].after["loss"]
    alone = {}
    for index, name in enumerate(names):
        worse = 0.04 * abs(index - 1) - better
        history = [
            [n, one.after["loss"] + (worse if n else 0.0)] for n, one in enumerate(facts.rounds)
        ]
        alone[name] = {
            "loss": loss + worse,
            "own": loss + worse - 0.02,
            "round": len(history) - 1,
            "history": history,
        }
    best = min(alone, key=lambda name: alone[name]["loss"])
    own = {n: values["loss"] for n, values in facts.rounds[-1].members.items()}
    gain = alone[best]["loss"] - loss
    return {
        "together": {"loss": loss, "own": own},
        "alone": alone,
        "best_alone": {"member": best, "loss": alone[best]["loss"]},
        "gain": {"nats_per_byte": gain, "part": gain / alone[best]["loss"]},
        "local_steps": 400,
    }
