"""The generated half of the wire: what `protocols/*.proto` give is what is committed.

`REGENERATE=1 pytest tests/unit/test_protocols_stubs.py` writes it anew (`make proto`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from barnraise.protocols import control_pb2, federation_pb2

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "barnraise/protocols"
PROTOS = ("federation", "control")
GENERATED = tuple(
    f"{proto}{kind}"
    for proto in PROTOS
    for kind in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the protocol compiler makes of the `.proto` today."""
    out = tmp_path_factory.mktemp("stubs")
    scripts = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'src'}"),
        *(f"--python_out={out}", f"--grpc_python_out={out}"),
        *(f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}", f"--mypy_out={out}"),
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--mypy_grpc_out=only_sync:{out}",
        *(str(ROOT / "src" / FOLDER / f"{proto}.proto") for proto in PROTOS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / FOLDER


@pytest.mark.parametrize("name", GENERATED)
def test_the_stubs_are_what_the_protos_give(generated: Path, name: str) -> None:
    fresh, kept = (generated / name).read_bytes(), ROOT / "protocols" / name
    if os.environ.get("REGENERATE"):
        kept.write_bytes(fresh)
    assert kept.read_bytes() == fresh, "the .proto changed: run `make proto`"


def test_the_protos_give_nothing_else(generated: Path) -> None:
    assert sorted(p.name for p in generated.iterdir()) == sorted(GENERATED)


def test_every_service_is_known_to_this_suite() -> None:
    """A new service must be put behind mTLS or named here as open."""
    services = federation_pb2.DESCRIPTOR.services_by_name
    known = {"Enrolment", "Session", "Exchange", "Membership", "Transparency"}
    assert set(services) == known
    assert set(control_pb2.DESCRIPTOR.services_by_name) == {"Control"}  # on no port: a unix socket
