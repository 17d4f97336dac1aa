"""The generated half of the wire: what `protocols/federation.proto` gives is what is committed.

`REGENERATE=1 pytest tests/unit/test_protocols_stubs.py` writes it anew (`make proto`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from barnraise.protocols import federation_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTO = "barnraise/protocols/federation.proto"
GENERATED = (
    "federation_pb2.py",
    "federation_pb2.pyi",
    "federation_pb2_grpc.py",
    "federation_pb2_grpc.pyi",
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
        str(ROOT / "src" / PROTO),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (out / PROTO).parent


@pytest.mark.parametrize("name", GENERATED)
def test_the_stubs_are_what_the_proto_gives(generated: Path, name: str) -> None:
    fresh, kept = (generated / name).read_bytes(), ROOT / "protocols" / name
    if os.environ.get("REGENERATE"):
        kept.write_bytes(fresh)
    assert kept.read_bytes() == fresh, "the .proto changed: run `make proto`"


def test_the_proto_gives_nothing_else(generated: Path) -> None:
    assert sorted(p.name for p in generated.iterdir()) == sorted(GENERATED)


def test_every_service_is_known_to_this_suite() -> None:
    """A new service must be put behind mTLS or named here as open."""
    services = federation_pb2.DESCRIPTOR.services_by_name
    assert set(services) == {"Enrolment", "Session", "Exchange", "Transparency"}
