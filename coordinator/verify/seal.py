"""`model.sig`: a signature of the release itself, over every other file of it, by the manifest's signer."""

from __future__ import annotations

from collections.abc import Mapping

from barnraise.coordinator.verify.findings import Check
from barnraise.protocols import release
from barnraise.protocols.model_sig import SignatureFault, check_model_sig
from barnraise.protocols.release import Manifest


def check_seal(manifest: Manifest, data: bytes | None, digests: Mapping[str, str]) -> Check:
    """`digests` maps every other path of the release to its SHA-256 in hex."""
    check = Check("signature", "V119")
    if not manifest.signer:
        if data is not None:
            check.wrong(release.SIGNATURE, "the manifest names nobody who signs it")
        check.saw(f"the manifest names no signer, and there is no {release.SIGNATURE}")
        return check
    if data is None:
        check.wrong(release.SIGNATURE, "the manifest names a signer, and it is not there")
        return check
    others = {path: held for path, held in digests.items() if path != release.SIGNATURE}
    try:
        check_model_sig(data, others, manifest.signer)
    except SignatureFault as error:
        check.wrong(release.SIGNATURE, str(error))
    check.saw(f"{release.SIGNATURE} is the signer's over {len(others)} files")
    return check
