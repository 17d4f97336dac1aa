"""Data statements: Croissant 1.1 with RAI 1.0, as JSON-LD (https://docs.mlcommons.org/croissant/). Pure.

    check        what a statement must have; `CroissantFault` names the first thing that is not so
    Statement    a document's bytes, read strictly

A statement of private data has no file (`distribution` is empty) and a salted Merkle root over its records;
one of open data names each file with its address and SHA-256. Terms that neither Croissant nor schema.org
has are under `fed:`. `stating` makes statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from barnraise.protocols import canonical
from barnraise.protocols.canonical import NotCanonical, is_digest
from barnraise.protocols.values import is_licence, shortened

MAX_DOCUMENT = 1 << 20
"""Bytes of the longest document that is made or read."""
MAX_TEXT = 20_000  # characters of one text
MAX_PATH = 200  # characters of a path

CROISSANT = "http://mlcommons.org/croissant/1.1"
RAI = "http://mlcommons.org/croissant/RAI/1.0"
CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "prov": "http://www.w3.org/ns/prov#",
    "fed": "urn:barnraise:",
}
_HEX = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r".* (sha256:[0-9a-f]{64})", re.DOTALL)
_URL = re.compile(r"https?://[^\s<>\"]+")

TEXT = {"name": "name", "description": "description", "licence": "license", "version": "version"}
RAI_TEXT = {
    "collected": "rai:dataCollection",
    "sensitive": "rai:personalSensitiveInformation",
    "biases": "rai:dataBiases",
    "limitations": "rai:dataLimitations",
    "use_cases": "rai:dataUseCases",
    "preprocessing": "rai:dataPreprocessingProtocol",
}


class CroissantFault(ValueError):
    """A data statement that is not one. The message names the field."""


Processing = Mapping[str, str]
"""The processing code's files: SHA-256 (hex) by path."""


def processing_digest(code: Processing) -> str:
    """Names processing code: the digest of its sorted (path, digest) list, as an app is named."""
    return canonical.digest_of([[path, f"sha256:{code[path]}"] for path in sorted(code)])


@dataclass(frozen=True)
class Statement:
    """A document's bytes that are canonical JSON and pass `check`."""

    data: bytes
    document: Mapping[str, Any]

    @classmethod
    def read(cls, data: bytes) -> Statement:
        """Raises `CroissantFault`, also for what is too long or not in canonical form."""
        if len(data) > MAX_DOCUMENT:
            raise CroissantFault(f"the document has {len(data)} bytes; at most {MAX_DOCUMENT}")
        try:
            document = canonical.parse(data)
        except NotCanonical as error:
            raise CroissantFault(f"the document is {error}") from None
        check(document)
        return cls(data, document)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Statement:
        """Raises `CroissantFault`."""
        try:
            return cls.read(canonical.canonical(dict(document)))
        except NotCanonical as error:
            raise CroissantFault(f"the document is no JSON: {error}") from None

    @cached_property
    def digest(self) -> str:
        return canonical.digest(self.data)

    @property
    def open(self) -> bool:
        """Whether the data can be had by anybody."""
        return bool(self.document["distribution"])

    @property
    def records(self) -> int:
        count: int = self.document["fed:recordCount"]
        return count

    @property
    def root(self) -> bytes | None:
        """The Merkle root over the records; None for open data."""
        root = self.document.get("fed:recordMerkleRoot")
        return bytes.fromhex(root[7:]) if root is not None else None

    @property
    def code(self) -> Processing:
        """The processing code's files, where the statement names them."""
        return {one["name"]: one["sha256"] for one in self.document.get("fed:processingCode", ())}


def check(document: Any) -> None:
    """`CroissantFault`, naming the field, unless the document is a data statement as we demand it."""
    if not isinstance(document, dict):
        raise CroissantFault("a statement is a JSON object")
    _check_context(document.get("@context"))
    if document.get("@type") not in ("sc:Dataset", "Dataset", "https://schema.org/Dataset"):
        raise CroissantFault("@type must be sc:Dataset")
    conforms = document.get("conformsTo")
    if not isinstance(conforms, list) or not {CROISSANT, RAI} <= {c for c in conforms if _text(c)}:
        raise CroissantFault(f"conformsTo must name {CROISSANT} and {RAI}")
    for field in TEXT.values():
        _demand_text(document, field)
    _check_licence(document["license"])
    _check_place(document)
    _check_creator(document.get("creator"))
    for field in RAI_TEXT.values():
        _demand_texts(document, field)
    _check_counts(document)
    _check_data(document)


def _check_context(context: Any) -> None:
    if not isinstance(context, dict):
        raise CroissantFault("@context must be Croissant's")
    if context.get("@vocab") != CONTEXT["@vocab"]:
        raise CroissantFault(f"@context: @vocab must be {CONTEXT['@vocab']}")
    for key, wanted in CONTEXT.items():
        if key != "fed" and context.get(key) != wanted:
            raise CroissantFault(f"@context: {key} is not Croissant's")
    for key in context.keys() - CONTEXT.keys() | {"fed"}:
        if not _text(context.get(key)) or key.startswith("@"):
            raise CroissantFault(f"@context: {shortened(key)} must be an IRI")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_TEXT


def _demand_text(document: Mapping[str, Any], field: str) -> None:
    if field not in document:
        raise CroissantFault(f"{field} is missing")
    if not _text(document[field]):
        raise CroissantFault(f"{field} must be text, of {MAX_TEXT} characters at most")


def _demand_texts(document: Mapping[str, Any], field: str) -> None:
    """A text, or a list of some."""
    said = document.get(field)
    if isinstance(said, list) and said and all(map(_text, said)):
        return
    _demand_text(document, field)


def _check_licence(licence: str) -> None:
    if not _URL.fullmatch(licence) and not is_licence(licence):
        raise CroissantFault("license must be an SPDX expression or the address of the terms")


def _check_place(document: Mapping[str, Any]) -> None:
    if "url" not in document and "identifier" not in document:
        raise CroissantFault("url or identifier is missing")
    if "url" in document and not (_text(document["url"]) and _URL.fullmatch(document["url"])):
        raise CroissantFault("url must be an address that begins with https:// or http://")
    if "identifier" in document:
        _demand_text(document, "identifier")


def _check_creator(creator: Any) -> None:
    if not isinstance(creator, dict) or creator.get("@type") not in (
        "sc:Organization",
        "Organization",
    ):
        raise CroissantFault("creator must be a sc:Organization")
    if not _text(creator.get("name")):
        raise CroissantFault("creator must have a name")


def _check_counts(document: Mapping[str, Any]) -> None:
    generated = document.get("prov:wasGeneratedBy")
    label = generated.get("prov:label") if isinstance(generated, dict) else None
    if not _text(label) or not _LABEL.fullmatch(str(label)):
        raise CroissantFault(
            "prov:wasGeneratedBy must have a prov:label that ends with the digest of the processing code"
        )
    for field in ("fed:recordCount", "fed:byteCount"):
        count = document.get(field, 0 if field == "fed:byteCount" else None)
        if type(count) is not int or count < (1 if field == "fed:recordCount" else 0):
            raise CroissantFault(f"{field} must be a whole number, and more than nothing")


def _check_data(document: Mapping[str, Any]) -> None:
    files = document.get("distribution")
    if not isinstance(files, list):
        raise CroissantFault("distribution must be a list: empty for private data")
    root = document.get("fed:recordMerkleRoot")
    if not files:
        if not is_digest(root):
            raise CroissantFault("fed:recordMerkleRoot must be the digest over private data")
        if "fed:processingCode" in document:
            _check_code(document)
        return
    if root is not None:
        raise CroissantFault("fed:recordMerkleRoot is for private data alone")
    seen = set[str]()
    for number, file in enumerate(files):
        _check_file(file, f"distribution[{number}]")
        if file["@id"] in seen:
            raise CroissantFault(f"distribution[{number}]: @id stands there twice")
        seen.add(file["@id"])
    _check_code(document)


def _check_file(file: Any, where: str) -> None:
    if not isinstance(file, dict) or file.get("@type") != "cr:FileObject":
        raise CroissantFault(f"{where} must be a cr:FileObject")
    for field in ("@id", "name", "encodingFormat"):
        if not _text(file.get(field)):
            raise CroissantFault(f"{where}: {field} must be text")
    if not (_text(file.get("contentUrl")) and _URL.fullmatch(file["contentUrl"])):
        raise CroissantFault(f"{where}: contentUrl must be an address")
    if not _is_hex(file.get("sha256")):
        raise CroissantFault(f"{where}: sha256 must be 64 hex digits")


def _check_code(document: Mapping[str, Any]) -> None:
    listed = document.get("fed:processingCode")
    if not isinstance(listed, list):
        raise CroissantFault("fed:processingCode must list the files of the processing code")
    code: dict[str, str] = {}
    for one in listed:
        path, name = (one.get("name"), one.get("sha256")) if isinstance(one, dict) else (None, None)
        if not is_code_path(path) or not _is_hex(name) or path in code:
            raise CroissantFault("fed:processingCode: each file has a path of its own and a sha256")
        code[str(path)] = str(name)
    if any(other.startswith(f"{path}/") for path in code for other in code):
        raise CroissantFault("fed:processingCode: a file lies below another")
    found = _LABEL.fullmatch(document["prov:wasGeneratedBy"]["prov:label"])
    if found is None or found[1] != processing_digest(code):
        raise CroissantFault("prov:wasGeneratedBy names other code than fed:processingCode")


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def is_code_path(value: Any) -> bool:
    """Whether this is a relative path below some folder, as processing code may have it."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_PATH or not value.isprintable():
        return False
    return not any(part in ("", ".", "..") or "\\" in part for part in value.split("/"))


def languages(document: Mapping[str, Any]) -> Iterator[str]:
    """The languages that a statement names."""
    said = document.get("inLanguage", ())
    yield from [said] if isinstance(said, str) else said
