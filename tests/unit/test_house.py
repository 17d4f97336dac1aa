"""The walls of the house (DESIGN §2): who may know whom, what is shipped, what is documented."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from barnraise.protocols.errors import CODES

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("protocols", "strategies", "coordinator", "client")
KNOWS = {
    "protocols": {"protocols"},
    "strategies": {"strategies", "protocols"},
    "coordinator": {"coordinator", "strategies", "protocols"},
    "client": {"client", "protocols"},
}
PUBLIC_FLWR = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def sources(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


ROOM_FILES = sources(*ROOMS)
STUBS = tuple(  # generated; a test compares them
    f"{proto}_pb2{kind}.py" for proto in ("federation", "control") for kind in ("", "_grpc")
)
FRONT_DOOR = [
    p
    for p in sources("src/barnraise")
    if p.relative_to(ROOT / "src/barnraise").parts[0] not in ROOMS
]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that the file may import, anywhere in it: `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("path", ROOM_FILES, ids=named)
def test_a_room_knows_only_whom_it_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        if is_within(module, "barnraise"):
            assert len(parts := module.split(".")) > 1, f"{named(path)} imports the front door"
            assert parts[1] in KNOWS[room], f"{named(path)} imports {module}"


@pytest.mark.parametrize("path", ROOM_FILES + FRONT_DOOR, ids=named)
def test_only_the_adapter_touches_what_is_inside_flwr(path: Path) -> None:
    if named(path) == "protocols/flower.py":
        assert any(is_within(m, "flwr.supercore") for m in imports(path))
        return
    for module in imports(path):
        public = any(module == p or module.rpartition(".")[0] == p for p in PUBLIC_FLWR)
        assert not module.startswith("flwr.") or public, f"{named(path)} imports {module}"


@pytest.mark.parametrize("path", sources("protocols"), ids=named)
def test_nothing_in_protocols_stands_on_the_adapter(path: Path) -> None:
    stands_on = [m for m in imports(path) if is_within(m, "barnraise.protocols.flower")]
    assert not stands_on
    if path.name not in ("flower.py", "records.py"):
        assert not [m for m in imports(path) if is_within(m, "flwr")]


@pytest.mark.parametrize("path", sources("protocols", "strategies", "coordinator"), ids=named)
def test_no_torch_on_the_coordinators_side(path: Path) -> None:
    heavy = ("torch", "transformers", "matplotlib", "pandas", "ray")
    assert not [m for m in imports(path) if any(is_within(m, h) for h in heavy)]


@pytest.mark.parametrize(
    "path", [p for p in sources("protocols") if p.name not in STUBS], ids=named
)
def test_protocols_open_no_socket_and_read_no_clock(path: Path) -> None:
    outside = ("socket", "ssl", "asyncio", "grpc", "http", "urllib.request", "requests", "sqlite3")
    assert not [m for m in imports(path) if any(is_within(m, o) for o in outside)]
    clocks = ("time", "datetime") if path.name not in ("pki.py", "telling.py") else ("time",)
    assert not [m for m in imports(path) if any(is_within(m, c) for c in clocks)]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today"), f"{named(path)}:{node.lineno}"


@pytest.mark.parametrize("path", ROOM_FILES + FRONT_DOOR, ids=named)
def test_nothing_is_pickled(path: Path) -> None:
    assert not [m for m in imports(path) if any(is_within(m, p) for p in PICKLES)]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
            assert not (isinstance(node.value, ast.Name) and node.value.id == "torch")


def is_app(path: Path) -> bool:
    """Apps that tests run are what their authors write, not tests."""
    return "apps" in path.relative_to(ROOT).parts[:-1]


@pytest.mark.parametrize("path", [p for p in sources("tests") if not is_app(p)], ids=named)
def test_no_test_sleeps(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("time.sleep", "sleep"), f"{named(path)}:{node.lineno}"


IMPORT_ALL = """
import importlib, pkgutil, sys
for room in ("protocols", "strategies", "coordinator"):
    package = importlib.import_module("barnraise." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
loaded = [m for m in ("barnraise.coordinator.grid", "barnraise.protocols.flower") if m in sys.modules]
print(len(loaded), "torch" in sys.modules, "barnraise.client" in sys.modules)
"""


def test_the_whole_coordinator_runs_without_torch_and_without_the_client() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "False", "False"]


PURE = """
canonical content entries errors identity merkle randomness statements tensors apps progress files
notes pki invite release telling log_rules agreements
"""


def test_what_verification_needs_runs_without_flwr() -> None:
    names = ", ".join(f"barnraise.protocols.{n}" for n in PURE.split())
    code = f"import sys, {names}; print('flwr' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr


# --- what is shipped --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [f for f in listed.stdout.split("\0") if f and os.path.lexists(ROOT / f)]


@pytest.fixture(scope="module")
def built(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the tracked files, and a folder with its sdist and the wheel made from that."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for file in tracked:
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / file).is_symlink():
            target.symlink_to((ROOT / file).readlink())
        else:
            target.write_bytes((ROOT / file).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy, out


def test_a_wheel_built_through_the_sdist_holds_every_tracked_module(
    built: tuple[Path, Path], tracked: list[str]
) -> None:
    copy, out = built
    (wheel,) = out.glob("*.whl")
    expected = {
        f"barnraise/{file.removeprefix('src/barnraise/')}": copy / file
        for file in tracked
        if file.startswith((*(f"{room}/" for room in ROOMS), "src/barnraise/"))
        and file.endswith((".py", ".pyi", ".proto", ".toml", "py.typed"))
    }
    assert len([e for e in expected if e.endswith(".py")]) > 40
    assert "barnraise/py.typed" in expected
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert not expected.keys() - names
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name
        modules = {n for n in names if n.endswith(".py")}
        assert modules == {e for e in expected if e.endswith(".py")}
    tops = {n.partition("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"barnraise"}


def test_the_sdist_holds_the_licence(built: tuple[Path, Path]) -> None:
    (sdist,) = built[1].glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/barnraise/__init__.py"} <= names


# --- what is documented -----------------------------------------------------------------------

ROW = re.compile(r"^\|\s*`?([A-Z]\d{3})`?\s*\|(.+)\|(.+)\|\s*$", re.MULTILINE)


def test_every_error_code_is_documented_once() -> None:
    rows = ROW.findall((ROOT / "docs/errors.md").read_text())
    codes = [code for code, _, _ in rows]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(CODES)
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)


def used_codes() -> set[str]:
    """Every text in our code that is an error code, but for the register itself."""
    found = set()
    for path in ROOM_FILES + FRONT_DOOR:
        if named(path) != "protocols/errors.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= set(re.findall(r"^[ACDFGHKLMNPRSUVX]\d{3}\b", node.value))
    return found


def test_every_error_code_is_in_use_and_registered() -> None:
    assert used_codes() == set(CODES)
