"""`sbom.spdx.json`: what the model was made of, as SPDX 3.0.1 JSON-LD with the AI and Dataset profiles
(https://spdx.github.io/spdx-spec/v3.0.1/). Pure: names follow from federation and run, times from the log.

SPDX's own library writes it, and refuses a property or a value that the model of SPDX does not have.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from barnraise.coordinator.release.documents.markup import count, plain
from barnraise.coordinator.release.documents.sbom_elements import Elements, moment
from barnraise.coordinator.release.documents.stated import Stated, stated
from barnraise.coordinator.release.facts import Facts, MemberFacts

PROFILES = ("core", "software", "simpleLicensing", "ai", "dataset")
MODELS = {"causal-lm": ["transformer"], "classification": ["multilayer perceptron"]}
DATA = {"causal-lm": ["text"], "classification": ["numeric", "structured"]}
OURS = "Apache-2.0"  # Barnraise's own licence
LIMITS = (
    "Measured on what the members held out of their own data and on nothing else. That an update came from"
    " the data that its member stated, and that a statement is true, cannot be verified from outside."
)


def sbom(facts: Facts) -> Mapping[str, bytes]:
    """The document, UTF-8; elements in the order of their names."""
    from spdx_python_model import v3_0_1 as spdx

    base = f"urn:barnraise:{quote(facts.federation, '')}:{quote(facts.run, '')}#"
    elements = Elements(spdx, base, facts.closed_at, "federation", "barnraise")
    _fill(elements, facts)
    objects = spdx.SHACLObjectSet(elements.objects())
    value = spdx.JSONLDSerializer().serialize_data(objects, force_at_graph=True)
    value["@graph"].sort(key=lambda one: str(one.get("spdxId") or one.get("@id")))
    return {"sbom.spdx.json": (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()}


def _fill(elements: Elements, facts: Facts) -> None:
    elements.add("Organization", "federation", name=plain(facts.federation))
    version = plain(facts.versions.get("barnraise", "unknown"), 60)
    elements.add("Tool", "barnraise", name=f"Barnraise {version}")
    for member in facts.members:
        name = plain(member.organisation) or plain(member.name)
        elements.add("Organization", f"member-{member.name}", name=name)
    model, app = _model(elements, facts), _app(elements, facts)
    elements.relate("generates", app, [model])
    _trained_on(elements, facts, model)
    ours = elements.licence("CC0-1.0", "document")
    common: dict[str, Any] = {"profileConformance": PROFILES}
    root = elements.add(
        "software_Sbom",
        "sbom",
        name=f"What {plain(facts.title, 200)} was made of",
        element=elements.names(),
        rootElement=[model],
        software_sbomType=["build"],
        **common,
    )
    elements.add(
        "SpdxDocument",
        "document",
        name=f"{plain(facts.title, 200)}, {plain(facts.run, 60)}",
        element=elements.names(),
        rootElement=[root],
        dataLicense=ours,
        **common,
    )


def _model(elements: Elements, facts: Facts) -> str:
    task = facts.charter.task.name if facts.charter is not None else ""
    model = elements.add(
        "ai_AIPackage",
        "model",
        name=plain(facts.title, 200),
        description=plain(facts.terms.description or ""),
        comment="The file model.safetensors; its SHA-256 is in the log.",
        ai_autonomyType="noAssertion",
        ai_hyperparameter=elements.entries(_hyperparameters(facts)),
        ai_informationAboutTraining=_training(facts),
        ai_limitation=LIMITS,
        ai_metric=elements.entries(facts.final.items()),
        ai_typeOfModel=MODELS.get(task),
        ai_useSensitivePersonalInformation=_sensitive(facts),
        software_primaryPurpose="model",
        software_packageVersion=plain(facts.run, 60),
        software_downloadLocation=_named_by(facts.model),
        releaseTime=moment(facts.closed_at),
        suppliedBy=elements.iri("federation"),
        originatedBy=[elements.iri(f"member-{one.name}") for one in facts.members],
        verifiedUsing=[elements.hash(facts.model)],
    )
    elements.licensed(model, elements.licence(facts.licence, "model"))
    return model


def _app(elements: Elements, facts: Facts) -> str:
    """The app's code: its files, and what they stand on."""
    opened = facts.opened.get("app") or {}
    digest = plain(opened.get("digest", "unknown"), 80)
    app = elements.add(
        "software_Package",
        "app",
        name=plain(opened.get("name") or facts.name),
        comment=f"App digest {digest}; the files are in code/app/.",
        software_primaryPurpose="application",
    )
    files = [
        elements.add(
            "software_File",
            f"file-{path}",
            name=plain(f"code/app/{path}"),
            software_primaryPurpose="source",
            verifiedUsing=[elements.hash(held)],
        )
        for path, held in sorted(facts.code.items())
    ]
    elements.relate("contains", app, files)
    elements.relate("dependsOn", app, list(_software(elements, facts)))
    return app


def _software(elements: Elements, facts: Facts) -> Iterator[str]:
    for name, version in sorted(facts.versions.items()):
        package = elements.add(
            "software_Package",
            f"package-{name}",
            name=plain(name, 60),
            software_packageVersion=plain(version, 60),
            software_packageUrl=f"pkg:pypi/{quote(name.lower(), '')}@{quote(version, '')}",
            software_primaryPurpose="library",
        )
        if name == "barnraise":
            elements.licensed(package, elements.licence(OURS, name))
        yield package


def _trained_on(elements: Elements, facts: Facts, model: str) -> None:
    packages = [_dataset(elements, facts, one) for one in facts.members]
    elements.relate("trainedOn", model, packages, completeness="complete")
    if facts.final:
        elements.relate("testedOn", model, packages, completeness="complete")


def _dataset(elements: Elements, facts: Facts, member: MemberFacts) -> str:
    """A member's data, as it states them; of data of which it states nothing, that there are some."""
    task = facts.charter.task.name if facts.charter is not None else ""
    said: dict[str, Any] = {
        "dataset_datasetType": DATA.get(task, ["noAssertion"]),
        "software_primaryPurpose": "data",
        "originatedBy": [elements.iri(f"member-{member.name}")],
    }
    if member.data is None:
        said["name"] = f"data of {plain(member.name)}"
        said["comment"] = "The member states nothing of them."
        said["dataset_hasSensitivePersonalInformation"] = "noAssertion"
        licence = elements.licence(None, member.name)
    else:
        one = Stated(member, member.data)
        said |= _stated(elements, facts, one)
        licence = elements.licence(one.spdx or one.licence, one.member)
    package = elements.add("dataset_DatasetPackage", f"data-{member.name}", **said)
    elements.licensed(package, licence)
    return package


def _stated(elements: Elements, facts: Facts, one: Stated) -> dict[str, Any]:
    when = _day(one.text("datePublished")) or moment(facts.opened_at)
    return {
        "name": plain(one.name, 200),
        "description": plain(one.text("description")),
        "comment": _about(one),
        "dataset_datasetSize": one.bytes,
        "dataset_datasetAvailability": "directDownload" if one.open else None,
        "dataset_confidentialityLevel": "clear" if one.open else "red",
        "dataset_hasSensitivePersonalInformation": _presence(one.sensitive),
        "dataset_dataCollectionProcess": plain(one.text("rai:dataCollection")),
        "dataset_dataPreprocessing": _plain(one.texts("rai:dataPreprocessingProtocol")),
        "dataset_knownBias": _plain(one.texts("rai:dataBiases")),
        "dataset_intendedUse": plain(one.text("rai:dataUseCases")),
        "software_downloadLocation": _address(one),
        "software_packageVersion": plain(one.text("version"), 60),
        "builtTime": when,
        "releaseTime": when,
        "verifiedUsing": [elements.hash(one.digest)],
    }


def _about(one: Stated) -> str:
    """What the hash is of, and how far the times go."""
    of = f" over {count(one.records, 'record')}" if one.records is not None else ""
    statement = f"data/{plain(one.member)}.croissant.json"
    return (
        f"The hash is that of the member's signed statement {statement}{of}; it names the data."
        " Without a date in the statement the times are when the run opened."
    )


def _address(one: Stated) -> str | None:
    """Where the data, or word of them, can be had."""
    first = one.files[0].get("contentUrl") if one.files else None
    for address in (first, one.text("url")):
        if isinstance(address, str) and urlsplit(address).scheme in ("http", "https"):
            return quote(plain(address), safe=":/?#[]@!$&'()*+,;=%~")
    return None


def _named_by(digest: str) -> str:
    """A file by its SHA-256 (RFC 6920): it is the same wherever it lies."""
    held = bytes.fromhex(digest.removeprefix("sha256:"))
    return "ni:///sha-256;" + urlsafe_b64encode(held).decode().rstrip("=")


def _hyperparameters(facts: Facts) -> Iterator[tuple[str, Any]]:
    """Every key of the charter but those of the release."""
    if facts.charter is None:
        return
    for section, values in facts.charter.model_dump(exclude={"release"}).items():
        if isinstance(values, dict):
            yield from (
                (f"{section}.{key}", value) for key, value in values.items() if value is not None
            )


def _training(facts: Facts) -> str:
    numbered = [one for one in facts.rounds if one.number > 0]
    void = sum(one.void for one in numbered)
    members = count(len(facts.members), "member")
    return (
        f"Trained by {members} of the federation {plain(facts.federation)}, each on its own data, in"
        f" {count(len(numbered), 'round')} ({void} void) of the run {plain(facts.run)}. Log:"
        f" {plain(facts.log)}. Members' updates in this release: {facts.contributions}."
    )


def _sensitive(facts: Facts) -> str:
    """`yes` if any member says so, `no` if all say no."""
    said = [one.sensitive for one in stated(facts.members)]
    if any(said):
        return "yes"
    whole = len(said) == len(facts.members) and None not in said
    return "no" if said and whole else "noAssertion"


def _presence(said: bool | None) -> str:
    return "noAssertion" if said is None else "yes" if said else "no"


def _plain(texts: Iterable[str]) -> list[str]:
    return [plain(text) for text in texts]


def _day(text: str) -> datetime | None:
    """A date, or a date with a time, at UTC unless it says otherwise."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment(found.isoformat() if found.tzinfo else f"{found.isoformat()}+00:00")
