"""A release: which files it has, and the manifest that binds them. Pure: it opens no file.

    manifest.json covers every file but itself, `log/` and `model.sig`; an entry of the log names it.

What lies in `log/` is bound by the log's own checkpoint, `model.sig` by its signature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from barnraise.protocols import canonical

FORMAT = "barnraise-release/v1"
MANIFEST, SIGNATURE, LOG, CHECKPOINT = "manifest.json", "model.sig", "log/", "log/checkpoint"
MODEL, CHARTER, AGREEMENT = "model.safetensors", "charter.toml", "agreement.json"
METRICS, COMPARISON, VERSIONS = "metrics.json", "comparison.json", "code/versions.json"
CODE, MEMBERS, SIGNATURES, DATA = "code/app/", "members/", "signatures/", "data/"
CONTRIBUTIONS, LOG_BLOBS, ENCRYPTED = "contributions/", "log/blobs/", ".age"
SEALED, AUDITORS, OPEN = "sealed", "auditors", "open"
MAX_MANIFEST = 64 << 20  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"sha256/([0-9a-f]{2})/([0-9a-f]{62})")


class ReleaseError(ValueError):
    """What is no release, or no part of one."""


@dataclass(frozen=True)
class Manifest:
    """`Manifest.decode(m.encode()) == m`. `files` maps each path to its (bytes, SHA-256 in hex).

    `log` is the log's verifier key, `agreement` a digest or "", `signer` the P-256 key (base64 of its
    SubjectPublicKeyInfo) that signs `model.sig`, or "".
    """

    federation: str
    log: str
    run: str
    agreement: str
    model: str
    contributions: str
    signer: str
    files: Mapping[str, tuple[int, str]]

    def encode(self) -> bytes:
        """Canonical JSON."""
        files = {path: {"bytes": n, "sha256": held} for path, (n, held) in self.files.items()}
        return canonical.canonical(asdict(self) | {"format": FORMAT, "files": files})

    @property
    def digest(self) -> str:
        """What `release.published` names."""
        return canonical.digest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Strict: exactly what `encode` writes. Raises `ReleaseError`."""
        try:
            value = canonical.parse(data)
        except canonical.NotCanonical as error:
            raise ReleaseError(f"the manifest is {error}") from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ReleaseError(f"the manifest is not of the format {FORMAT}")
        del value["format"]
        if set(value) != set(cls.__dataclass_fields__):
            raise ReleaseError("the manifest has other fields than its format")
        return cls(**{**value, "files": _files(value["files"])}).checked()

    def checked(self) -> Manifest:
        """Itself; `ReleaseError` for a field that is not what it should be."""
        for name in ("federation", "log", "run", "agreement", "model", "contributions", "signer"):
            if not isinstance(getattr(self, name), str):
                raise ReleaseError(f"the manifest's {name} is not text")
        if not canonical.is_digest(self.model):
            raise ReleaseError("the manifest's model is no digest")
        if self.agreement and not canonical.is_digest(self.agreement):
            raise ReleaseError("the manifest's agreement is no digest")
        if self.contributions not in (SEALED, AUDITORS, OPEN):
            raise ReleaseError(f"contributions are {self.contributions!r} in the manifest")
        return self


def _files(value: Any) -> dict[str, tuple[int, str]]:
    if not isinstance(value, dict):
        raise ReleaseError("the manifest's files are no object")
    files = {}
    for path, one in value.items():
        if not is_sound_path(path) or not is_covered(path):
            raise ReleaseError(f"the manifest covers {path!r}, which it must not")
        if not isinstance(one, dict) or set(one) != {"bytes", "sha256"}:
            raise ReleaseError(f"what the manifest says of {path} is malformed")
        size, held = one["bytes"], one["sha256"]
        if type(size) is not int or size < 0 or not isinstance(held, str):
            raise ReleaseError(f"what the manifest says of {path} is malformed")
        if not _SHA256.fullmatch(held):
            raise ReleaseError(f"what the manifest says of {path} is malformed")
        files[path] = (size, held)
    return files


def is_covered(path: str) -> bool:
    """Whether the manifest binds the file at this path."""
    return path not in (MANIFEST, SIGNATURE) and not path.startswith(LOG)


def is_sound_path(path: object) -> bool:
    """Relative, of plain parts: none empty, none `.` or `..`, no backslash, no control character."""
    if not isinstance(path, str) or not 0 < len(path) <= 1024 or not path.isprintable():
        return False
    return "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def blob_path(digest: str) -> str:
    """`sha256:abcdef…` lies at `sha256/ab/cdef…`."""
    held = digest.removeprefix("sha256:")
    return f"sha256/{held[:2]}/{held[2:]}"


def digest_at(path: str) -> str | None:
    """`digest_at(blob_path(d)) == d`; None for any other path."""
    found = _BLOB.fullmatch(path)
    return f"sha256:{found[1]}{found[2]}" if found else None
