"""Signs a release: `model.sig`, in the format of OpenSSF Model Signing, by the library `model_signing`.

The key (P-256, PEM, 0600) lies in the federation's directory, or the simulation's, and is made for the
first release. The library is the extra `release`: without it a release has no `model.sig`. A signature is
another one each time, so whoever releases again copies the first.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.files import keep
from barnraise.protocols.model_sig import FILE, check_model_sig, spelled

KEY = "release.key"
NAME = "barnraise-release"  # of the model, in the statement; wherever the release lies
EXTRA = ("model_signing", "OpenSSL")
"""What signing imports; `model_signing` forgets to ask for the second."""


def signer(directory: Path) -> str:
    """The key that signs this directory's releases, as the manifest has it; "" without the extra.

    Makes the key if there is none. Raises G121 if it cannot be read, G122 if there is one and nothing to
    sign with.
    """
    if not _is_installed(directory):
        return ""
    return spelled(_key(directory).public_key())


def sign(root: Path, directory: Path) -> bytes | None:
    """Write `root/model.sig` over every other file below `root`, and return it; None without the extra.

    Raises G121, G122, and G123 if a file cannot be signed: links and special files cannot.
    """
    if not _is_installed(directory):
        return None
    key = spelled(_key(directory).public_key())
    try:
        files = _signed(root, directory / KEY)
        data = (root / FILE).read_bytes()
        check_model_sig(data, files, key)
    except (OSError, ValueError) as error:
        (root / FILE).unlink(missing_ok=True)
        raise BarnraiseError(
            "G123",
            f"the release {root} cannot be signed",
            str(error),
            changed="nothing was published",
            next="a release has plain files only; see what the message names",
        ) from None
    return data


def _signed(root: Path, key: Path) -> dict[str, str]:
    """Let the library write the signature; which files it hashed, with their SHA-256 in hex."""
    from model_signing import hashing, manifest, signing

    class Named(hashing.Config):  # type: ignore[misc,unused-ignore]
        """Hashes all files but the signature, and names the model by no directory."""

        files: dict[str, str]

        def hash(self, model_path: hashing.PathLike, **options: object) -> manifest.Manifest:
            found = super().hash(model_path)
            held = list(found.resource_descriptors())
            self.files = {one.identifier: one.digest.digest_hex for one in held}
            kind = manifest.SerializationType.from_args(found.serialization_type)
            items = [kind.new_item(one.identifier, one.digest) for one in held]
            return manifest.Manifest(NAME, items, kind)

    config = Named()  # type: ignore[no-untyped-call,unused-ignore]
    config.set_ignored_paths(paths=[FILE], ignore_git_paths=False)
    signed = signing.Config()  # type: ignore[no-untyped-call,unused-ignore]
    signed.use_elliptic_key_signer(private_key=key)
    signed.set_hashing_config(config).sign(root, root / FILE)
    return config.files


def _is_installed(directory: Path) -> bool:
    if all(find_spec(name) for name in EXTRA):
        return True
    if not (directory / KEY).exists():
        return False
    raise BarnraiseError(
        "G122",
        "what signs releases is not installed",
        f"{directory / KEY} has signed releases; {' and '.join(EXTRA)} are not both here",
        changed="nothing was released",
        next="pip install 'barnraise[release]'",
    )


def _key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """The directory's key, made if there is none."""
    path = directory / KEY
    try:
        held = path.read_bytes() if path.exists() else keep(path, _made())
        key = serialization.load_pem_private_key(held, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("it is no P-256 key")
    except (OSError, TypeError, ValueError) as error:
        raise BarnraiseError(
            "G121",
            f"the key that signs releases, {path}, cannot be read",
            str(error),
            changed="nothing was released",
            next=f"restore {path}, or move it away: the next release is then signed by a new key",
        ) from None
    return key


def _made() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
