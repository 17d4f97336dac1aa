"""An app's code by digest: the digest of its sorted (path, sha256) list, not of an archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from barnraise.protocols.canonical import digest, digest_of

CODE = frozenset({".py", ".pyi", ".toml", ".yaml", ".yml"})
_NOT_CODE = frozenset({"__pycache__", "build", "dist", "node_modules", "venv", "env"})
Code = Mapping[str, bytes | Path]
"""An app's files by relative path: their bytes, or, where they are large, the file that holds them."""
BUILT_IN = "builtin"  # the component that is the ClientApp of ours
CHARTER, INIT = "charter.toml", "init.safetensors"  # in the copy of a charter's app
_A_RUN = "journal.db"  # a directory that holds one is a run's, not the app's


def code_files(directory: Path) -> dict[str, bytes]:
    """The app's code: files ending in `CODE`, by path relative to `directory`.

    Hidden and built things, links, and directories of runs are left out, as are data and results: an
    app that writes its model beside itself is still the same app.
    """
    found: dict[str, bytes] = {}
    for root, folders, files in os.walk(directory):
        here = Path(root)
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".")
            and f not in _NOT_CODE
            and not f.endswith(".egg-info")
            and not (here / f).is_symlink()
            and not (here / f / _A_RUN).exists()
        )
        for name in sorted(files):
            path = here / name
            if path.suffix in CODE and not name.startswith(".") and not path.is_symlink():
                found[path.relative_to(directory).as_posix()] = path.read_bytes()
    return found


def code_kept(copy: Path) -> Code:
    """The code of which `copy` was made, a charter's initial weights with it."""
    code: dict[str, bytes | Path] = dict(code_files(copy))
    if (init := copy / INIT).is_file():
        code[INIT] = init
    return code


def app_digest(files: Code) -> str:
    """The digest of the sorted (path, sha256) list."""
    return digest_of([[path, digest_held(files[path])] for path in sorted(files)])


def digest_held(data: bytes | Path) -> str:
    """The digest of one file of an app."""
    if isinstance(data, bytes):
        return digest(data)
    with data.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
