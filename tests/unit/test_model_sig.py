"""`model.sig`: made by the `model_signing` library, checked by it, by openssl and by ours."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from barnraise.coordinator.release import signing
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.model_sig import (
    SignatureFault,
    bundle,
    check_model_sig,
    hint,
    pae,
    pem,
    public_key,
    spelled,
)

FILES = {
    "manifest.json": b"{}",
    "model.safetensors": bytes(1000),
    "empty": b"",
    "README.md": b"# Model",
    "a.txt": b"before a/, as texts go; after it, as paths go",
    "a/b/Ünïcode \"quoted\" 'name'.py": b"pass\n",
    "code/app/.gitignore": b"*\n",
    "log/checkpoint": b"x/log\n1\n",
}
needs_library = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in signing.EXTRA),
    reason="the extra `release` (model-signing, pyopenssl) is not installed",
)
pytestmark = needs_library


def sums(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "model.sig"
    }


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes, str]:
    """A release's folder, its federation's, `model.sig`, and the signer as the manifest has it."""
    root, directory = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("federation")
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    signer = signing.signer(directory)
    data = signing.sign(root, directory)
    assert data is not None and data == (root / "model.sig").read_bytes()
    return root, directory, data, signer


def test_the_key_is_made_once_and_nobody_else_may_read_it(
    signed: tuple[Path, Path, bytes, str],
) -> None:
    _, directory, _, signer = signed
    assert (directory / signing.KEY).stat().st_mode & 0o777 == 0o600
    assert signing.signer(directory) == signer == spelled(public_key(signer))


def test_every_file_but_the_signature_is_signed(signed: tuple[Path, Path, bytes, str]) -> None:
    root, _, data, signer = signed
    files = sums(root)
    assert set(files) == set(FILES)
    check_model_sig(data, files, signer)


def test_model_signing_takes_it_and_refuses_a_changed_an_added_and_a_lost_file(
    signed: tuple[Path, Path, bytes, str], tmp_path: Path
) -> None:
    from model_signing import verifying

    release, _, _, signer = signed
    key, root = tmp_path / "key.pem", tmp_path / "elsewhere"
    key.write_bytes(pem(public_key(signer)))
    shutil.copytree(release, root)

    def verify() -> None:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
        config.verify(root, root / "model.sig")

    verify()
    (root / "more").write_bytes(b"")
    with pytest.raises(ValueError, match="more"):
        verify()
    (root / "more").unlink()
    (root / "README.md").write_bytes(b"# Modem")
    with pytest.raises(ValueError, match=r"README\.md"):
        verify()
    (root / "README.md").unlink()
    with pytest.raises(ValueError, match=r"README\.md"):
        verify()


def test_openssl_takes_it(signed: tuple[Path, Path, bytes, str], tmp_path: Path) -> None:
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("there is no openssl command here")
    _, _, data, signer = signed
    envelope = json.loads(data)["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    (tmp_path / "key.pem").write_bytes(pem(public_key(signer)))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = [openssl, "dgst", "-sha256", "-verify", "key.pem", "-signature", "sig", "signed"]
    for signed_bytes, code in ((pae(payload), 0), (pae(payload + b" "), 1)):
        (tmp_path / "signed").write_bytes(signed_bytes)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == code, done.stdout


def test_no_byte_of_it_can_change(signed: tuple[Path, Path, bytes, str]) -> None:
    root, _, data, signer = signed
    files = sums(root)
    for place in [*range(0, len(data), 7), *range(150), *range(len(data) - 260, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(SignatureFault):
            check_model_sig(bytes(changed), files, signer)
    for more in (b"", b"\n", b" "):
        for other in (data[:-1] + more, data + more, more + data):
            if other != data:
                with pytest.raises(SignatureFault):
                    check_model_sig(other, files, signer)


def test_it_holds_for_these_files_only(signed: tuple[Path, Path, bytes, str]) -> None:
    root, _, data, signer = signed
    files = sums(root)
    for changed, said in (
        (files | {"more": "0" * 64}, "more is not signed"),
        (files | {"README.md": "0" * 64}, r"README\.md is not the file"),
        ({p: h for p, h in files.items() if p != "empty"}, "empty was signed and is not there"),
    ):
        with pytest.raises(SignatureFault, match=said):
            check_model_sig(data, changed, signer)


def test_it_holds_for_this_key_only(signed: tuple[Path, Path, bytes, str]) -> None:
    root, _, data, signer = signed
    files = sums(root)
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    for key, said in (
        (spelled(other), "byte for byte"),
        (spelled(curve), "no P-256 key"),
        (signer + "\n", "no public key"),
        ("", "no public key"),
        (signer[:-4], "no public key"),
    ):
        with pytest.raises(SignatureFault, match=said):
            check_model_sig(data, files, key)
    payload = base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"])
    stolen = base64.b64decode(json.loads(data)["dsseEnvelope"]["signatures"][0]["sig"])
    with pytest.raises(SignatureFault, match="not by the key"):
        check_model_sig(bundle(hint(other), payload, stolen), files, spelled(other))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"method": "files"', '"method": "shards"', "other fields"),
        ('"allow_symlinks": false', '"allow_symlinks": true', "other fields"),
        ('"allow_symlinks": false', '"allow_symlinks": 0', "other fields"),
        ('"model.sig"\n', '"model.sig",\n        "log"\n', "other fields"),
        ('"algorithm": "sha256"', '"algorithm": "blake3"', "other fields"),
        ('signature/v1.0"', 'signature/v2.0"', "other fields"),
        ('"name": "barnraise-release"', '"name": 1', "other fields"),
        ('"subject": [', '"more": 1,\n  "subject": [', "other fields"),
        ('"_type"', '"_type": 1, "_type"', "byte for byte"),
        ("{\n", "{", "byte for byte"),
        ('"README.md"', '"a.txt"', "README.md is not signed"),
        ("{", "[" * 100_000, "not JSON"),
    ],
)
def test_the_signers_own_key_cannot_sign_another_statement(
    signed: tuple[Path, Path, bytes, str], old: str, new: str, said: str
) -> None:
    root, directory, data, signer = signed
    payload = base64.b64decode(json.loads(data)["dsseEnvelope"]["payload"]).decode()
    changed = payload.replace(old, new, 1).encode()
    assert changed != payload.encode()
    key = serialization.load_pem_private_key((directory / signing.KEY).read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(pae(changed), ec.ECDSA(SHA256()))
    with pytest.raises(SignatureFault, match=said):
        check_model_sig(bundle(hint(key.public_key()), changed, signature), sums(root), signer)


def test_a_release_with_a_link_in_it_is_not_signed(
    signed: tuple[Path, Path, bytes, str], tmp_path: Path
) -> None:
    root = tmp_path / "release"
    root.mkdir()
    (root / "link").symlink_to("/etc/hostname")
    with pytest.raises(BarnraiseError, match="link") as caught:
        signing.sign(root, signed[1])
    assert caught.value.code == "G123"
    assert not (root / "model.sig").exists()


@pytest.mark.parametrize("held", [b"no key", b"", None])
def test_a_key_that_cannot_be_read_is_named(held: bytes | None, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / signing.KEY).write_bytes(other if held is None else held)
    with pytest.raises(BarnraiseError, match=r"release\.key") as caught:
        signing.signer(tmp_path)
    assert caught.value.code == "G121"


def test_without_the_extra_nothing_is_signed_unless_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "EXTRA", ("model_signing", "no_such_module_at_all"))
    assert signing.signer(tmp_path) == ""
    assert signing.sign(tmp_path, tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / signing.KEY).write_bytes(b"")
    with pytest.raises(BarnraiseError) as caught:
        signing.signer(tmp_path)
    assert caught.value.code == "G122"
