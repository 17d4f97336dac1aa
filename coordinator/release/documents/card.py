"""`README.md`: a model card as the Hugging Face Hub reads it (https://hf.co/docs/hub/model-cards). Pure.

The header is for machines; `card_body` is for people. Nothing is said that the facts do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from barnraise.coordinator.release.documents.card_body import body
from barnraise.coordinator.release.documents.licences import hub
from barnraise.coordinator.release.documents.markup import as_yaml, is_finite, plain
from barnraise.coordinator.release.documents.stated import stated
from barnraise.coordinator.release.facts import Facts

COUNTS = frozenset({"num-examples", "steps"})
"""Metrics that count, and measure nothing."""
PIPELINES = {"causal-lm": "text-generation", "classification": "tabular-classification"}


def card(facts: Facts) -> Mapping[str, bytes]:
    """The model card, UTF-8."""
    text = f"---\n{as_yaml(_header(facts))}---\n\n{body(facts)}"
    return {"README.md": text.encode()}


def measured(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite measures among these metrics, by name."""
    return {
        key: value
        for key, value in sorted(metrics.items())
        if key not in COUNTS and is_finite(value)
    }


def _header(facts: Facts) -> dict[str, Any]:
    header: dict[str, Any] = dict(hub(facts.licence))
    if languages := sorted({tag.partition("-")[0].lower() for tag in facts.terms.languages}):
        header["language"] = languages
    header["library_name"] = "barnraise"
    header["tags"] = ["federated-learning", "barnraise", "flower", "safetensors"]
    if task := _pipeline(facts):
        header["pipeline_tag"] = task
    if datasets := sorted(set(_datasets(facts))):
        header["datasets"] = datasets
    if measures := measured(facts.final):
        header["metrics"] = [plain(name, 60) for name in measures]
        header["model-index"] = [_index(facts, measures)]
    return header


def _pipeline(facts: Facts) -> str | None:
    return PIPELINES.get(facts.charter.task.name) if facts.charter is not None else None


def _datasets(facts: Facts) -> list[str]:
    """Data that lie on the Hub, by their names there."""
    found = []
    for one in stated(facts.members):
        if one.open:
            parts = urlsplit(one.text("url"))
            path = parts.path.strip("/").split("/")
            if parts.netloc in ("huggingface.co", "hf.co") and path[0] == "datasets":
                found.append(plain("/".join(path[1:3]), 200))
    return [name for name in found if name]


def _index(facts: Facts, measures: Mapping[str, float]) -> dict[str, Any]:
    """The final measures: of the federation as one, not of its members."""
    task = _pipeline(facts) or "other"
    return {
        "name": plain(facts.title, 200),
        "results": [
            {
                "task": {"type": task},
                "dataset": {
                    "type": f"{plain(facts.federation, 100)}-held-out",
                    "name": "what the members held out of their own data",
                },
                "metrics": [
                    {"type": plain(name, 60), "name": plain(name, 60), "value": value}
                    for name, value in measures.items()
                ],
            }
        ],
    }
