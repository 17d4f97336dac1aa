"""The Model Openness Framework's file: its form, and that the class which it claims follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import release_kit
import yaml

from barnraise.coordinator.release.documents.mof import (
    COMPONENTS,
    PAPER,
    REPORT,
    Included,
    components,
    lacking,
    mof,
    mof_class,
)
from barnraise.coordinator.release.facts import Facts

THIRD = [
    "Model architecture",
    "Model parameters (Final)",
    "Model card",
    "Data card",
    REPORT,
    "Evaluation results",
]
SECOND = [*THIRD, "Training code", "Inference code", "Evaluation code", "Evaluation data"]
FIRST = [
    *SECOND,
    "Datasets",
    "Data preprocessing code",
    "Model parameters (Intermediate)",
    PAPER,
]
ARCHITECTURES = {"transformer decoder", "other"}  # of those that the tool knows
each = pytest.mark.parametrize("facts", release_kit.ALL, ids=lambda made: made.__name__)


def held(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(mof(facts)["mof.yml"])
    return found


def licensed(names: list[str], licence: str | None = "Apache-2.0") -> dict[str, str | None]:
    return dict.fromkeys(names, licence)


@pytest.mark.parametrize(("names", "number"), [(FIRST, 1), (SECOND, 2), (THIRD, 3), ([], 0)])
def test_a_class_is_reached_by_all_that_it_demands_and_by_no_less(
    names: list[str], number: int
) -> None:
    assert mof_class(licensed(names)) == number
    for name in names:
        less = licensed([one for one in names if one != name])
        closed = licensed(names) | {name: "LicenseRef-closed"}
        unlicensed = licensed(names) | {name: None}
        for other in (less, closed, unlicensed):
            if name == REPORT and PAPER in names:
                assert mof_class(other) == 1
            else:
                assert mof_class(other) != number
                assert lacking(other, number) == [name]


def test_a_class_above_does_not_make_up_for_one_below() -> None:
    without = [name for name in FIRST if name != "Model card"]
    assert mof_class(licensed(without)) == 0


def test_all_seventeen_components_are_known_and_the_optional_ones_never_lack() -> None:
    optional = {name for name, one in COMPONENTS.items() if not one.required}
    assert set(FIRST) | optional == set(COMPONENTS) and len(COMPONENTS) == 17
    assert len(optional) == 3 and not optional & set(FIRST)


@each
def test_it_has_the_tools_form(facts: Callable[[], Facts]) -> None:
    value = held(facts())
    assert value["framework"] == {
        "name": "Model Openness Framework",
        "version": "1.0",
        "date": "2024-12-15",
    }
    release = value["release"]
    texts = ("name", "version", "date", "type", "architecture", "origin", "producer", "contact")
    assert all(isinstance(release[key], str) for key in texts)
    assert release["name"] and release["version"] and release["date"] == "2026-11-24"
    assert release["type"] in ("language", "other") and release["architecture"] in ARCHITECTURES
    assert set(release["license"]) <= {"distribution", "code", "data", "document"}
    for one in release["components"]:
        assert set(one) == {"name", "description", "license", "component_path"}
        assert one["description"] == COMPONENTS[one["name"]].description
        assert all(isinstance(text, str) and text for text in one.values())


@each
def test_the_class_that_it_claims_follows_from_its_components(facts: Callable[[], Facts]) -> None:
    value = held(facts())
    listed = {one["name"]: one["license"] for one in value["release"]["components"]}
    found = {n: licence if licence != "unlicensed" else None for n, licence in listed.items()}
    claimed = value["openness"]["class"]
    assert claimed.startswith(("Unclassified", "Class I ", "Class II ", "Class III "))
    assert ["Unclassified", "Class I", "Class II", "Class III"][mof_class(found)] == claimed.split(
        " -"
    )[0]
    named = {one["name"] for one in value["openness"]["not_open"]}
    assert set(COMPONENTS) - set(listed) <= named
    assert named | {n for n, licence in found.items() if licence} == set(COMPONENTS)
    assert all(one["why"] for one in value["openness"]["not_open"])


def test_private_data_leave_a_release_without_evaluation_data() -> None:
    said = held(release_kit.private())["openness"]
    assert said["class"] == "Class III - Open Model"
    assert said["next"] == "Class II - Open Tooling Model lacks: Evaluation data."
    why = {one["name"]: one["why"] for one in said["not_open"]}
    assert (
        why["Datasets"] == "the data are not stated to be open by basel, geneva, lausanne, zurich"
    )


def test_open_data_and_open_updates_lack_nothing_of_the_first_class_but_a_paper() -> None:
    said = held(release_kit.opened())["openness"]
    assert said["class"] == "Class II - Open Tooling Model"
    assert said["next"] == "Class I - Open Science Model lacks: Research paper."
    found = components(release_kit.opened())
    licences = {name: one.licence for name, one in found.items() if isinstance(one, Included)}
    assert mof_class(licences | {PAPER: "CC-BY-4.0"}) == 1


def test_one_members_private_data_are_enough() -> None:
    assert held(release_kit.mixed())["openness"]["class"] == "Class III - Open Model"


def test_without_a_licence_nothing_is_open() -> None:
    assert held(release_kit.flower_app())["openness"]["class"] == "Unclassified"
