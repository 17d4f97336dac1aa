"""Sections: what was agreed on, and the digests, keys and versions on record."""

from __future__ import annotations

from collections.abc import Sequence

from barnraise.coordinator.release.documents.report import numbers
from barnraise.coordinator.release.documents.report.markup import Child, tag
from barnraise.coordinator.release.documents.report.section import Section, folded, pairs
from barnraise.coordinator.release.documents.report.story import Story
from barnraise.coordinator.release.facts import Facts
from barnraise.protocols.agreements import Agreement
from barnraise.protocols.charter import Charter


def charter(story: Story) -> Section:
    """The charter's key settings, who signed it, and its text."""
    facts = story.facts
    note = "Before the run opened the members signed this text, by its digest."
    if facts.agreement is None:
        note = "Nothing was signed before this run: it has no agreement."
    body: list[Child] = [pairs(*_settings(story))]
    if facts.charter_text:
        body.append(folded("The whole text", tag("pre", tag("code", facts.charter_text))))
    return Section("charter", "What was agreed", (tag("p", note),), body)


def _settings(story: Story) -> list[tuple[str, Child] | None]:
    facts = story.facts
    agreed: list[tuple[str, Child] | None] = [
        ("licence", facts.licence or "none stated"),
        ("contributions", facts.contributions),
    ]
    if facts.agreement is not None:
        agreed += [
            (
                "signed by",
                _signers(facts.signed, facts.agreement),
            ),
            ("agreement", tag("span", facts.agreement.digest, class_="digest")),
        ]
    languages, contact = facts.terms.languages, facts.terms.contact
    agreed += [
        ("languages", ", ".join(languages)) if languages else None,
        ("contact", contact) if contact else None,
    ]
    return [*(_of_charter(facts.charter) if facts.charter else [("app", facts.name)]), *agreed]


def _signers(signed: Sequence[str], agreement: Agreement) -> str:
    return f"{numbers.joined(signed) or 'nobody'} ({len(signed)} of {len(agreement.members)})"


def _size(facts: Facts) -> str:
    tensors = numbers.plural(len(facts.tensors), "tensor")
    return f"{numbers.count(facts.parameters)} in {tensors}, {numbers.size(facts.model_bytes)}"


def _of_charter(terms: Charter) -> list[tuple[str, Child] | None]:
    work, closing = terms.training, terms.rounds
    local = f"{numbers.plural(work.steps, 'step')}" if work.steps else f"{work.minutes:g} minutes"
    limits = [
        f"quorum {closing.quorum}" if closing.quorum else "no quorum",
        f"grace {numbers.duration(closing.grace)}" if closing.grace else "",
        f"deadline {numbers.duration(closing.deadline)}" if closing.deadline else "no deadline",
    ]
    return [
        ("task", _with(terms.task.name, terms.task.options)),
        ("strategy", _with(terms.strategy.name, terms.strategy.options)),
        ("rounds", f"{numbers.count(closing.count)}; {', '.join(filter(None, limits))}"),
        (
            "local work",
            f"{local} of {numbers.plural(work.batch, 'example')} a round, {work.optimizer} at {work.lr:g}",
        ),
        (
            "updates",
            "whole models" if work.codec is None else f"differences, coded as {work.codec}",
        ),
        ("update norm", f"at most {work.update_norm:g}") if work.update_norm else None,
        (
            "start",
            "a file beside the charter"
            if terms.model.init
            else f"made by the task, seed {terms.model.seed}",
        ),
    ]


def _with(name: str, options: object) -> str:
    given = options if isinstance(options, dict) else {}
    return ", ".join([name, *(f"{key} {value}" for key, value in sorted(given.items()))])


def technical(story: Story) -> Section:
    """For the engineer: digests, keys, versions, tensors."""
    facts = story.facts
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))
    app = facts.opened.get("app")
    code = app.get("digest") if isinstance(app, dict) else None
    shown = pairs(
        ("federation", facts.federation),
        ("run", tag("span", facts.run, class_="digest")),
        ("opened", tag("time", numbers.clock(facts.opened_at), datetime=facts.opened_at)),
        ("closed", tag("time", numbers.clock(facts.closed_at), datetime=facts.closed_at)),
        ("model", tag("span", facts.model, class_="digest")),
        (
            "parameters",
            _size(facts),
        ),
        ("app’s code", tag("span", str(code), class_="digest")) if code else None,
        ("made with", versions) if versions else None,
        ("log’s key", tag("span", facts.log, class_="digest")),
    )
    keys = tag(
        "dl",
        [
            [tag("dt", m.name), tag("dd", tag("span", m.key, class_="digest"))]
            for m in facts.members
        ],
        class_="pairs",
    )
    return Section(
        "record",
        "On record",
        (tag("p", "For those who check by hand."),),
        (shown, folded("The members’ keys (Ed25519)", keys)),
    )
