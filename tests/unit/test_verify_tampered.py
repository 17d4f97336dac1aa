"""L8: any change to any file of a release fails, and `verify` says where; so does the stranger's script."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pymerkle import InmemoryTree

from barnraise.cli import verify_work
from barnraise.coordinator.release.bundle import Bundle
from barnraise.coordinator.verify.policy import Policy, PolicyError
from barnraise.coordinator.verify.run import verify
from barnraise.protocols import notes
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.release import Manifest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "verify_release.py"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_verify", ROOT / "benchmarks/verify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_verify"] = module
    spec.loader.exec_module(module)
    return module


def released(folder: Path, rounds: int, mode: str) -> Path:
    """What the real writer makes of a made-up federation of four."""
    made = benchmark().federation(folder / f"{mode}{rounds}", rounds, 4, mode)
    benchmark().release(made, folder / f"{mode}{rounds}.release")
    made.journal.close()
    return folder / f"{mode}{rounds}.release"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("honest"), 2, "open")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("other"), 1, "sealed")


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    return shutil.copytree(honest, tmp_path / "r")


def places(root: Path) -> list[str]:
    """Where `verify` finds something wrong; its code where there is nothing to read."""
    try:
        return [fault.where for fault in verify(root).faults]
    except BarnraiseError as error:
        return [error.code]


def script(root: Path, *key: str) -> int:
    command = [sys.executable, "-I", str(SCRIPT), str(root), *key]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_l8_an_honest_release_holds(honest: Path, other: Path) -> None:
    for root in (honest, other):
        found = verify(root)
        assert found.faults == [] and len(found.cosigned) == 4 and len(found.unknowable) > 5
        assert script(root) == 0


def test_the_script_says_what_is_wrong_of_what_is_no_release(honest: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(honest, tmp_path / "release"))
    (copy / "agreement.json").unlink()
    for root, what in ((tmp_path, "manifest.json"), (copy, "agreement.json")):
        command = [sys.executable, "-I", str(SCRIPT), str(root)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        (told,) = ran.stderr.splitlines()
        assert ran.returncode == 1 and told.startswith("WRONG: ") and what in told


def test_the_root_is_pymerkles_too(honest: Path) -> None:
    tree = InmemoryTree(algorithm="sha256")
    for entry in Bundle(honest).entries():
        tree.append_entry(entry)
    assert tree.get_state().hex() == verify(honest).root


def test_l8_any_byte_of_any_file_matters(copy: Path) -> None:
    for path in sorted(p for p in copy.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        named = path.relative_to(copy).as_posix()
        for at in {0, len(whole) // 2, len(whole) - 1}:
            changed = bytearray(whole)
            changed[at] ^= 1
            path.write_bytes(changed)
            found = places(copy)
            assert found, f"byte {at} of {named}"
            told = any(named in where for where in found)
            assert told or named.startswith("log/") or named == "manifest.json", (named, found)
        for changed in (whole[:-1], whole + b"\n"):
            path.write_bytes(changed)
            assert places(copy), named
        path.unlink()
        assert places(copy), named
        path.write_bytes(whole)
    assert places(copy) == []


def swap(root: Path, one: str, two: str) -> None:
    (root / one).rename(root / "x")
    (root / two).rename(root / one)
    (root / "x").rename(root / two)


def add(path: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")

    return act


def reorder(root: Path) -> None:
    (path,) = (root / "log/tile/entries").iterdir()
    path = next(path.iterdir()) if path.is_dir() else path
    data = path.read_bytes()
    first = 2 + int.from_bytes(data[:2], "big")
    second = first + 2 + int.from_bytes(data[first : first + 2], "big")
    path.write_bytes(data[first:second] + data[:first] + data[second:])


def mutate_line(root: Path) -> None:
    """Another member's signature under one member's name."""
    path = root / "log/checkpoint"
    lines = path.read_text().split("\n")
    mine, theirs = (
        i for i, line in enumerate(lines) if line.startswith("— site-0") and i in (5, 6)
    )
    lines[mine] = " ".join([*lines[mine].split(" ")[:2], lines[theirs].split(" ")[2]])
    path.write_text("\n".join(lines))


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "two signatures swapped": (
        lambda r: swap(r, "signatures/site-00.json", "signatures/site-01.json"),
        "V105",
    ),
    "a signature that is another member's": (
        lambda r: shutil.copy(r / "signatures/site-00.json", r / "signatures/site-01.json"),
        "V105",
    ),
    "a file more": (add("evil.py"), "V104"),
    "a file more in the log": (add("log/evil"), "V104"),
    "a blob more in the log": (add("log/blobs/sha256/aa/" + "b" * 62), "V110"),
    "an empty directory": (lambda r: (r / "empty").mkdir(), "V104"),
    "a link": (lambda r: (r / "link").symlink_to("model.safetensors"), "V104"),
    "the log in another order": (reorder, "V108"),
    "a cosignature that is another's": (mutate_line, "V111"),
}


@pytest.mark.parametrize("name", CASES)
def test_l8_what_was_done_to_a_release_is_told(copy: Path, name: str) -> None:
    act, code = CASES[name]
    act(copy)
    assert verify(copy).faults[0].code == code


def test_an_older_log_and_other_weights_are_told(copy: Path, other: Path) -> None:
    shutil.rmtree(copy / "log")
    shutil.copytree(other / "log", copy / "log")
    found = {fault.code for fault in verify(copy).faults}
    assert {"V109", "V112"} & found and script(copy) != 0


def test_the_script_finds_the_core_of_it(copy: Path) -> None:
    for path in ("model.safetensors", "log/checkpoint", "manifest.json", "agreement.json"):
        whole = (copy / path).read_bytes()
        (copy / path).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        assert script(copy) != 0, path
        (copy / path).write_bytes(whole)
    add("evil.py")(copy)
    assert script(copy) != 0


def test_a_file_of_a_terabyte_is_told_and_not_read(copy: Path) -> None:
    for path in ("model.safetensors", "log/tile/entries/000.p/7", "more"):
        with (copy / path).open("ab") as file:
            file.truncate(1 << 40)
    found = verify(copy, progress=lambda what, done, total: bounded(total))
    assert {"model.safetensors", "more"} <= {fault.where for fault in found.faults}


def bounded(total: int) -> None:
    assert total < 1 << 30


def test_a_checkpoint_of_more_entries_than_there_are_tiles_costs_nothing(copy: Path) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    log = notes.verifier_key("evil/log", key.public_key().public_bytes_raw())
    note = notes.sign_checkpoint(key, notes.Checkpoint("evil/log", 1 << 62, bytes(32)))
    (copy / "log/checkpoint").write_bytes(note)
    path = copy / "manifest.json"
    path.write_bytes(replace(Manifest.decode(path.read_bytes()), log=log).encode())
    assert "log/checkpoint" in places(copy)


def test_what_a_manifest_says_does_not_reach_the_terminal_raw(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "manifest.json"
    manifest = replace(Manifest.decode(path.read_bytes()), run="\x1b[2J\x9b2J\nhonest")
    path.write_bytes(manifest.encode())
    with pytest.raises(BarnraiseError) as raised:
        verify_work.verify(copy, None)
    told = capsys.readouterr().err + str(raised.value)
    assert "\\x1b[2J" in told
    assert all(line.isprintable() for line in told.split("\n"))
    assert "\nhonest" not in told


def test_a_policy_pins(honest: Path) -> None:
    found = verify(honest)
    assert found.manifest is not None
    log, model = found.manifest.log, found.manifest.model
    stranger = notes.verifier_key("other/log", bytes(32))
    good = f'[log]\nkey = "{log}"\n[release]\nmodel = "{model}"\n[witnesses]\nmin_members = 4\n'
    assert verify(honest, Policy.parse(good)).faults == []
    bad = verify(honest, Policy.parse(f'[log]\nkey = "{stranger}"\n')).faults
    assert [f.code for f in bad] == ["V106"] and "other/log" in bad[0].why
    few = verify(honest, Policy.parse("[witnesses]\nquorum = 5\n")).faults
    assert [f.code for f in few] == ["V111"]
    for wrong in ("[log]\nkei = 1", "[x]\n", "log = 1", '[members]\nA = "00"', "["):
        with pytest.raises(PolicyError):
            Policy.parse(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [("[log]\nkey = 3", "log.key is not text"), ("[members]\na = 'zz'", "members.a is not 64 hex")],
)
def test_a_policy_says_what_is_wrong_with_a_key(text: str, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        Policy.parse(text)


def test_verification_imports_neither_torch_nor_flwr_nor_numpy() -> None:
    code = (
        "import sys, barnraise.cli.verify_work, barnraise.cli.main;"
        "sys.exit(' '.join({'torch', 'flwr', 'numpy', 'grpc'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
