"""What the demo's members say of their data: files of this Python's standard library, which anybody can have.

The addresses are those of the running version's tag in CPython's repository. A distribution may have changed
a file of its own: the SHA-256 that is stated is that of the file which was trained on.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

PROCESSING = "processing"
_TAG = platform.python_version().rstrip("+")
ADDRESS = f"https://raw.githubusercontent.com/python/cpython/v{_TAG}/Lib/{{path}}"


def write(data: Path, member: str, packages: Sequence[str], processing: Path) -> None:
    """`data`/<member>.data.toml; `processing` is where the code lies that chose the files."""
    named = ", ".join(packages)
    said = {
        "title": f"Python {_TAG} standard library: {named}",
        "description": f"Source files of the packages {named} of Python {_TAG}, as the demo of "
        f"Barnraise gives them to its member {member}.",
        "organisation": f"{member}, a member of the demo",
        "licence": "Python-2.0",
        "url": "https://docs.python.org/3/library/",
        "version": _TAG,
        "collected": "Copied from the Python installation on which the demo runs.",
        "source": "public",
        "languages": ["en"],
        "sensitive": ["none"],
        "biases": ["One programming language and one project, with comments in English"],
        "limitations": [
            "Too little text for a model of use; some files are left out for their size"
        ],
        "use_cases": ["Showing how a federation trains"],
        "preprocessing": ["None; files were chosen by the hash of their bytes"],
        "legal_basis": "The licence of the files",
        "processing_code": [f"../{PROCESSING}/{processing.name}"],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    text = "\n".join([*lines, "", "[open]", f"address = {json.dumps(ADDRESS)}", ""])
    (data / f"{member}.data.toml").write_text(text, encoding="utf-8")
