"""The part of the model card that people read, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from barnraise.coordinator.release.documents.markup import (
    code,
    count,
    is_finite,
    markdown,
    number,
    plain,
    table,
)
from barnraise.coordinator.release.documents.stated import Stated, data_are_open
from barnraise.coordinator.release.facts import SIMULATION, Facts, MemberFacts
from barnraise.protocols.telling import RoundTold

MOST_ROWS = 60  # of rounds; what is left out is in metrics.json
FIRST, LAST = 5, 20  # rounds that always stand there
CONTRIBUTIONS = {
    "sealed": "The members' updates are not in this release: nobody outside can recompute a round.",
    "auditors": "The members' updates are in `contributions/`, encrypted to the auditors whom the charter"
    " names: they can recompute the rounds.",
    "open": "The members' updates are in `contributions/`: anybody can recompute the rounds"
    " (`barnraise audit DIR`).",
}

INTO_A_MODEL = """\
from pathlib import Path

from safetensors.torch import load_file

from barnraise.client.tasks import load_task
from barnraise.protocols.charter import Charter

charter = Charter.read(Path("charter.toml"))
model = load_task(charter.task).model()
model.load_state_dict(load_file("model.safetensors"))
"""
UNKNOWABLE = (
    "A verifier learns who signed what, in which order, and that nothing was rewritten since. It cannot"
    " learn that an update came from the data that its member stated, or that a statement is true."
)
VERIFIED = """\
checks every signature, digest, proof and cosignature of this directory, offline, and says what it could not
know. Whoever would rather not install Barnraise runs `docs/verify_release.py` of its source code: one file,
which needs Python and `cryptography`.

If there is a `model.sig`, it is an OpenSSF Model Signing signature over every other file:
`model_signing verify key` takes it, with the key that `manifest.json` names.

The other files: `report.html` (how the training went), `sbom.spdx.json` (SPDX 3.0.1), `mof.yml` (Model
Openness Framework), `eu-summary.md`, `data/` (Croissant), `log/` (the transparency log, C2SP formats).
"""


def body(facts: Facts) -> str:
    """All sections, each with its heading, in order."""
    sections = (
        ("", _what(facts)),
        ("## How to load it", _load(facts)),
        ("## Members", _members(facts)),
        ("## Data", _data(facts)),
        ("## Training", _training(facts)),
        ("## Evaluation", _evaluation(facts)),
        ("## Together and alone", _comparison(facts)),
        ("## Limits", _limits(facts)),
        ("## How to verify", _verify(facts)),
    )
    parts = [part for head, text in sections if text for part in (head, text) if part]
    return "\n\n".join(parts) + "\n"


def _what(facts: Facts) -> str:
    paragraphs = [f"# {markdown(facts.title, 200)}"]
    if facts.terms.description:
        paragraphs.append(markdown(facts.terms.description))
    together = f"{count(len(facts.members), 'member')} of the federation {code(facts.federation)}"
    several = len(facts.members) > 1 and not facts.simulated
    alone = " together, each on its own hardware and its own data" if several else ""
    paragraphs.append(
        f"Trained by {together}{alone}, in {count(_rounds(facts), 'round')} of the run "
        f"{code(facts.run)}, from {facts.opened_at[:10]} to {facts.closed_at[:10]}."
    )
    if facts.simulated:
        paragraphs.append(SIMULATION)
    licence = code(facts.licence) if facts.licence else "**none was stated**"
    rows = [
        ("Parameters", f"{facts.parameters:,} in {count(len(facts.tensors), 'tensor')}"),
        ("File", f"`model.safetensors`, {facts.model_bytes:,} bytes"),
        ("SHA-256", code(facts.model.removeprefix("sha256:"))),
        ("Licence", licence),
        ("Contact", markdown(facts.terms.contact) if facts.terms.contact else "none was stated"),
        ("Made with", ", ".join(_versions(facts)) or "not on record"),
    ]
    paragraphs.append(table(("", ""), rows))
    return "\n\n".join(paragraphs)


def _versions(facts: Facts) -> Iterator[str]:
    for name, version in sorted(facts.versions.items()):
        yield f"{markdown(name, 60)} {markdown(version, 60)}"


def _rounds(facts: Facts) -> int:
    return sum(1 for one in facts.rounds if one.number > 0)


def _load(facts: Facts) -> str:
    torch = any(dtype.upper().startswith(("BF", "BFLOAT", "F8")) for _, dtype, _ in facts.tensors)
    module = "safetensors.torch" if torch else "safetensors.numpy"
    lines = [
        "The weights are plain safetensors: any tool that reads the format reads them.",
        f'```python\nfrom {module} import load_file\n\nweights = load_file("model.safetensors")\n```',
    ]
    if facts.charter is not None and facts.charter.task.own is None:
        lines += [
            "With Barnraise installed they go into the model that the charter describes:",
            f"```python\n{INTO_A_MODEL}```",
        ]
    else:
        lines.append("The code that gives them a meaning is in `code/app/`.")
    return "\n\n".join(lines)


def _members(facts: Facts) -> str:
    rows = [
        (
            code(one.name),
            markdown(one.organisation) or "not stated",
            "yes" if one.name in facts.signed else "no",
            _given(one.steps),
            _given(one.examples),
        )
        for one in facts.members
    ]
    head = ("member", "organisation", "signed the charter", "steps", "training examples")
    lines = [table(head, rows)]
    if facts.agreement is None:
        lines.append("This run had no agreement for members to sign.")
    return "\n\n".join(lines)


def _given(amount: int) -> str:
    return f"{amount:,}" if amount else "not reported"


def _data(facts: Facts) -> str:
    head = ("member", "what", "records", "licence", "access")
    rows = [_stated(one) for one in facts.members]
    said = (
        "Each row is what the member stated and signed of its own data; the statements are in `data/`."
        " Nobody else has looked at data that are private."
    )
    return "\n\n".join((said, table(head, rows)))


def _stated(member: MemberFacts) -> tuple[str, ...]:
    if member.data is None:
        return (code(member.name), "no statement", "", "", "unknown")
    one = Stated(member, member.data)
    what = markdown(one.text("description") or one.name, 300)
    records = f"{one.records:,}" if one.records is not None else "not stated"
    access = "open" if one.open else "private: it never left the member"
    licence = markdown(one.spdx or one.licence) or "not stated"
    return (code(member.name), what, records, licence, access)


def _training(facts: Facts) -> str:
    lines = []
    if (charter := facts.charter) is not None:
        work = charter.training
        much = f"{work.steps} steps" if work.steps else f"{number(work.minutes)} minutes"
        lines.append(
            f"Each round: {much} of {work.optimizer} at every member (batch {work.batch}, learning rate"
            f" {number(work.lr)}), combined by {code(charter.strategy.name)}. The whole charter is in"
            " `charter.toml`."
        )
    lines.append(CONTRIBUTIONS.get(facts.contributions, ""))
    shown, left_out = _shown(facts.rounds)
    key = _main_metric(facts)
    said = f"{key} before → after" if key else "measured"
    head = ("round", "asked", "counted", "refused", "late", "silent", "seconds", markdown(said), "")
    lines.append(table(head, [_round(one, key) for one in shown]))
    if left_out:
        lines.append(
            f"{count(left_out, 'round')} like their neighbours are in `metrics.json` only."
        )
    if reasons := [line for one in shown for line in _reasons(one)]:
        lines.append("\n".join(reasons))
    return "\n\n".join(line for line in lines if line)


def _shown(rounds: tuple[RoundTold, ...]) -> tuple[list[RoundTold], int]:
    """The rounds that stand in the table: all of a few, of many the ends and whatever was not plain."""
    if len(rounds) <= MOST_ROWS:
        return list(rounds), 0
    ends = {one.number for one in (*rounds[:FIRST], *rounds[-LAST:])}
    shown = [one for one in rounds if one.number in ends or not _is_plain(one)]
    return shown, len(rounds) - len(shown)


def _is_plain(one: RoundTold) -> bool:
    return not (one.void or one.refused or one.late or one.absent)


def _main_metric(facts: Facts) -> str:
    """What the rounds are compared by: the loss, or else the first finite measure."""
    for one in reversed(facts.rounds):
        names = [key for key, value in sorted(one.after.items()) if is_finite(value)]
        names = [key for key in names if key not in ("num-examples", "steps")]
        if names:
            return "loss" if "loss" in names else names[0]
    return ""


def _round(one: RoundTold, key: str) -> tuple[str, ...]:
    before, after = one.before.get(key), one.after.get(key)
    values = [number(value) for value in (before, after) if value is not None]
    amounts = (one.asked, one.accepted, one.refused, one.late, one.absent)
    note = "**void**: the model stayed as it was" if one.void else ""
    return (
        str(one.number) if one.number else "0 (as it began)",
        *(str(len(names)) for names in amounts),
        f"{sum(one.phases.values()):,.0f}",
        " → ".join(values) or "–",
        note,
    )


def _reasons(one: RoundTold) -> Iterator[str]:
    for name, reason in sorted(one.refused.items()):
        yield f"- Round {one.number}: the reply of {code(name)} was refused ({markdown(reason, 300)})."
    for names, what in ((one.late, "came too late"), (one.absent, "did not come")):
        for name in names:
            yield f"- Round {one.number}: the reply of {code(name)} {what}."
    if one.void:
        yield f"- Round {one.number} was void: {markdown(one.why, 300) or 'too few replies'}."


def _evaluation(facts: Facts) -> str:
    if not facts.final:
        return "The run measured nothing that is on record."
    said = "The final model, on what the members held out of their own data: the federation's mean."
    rows = [(markdown(key, 60), number(value)) for key, value in sorted(facts.final.items())]
    lines = [said, table(("measure", "value"), rows)]
    last = facts.rounds[-1].members if facts.rounds else {}
    keys = sorted({key for one in last.values() for key in one})
    if keys:
        lines.append("As each member measured it:")
        cells = [
            (code(name), *(number(last[name].get(key, "–")) for key in keys))
            for name in sorted(last)
        ]
        lines.append(table(("member", *(markdown(key, 60) for key in keys)), cells))
    return "\n\n".join(lines)


def _comparison(facts: Facts) -> str:
    """Together against alone; "" where nobody compared."""
    if facts.comparison is None:
        return ""
    try:
        return _compared(facts.comparison)
    except (KeyError, TypeError, AttributeError, ValueError):
        return "`comparison.json` holds the comparison that the operator gave."


def _compared(held: Mapping[str, Any]) -> str:
    together, alone = held["together"], held["alone"]
    rows = [
        (
            code(name),
            number(one["loss"]),
            number(one["own"]),
            number(together["own"].get(name, "–")),
        )
        for name, one in sorted(alone.items())
    ]
    part = held["gain"]["part"]
    said = (
        f"The same run with one member training at a time, {number(held['local_steps'])} steps each, measured"
        f" on the same held-out data. Together the loss is **{number(together['loss'])}**; the best that"
        f" a member reached alone is {number(held['best_alone']['loss'])}"
        f" ({code(held['best_alone']['member'])}): {abs(part):.1%} {'less' if part >= 0 else 'more'}"
        " together."
        " The operator gave this comparison; it does not follow from the log."
    )
    head = ("member", "alone, on all", "alone, on its own", "together, on its own")
    return "\n\n".join((said, table(head, rows)))


def _limits(facts: Facts) -> str:
    said = [UNKNOWABLE]
    if facts.contributions == "open":
        said.append(
            "The updates are public. They can tell something of the data that they came from."
        )
    if not data_are_open(facts.members):
        said.append("Not all data can be seen, so nobody outside can train the same model again.")
    if len(facts.members) < 4:
        said.append(
            "With fewer than four members, one who colludes with the coordinator can deceive."
        )
    if not facts.final:
        said.append("Nothing was measured on held-out data.")
    else:
        said.append("It was measured on the members' own held-out data, and on nothing else.")
    for member in facts.members:
        if member.data is not None:
            one = Stated(member, member.data)
            for field in ("rai:dataLimitations", "rai:dataBiases"):
                said += [f"{code(one.member)} says: {markdown(t, 300)}" for t in one.texts(field)]
    return "\n".join(f"- {line}" for line in said)


def _verify(facts: Facts) -> str:
    return f"```sh\n{plain(facts.clause)}\n```\n\n{VERIFIED.strip()}"
