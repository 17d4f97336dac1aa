"""The SPDX document: valid against SPDX 3.0.1's own JSON schema, and read back by SPDX's own library.

SPDX's SHACL shapes are not run: no SHACL validator is among the dependencies. The library refuses most of
what they would: unknown properties, values outside of a list, wrong kinds.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import release_kit

from barnraise.coordinator.release.documents.card import card
from barnraise.coordinator.release.documents.mof import mof
from barnraise.coordinator.release.documents.sbom import sbom
from barnraise.coordinator.release.facts import Facts
from barnraise.protocols.canonical import digest

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "vectors/spdx-3.0.1/schema.json").read_text())
each = pytest.mark.parametrize("facts", release_kit.ALL, ids=lambda made: made.__name__)


def graph(facts: Facts) -> list[dict[str, Any]]:
    value = json.loads(sbom(facts)["sbom.spdx.json"])
    assert set(value) == {"@context", "@graph"}
    assert value["@context"] == SCHEMA["properties"]["@context"]["const"]
    found: list[dict[str, Any]] = value["@graph"]
    return found


def of_type(elements: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in elements if one["type"] == kind]


def ends(value: Any) -> Any:
    return [value[0], value[-1]] if isinstance(value, list) and len(value) > 2 else value


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """The schema's part for elements of one type. The whole schema tries each of a hundred types for each
    element, which takes half a minute."""
    part = {"$ref": f"#/$defs/{kind}", "unevaluatedProperties": False, "$defs": SCHEMA["$defs"]}
    return jsonschema.Draft202012Validator(part)


def test_every_kind_of_element_is_valid_by_spdxs_schema() -> None:
    """Of elements that have the same fields, and of relationships of the same kind, one is looked at, and of
    its lists the ends: the whole is for the slow suite."""
    kinds: dict[tuple[str, ...], dict[str, Any]] = {}
    for facts in release_kit.ALL:
        for one in graph(facts()):
            short = {key: ends(value) for key, value in one.items()}
            kinds.setdefault((one["type"], one.get("relationshipType", ""), *sorted(one)), short)
    listed = {one["$ref"].rpartition("/")[2] for one in SCHEMA["$defs"]["AnyClass"]["anyOf"]}
    for one in kinds.values():
        assert one["type"] in listed
        faults = [fault.message for fault in validator(one["type"]).iter_errors(one)]
        assert not faults, (one, faults)


def test_the_schema_would_notice() -> None:
    (model,) = of_type(graph(release_kit.private()), "ai_AIPackage")
    for wrong in ({"more": 1}, {"ai_autonomyType": "maybe"}, {"releaseTime": "yesterday"}):
        assert list(validator("ai_AIPackage").iter_errors(model | wrong))


@pytest.mark.slow
@each
def test_the_whole_is_valid_by_spdxs_schema(facts: Callable[[], Facts]) -> None:
    value = json.loads(sbom(facts())["sbom.spdx.json"])
    jsonschema.Draft202012Validator(SCHEMA).validate(value)


@each
def test_spdxs_own_library_reads_it_and_nothing_hangs_in_the_air(
    facts: Callable[[], Facts],
) -> None:
    import spdx_python_model

    elements = graph(facts())
    data = json.loads(sbom(facts())["sbom.spdx.json"])
    _, objects = spdx_python_model.load_data(data)
    assert len({one["spdxId"] for one in elements if "spdxId" in one}) == len(elements) - 1
    assert not objects.missing_ids


def test_the_model_and_each_members_data_are_there_with_what_their_profiles_demand() -> None:
    elements = graph(release_kit.private())
    (model,) = of_type(elements, "ai_AIPackage")
    data = of_type(elements, "dataset_DatasetPackage")
    common = {"name", "releaseTime", "software_downloadLocation", "software_primaryPurpose"}
    assert common | {"software_packageVersion", "suppliedBy"} <= set(model)
    assert all(
        common | {"builtTime", "originatedBy", "dataset_datasetType"} <= set(one) for one in data
    )
    assert len(data) == 4
    assert model["verifiedUsing"][0]["hashValue"] == release_kit.MODEL[7:]
    assert model["ai_useSensitivePersonalInformation"] == "yes"
    related = {
        (one["from"], one["relationshipType"]): one["to"]
        for one in of_type(elements, "Relationship")
    }
    assert related[model["spdxId"], "trainedOn"] == [one["spdxId"] for one in data]
    for one in (model, *data):
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            assert related[one["spdxId"], kind]


def test_private_and_open_data_differ() -> None:
    first, *others = of_type(graph(release_kit.mixed()), "dataset_DatasetPackage")
    assert first["dataset_confidentialityLevel"] == "clear"
    assert first["dataset_datasetAvailability"] == "directDownload"
    assert first["software_downloadLocation"].endswith("/letters.txt")
    assert {one["dataset_confidentialityLevel"] for one in others} == {"red"}
    assert not any("dataset_datasetAvailability" in one for one in others)


def test_where_nothing_is_stated_nothing_is_asserted() -> None:
    elements = graph(release_kit.flower_app())
    (model,) = of_type(elements, "ai_AIPackage")
    assert model["ai_useSensitivePersonalInformation"] == "noAssertion"
    assert "ai_hyperparameter" not in model
    data = of_type(elements, "dataset_DatasetPackage")
    assert {one["dataset_hasSensitivePersonalInformation"] for one in data} == {"noAssertion"}
    licences = of_type(elements, "simplelicensing_LicenseExpression")
    said = {one["simplelicensing_licenseExpression"] for one in licences}
    assert said == {"Apache-2.0", "CC0-1.0", "NOASSERTION"}


def test_the_charters_hyperparameters_are_there() -> None:
    (model,) = of_type(graph(release_kit.private()), "ai_AIPackage")
    held = {one["key"]: one["value"] for one in model["ai_hyperparameter"]}
    assert held["training.steps"] == "40" and held["strategy.name"] == "diloco"
    assert held["rounds.quorum"] == "3" and held["task.context"] == "64"


PRINT = """
import release_kit
from barnraise.coordinator.release.documents import card, mof, sbom
from barnraise.protocols.canonical import digest
for made in release_kit.ALL:
    facts = made()
    for document in (card.card, sbom.sbom, mof.mof):
        for path, data in document(facts).items():
            print(made.__name__, path, digest(data))
"""


def test_the_same_facts_give_the_same_bytes_in_another_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=HERE,
        env={
            "PYTHONHASHSEED": "7",
            "PYTHONPATH": ":".join([str(HERE), *sys.path]),
            "TZ": "Asia/Tokyo",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = [
        f"{made.__name__} {path} {digest(data)}"
        for made in release_kit.ALL
        for document in (card, sbom, mof)
        for path, data in document(made()).items()
    ]
    assert done.stdout.splitlines() == here
