"""Facts of releases, made up, from which documents are made in tests: private data, open data, a Flower
app without a charter, and one whose members chose names that every format must escape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from barnraise.coordinator.release.facts import DataFacts, Facts, MemberFacts
from barnraise.protocols import canonical
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.charter import Charter, ReleaseSection
from barnraise.protocols.telling import RoundTold

CHARTER = """name = "hospitals"
licence = "Apache-2.0"

[task]
name = "causal-lm"
context = 64

[training]
steps = 40
codec = "int8"

[strategy]
name = "diloco"
lr = 1.0

[rounds]
count = 3
quorum = 3
"""
TERMS = """
[release]
title = "Letters of four hospitals"
description = "Predicts the next byte of a letter. A demonstration, not for care."
languages = ["de", "fr"]
contact = "model@example.org"
"""
NAMES = ("basel", "geneva", "lausanne", "zurich")
ODD = {
    "a": 'Haus "A" & Söhne <script>alert(1)</script> | `rm` \\ *bold* _x_ [y](javascript:z)',
    "b": "- yes: no # {a: [1, 2]} ---\n\n# A heading\n| a | b |",
    "c": "‮rtl ‏ é \x00 \x1b[31m 日本語 'it''s' !tag &anchor %s %(x)s {{x}} $x$",
    "d": "~~gone~~ <!-- --> &amp; <img src=x onerror=y> 1. list + list > quote\t|",
}
MODEL = canonical.digest(b"the model")


def statement(name: str, organisation: str, *, is_open: bool) -> DataFacts:
    """A Croissant document with the fields that a member's statement has."""
    document: dict[str, Any] = {
        "@context": {"@vocab": "https://schema.org/", "fed": "https://example.org/fed/ns#"},
        "@type": "sc:Dataset",
        "conformsTo": [
            "http://mlcommons.org/croissant/1.1",
            "http://mlcommons.org/croissant/RAI/1.0",
        ],
        "name": f"{name}-letters",
        "description": f"Letters of {organisation}.",
        "license": "https://spdx.org/licenses/CC0-1.0" if is_open else "https://example.org/terms",
        "url": f"https://example.org/{name}",
        "version": "1.0.0",
        "datePublished": "2026-11-24",
        "creator": {"@type": "sc:Organization", "name": organisation},
        "fed:recordCount": 1200,
        "fed:recordMerkleRoot": "sha256:" + "1" * 64,
        "rai:personalSensitiveInformation": [] if is_open else ["Health"],
        "rai:dataLimitations": ["One site"],
        "rai:dataCollection": "Letters of 2019 to 2024.",
        "distribution": [],
    }
    if is_open:
        document["distribution"] = [
            {
                "@type": "cr:FileObject",
                "@id": "letters.txt",
                "contentUrl": f"https://example.org/{name}/letters.txt",
                "encodingFormat": "text/plain",
                "sha256": "2" * 64,
            }
        ]
    return DataFacts(canonical.digest_of(document), is_open, document)


def members(organisations: Mapping[str, str], stated: str) -> tuple[MemberFacts, ...]:
    """`stated` says whose data are open: "open" all, "mixed" the first's, "private" none's, "" unknown."""
    found = []
    for number, (name, organisation) in enumerate(sorted(organisations.items())):
        is_open = stated == "open" or (stated == "mixed" and number == 0)
        found.append(
            MemberFacts(
                name,
                organisation,
                canonical.digest(name.encode()).removeprefix("sha256:"),
                str(2**63 + number),
                steps=120,
                examples=1920,
                seconds=12.5 + number,
                data=statement(name, organisation, is_open=is_open) if stated else None,
            )
        )
    return tuple(found)


def one_round(number: int, names: tuple[str, ...], loss: float, **changes: Any) -> RoundTold:
    """A round in which everybody trained and measured `loss`, but for `changes`."""
    measured = {"loss": loss, "num-examples": 4000}
    told = RoundTold(
        number,
        canonical.digest(b"model %d" % number),
        f"2026-11-24T10:{number:02}:00.000000Z",
        f"2026-11-24T10:{number:02}:42.500000Z",
        {"train": 30.0 if number else 0.0, "evaluate": 10.0, "other": 2.5},
        names if number else (),
        names if number else (),
        {},
        (),
        (),
        False,
        "",
        {"loss": loss + 0.5, "num-examples": 4000} if number else {},
        measured,
        dict.fromkeys(names, measured),
        {"loss": loss + 0.1} if number else {},
        {},
        4_000_000 if number else 1000,
        dict.fromkeys(names, 12.5) if number else {},
    )
    return dataclasses.replace(told, **changes)


def rounds(names: tuple[str, ...]) -> tuple[RoundTold, ...]:
    """Round 0, a whole one, one with a refused and a late reply, and a void one."""
    first, *others = names
    return (
        one_round(0, names, 5.545),
        one_round(1, names, 3.25),
        one_round(
            2,
            names,
            2.75,
            accepted=tuple(others[1:]),
            refused={first: "M106: the array layers.0.weight is not finite"},
            late=(others[0],),
        ),
        one_round(
            3,
            names,
            2.75,
            accepted=(first,),
            absent=tuple(others),
            void=True,
            why="1 accepted reply, and the charter's quorum is 3",
        ),
    )


def comparison(names: tuple[str, ...]) -> dict[str, Any]:
    """Together against alone, as the demo's `metrics.json` has it."""
    alone = {
        name: {
            "loss": 3.2 + n / 10,
            "own": 2.9,
            "round": 3,
            "history": [[0, 5.5], [3, 3.2 + n / 10]],
        }
        for n, name in enumerate(names)
    }
    return {
        "together": {"loss": 2.75, "own": dict.fromkeys(names, 2.7)},
        "alone": alone,
        "best_alone": {"member": names[0], "loss": 3.2},
        "gain": {"nats_per_byte": 0.45, "part": 0.14},
        "local_steps": 120,
    }


def make(
    organisations: Mapping[str, str],
    stated: str,
    text: str = CHARTER + TERMS,
    contributions: str = "sealed",
    **changes: Any,
) -> Facts:
    """Facts of a run under this charter."""
    charter = Charter.parse(text)
    people = members(organisations, stated)
    names = tuple(one.name for one in people)
    log = "hospitals/log+12345678+AQ=="
    told = rounds(names)
    digests = (canonical.digest(text.encode()), canonical.digest(b"app"))
    keys = {one.name: one.key for one in people}
    facts = Facts(
        federation="hospitals",
        log=log,
        run="run-1",
        name=charter.name,
        charter=charter,
        charter_text=text,
        terms=charter.release,
        licence=charter.licence,
        agreement=Agreement("hospitals", log, *digests, keys, len(names)),
        signed=names,
        members=people,
        opened={"run": "run-1", "app": {"name": charter.name, "digest": digests[1]}},
        opened_at="2026-11-24T10:00:00.000000Z",
        closed_at="2026-11-24T10:04:00.000000Z",
        model=MODEL,
        model_bytes=1_580_000,
        tensors=(("embed.weight", "float32", (256, 96)), ("head.weight", "float32", (256, 96))),
        parameters=2 * 256 * 96,
        rounds=told,
        sent={1: 4_000_000, 2: 4_000_000, 3: 4_000_000},
        final=told[-1].after,
        contributions=contributions,
        code={"charter.toml": "3" * 64},
        versions={"barnraise": "0.1.0", "flwr": "1.41.0", "numpy": "2.3.0"},
    )
    return dataclasses.replace(facts, **changes)


HOSPITALS = {name: f"{name.capitalize()} University Hospital" for name in NAMES}


def private() -> Facts:
    """Four hospitals whose data stay where they are."""
    return make(HOSPITALS, "private")


def opened() -> Facts:
    """The same on open data, compared with each member alone; contributions are open."""
    return make(HOSPITALS, "open", contributions="open", comparison=comparison(NAMES))


def mixed() -> Facts:
    """One member's data are open, the others' are not."""
    return make(HOSPITALS, "mixed")


def flower_app() -> Facts:
    """A Flower app in a simulation: no charter, no agreement, no licence, no statements, NaN metrics."""
    facts = make(HOSPITALS, "")
    nothing = [
        dataclasses.replace(one, organisation="", steps=0, examples=0) for one in facts.members
    ]
    plain = [
        dataclasses.replace(one, before={}, after={}, members={}, train={})
        for one in facts.rounds[1:]
    ]
    return dataclasses.replace(
        facts,
        name="quickstart",
        charter=None,
        charter_text="",
        terms=ReleaseSection(),
        licence=None,
        agreement=None,
        signed=(),
        members=tuple(nothing),
        rounds=tuple(plain),
        sent={},
        final={"accuracy": float("nan"), "f1": 0.5},
        code={"quickstart/client_app.py": "4" * 64, "pyproject.toml": "5" * 64},
    )


def odd() -> Facts:
    """Organisations, texts and reasons that are Markdown, HTML, YAML and control characters."""
    title, description, contact = ODD["a"], ODD["b"], ODD["d"]
    facts = make(ODD, "mixed", comparison=comparison(tuple(ODD)))
    terms = facts.terms.model_copy(
        update={"title": title, "description": description, "contact": contact}
    )
    first = dataclasses.replace(facts.rounds[1], refused={"a": ODD["b"]}, why=ODD["c"])
    told = (facts.rounds[0], first, *facts.rounds[2:])
    code = {'odd/a "b" | c.py': "6" * 64}
    return dataclasses.replace(facts, terms=terms, rounds=told, code=code)


ALL = (private, opened, mixed, flower_app, odd)
