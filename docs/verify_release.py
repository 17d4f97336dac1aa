"""Verify a Barnraise release without Barnraise: from the log's key to the weights.

    python verify_release.py DIR [LOG_KEY]

Needs Python 3.11 and `cryptography`. It ends with an error at the first thing that does not hold. What it
leaves to `barnraise verify`: the log's rules, metrics.json, contributions, data statements, model.sig.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ROOT = Path(sys.argv[1])


def check(holds, what):
    if not holds:
        sys.exit(f"WRONG: {what}")
    print(f"ok: {what}")  # noqa: T201


def signed(key, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        sys.exit(f"WRONG: {what}")


def sha256(data, prefix=b""):
    return hashlib.sha256(prefix + data)


def tree(hashes):  # RFC 6962, section 2.1
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(tree(hashes[:split]) + tree(hashes[split:]), b"\x01").digest()


def entries(size):  # C2SP tlog-tiles: each entry after its length in two bytes
    for first in range(0, size, 256):
        width = min(256, size - first)
        digits = f"{first // 256:03d}".zfill(-(-len(f"{first // 256:03d}") // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        data = (
            ROOT / f"log/tile/entries/{path}{f'.p/{width}' if width < 256 else ''}"
        ).read_bytes()
        while data:
            end = 2 + int.from_bytes(data[:2], "big")
            yield data[2:end]
            data = data[end:]


def body_of(data):  # a body too large for an entry is a file that the entry names
    body = json.loads(data)["body"]
    if set(body) == {"run", "blob"}:
        name = body["blob"].removeprefix("sha256:")
        data = (ROOT / f"log/blobs/sha256/{name[:2]}/{name[2:]}").read_bytes()
        if sha256(data).hexdigest() != name:
            sys.exit(f"WRONG: log/blobs: {name}")
        body = json.loads(data)
    return body


# 1. the checkpoint, by the log's key
raw = (ROOT / "manifest.json").read_bytes()
manifest, digest = json.loads(raw), f"sha256:{sha256(raw).hexdigest()}"
log = sys.argv[2] if len(sys.argv) > 2 else manifest["log"]
check(manifest["log"] == log, f"the manifest is of the log {log}")
text, _, lines = (ROOT / "log/checkpoint").read_text().rpartition("\n\n")
text, lines = f"{text}\n", [line.split(" ") for line in lines.splitlines()]
origin, size, root = text.splitlines()
name, _, key = log.split("+", 2)
ours = [base64.b64decode(line[2])[4:] for line in lines if line[1] == name]
check(origin == name and len(ours) == 1, f"one signature under the checkpoint is by {name}")
signed(base64.b64decode(key)[1:], ours[0], text.encode(), "log/checkpoint: the log's signature")

# 2. the entries give its root, and tell of the run
held = list(entries(int(size)))
leaves = [sha256(entry, b"\x00").digest() for entry in held]
check(
    len(held) == int(size) and tree(leaves) == base64.b64decode(root),
    f"{size} entries give the root",
)
told = [(json.loads(entry)["type"], body_of(entry)) for entry in held]
mine = [(kind, body) for kind, body in told if body.get("run") == manifest["run"]]
opened, closed = dict(mine)["run.opened"], dict(mine)["run.closed"]
named = [body["manifest"] for kind, body in mine if kind == "release.published"]
check(digest in named, f"the log names the manifest {digest}")

# 3. the agreement that the run was opened under, its signatures, and the members' cosignatures
agreed = opened.get("agreement", "")
check(
    agreed == manifest["agreement"], f"the run was opened under the agreement {agreed or '(none)'}"
)
members = dict(opened["members"])
if agreed:
    data = (ROOT / "agreement.json").read_bytes()
    check(f"sha256:{sha256(data).hexdigest()}" == agreed, "agreement.json is that agreement")
    agreement = json.loads(data)
    members, signers = agreement["members"], sorted((ROOT / "signatures").iterdir())
    for path in signers:
        one = json.loads(path.read_bytes())
        kind, payload = one["payloadType"].encode(), base64.b64decode(one["payload"])
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = base64.b64decode(one["signatures"][0]["sig"])
        signed(
            bytes.fromhex(members[path.stem]), signature, message, f"{path}: the member's signature"
        )
        if json.loads(payload) != {"federation": manifest["federation"], "agreement": agreed}:
            sys.exit(f"WRONG: {path} signs something else")
    check(len(signers) >= agreement["quorum"], f"{len(signers)} members have signed it")
witnesses = set()
for _, who, line in lines:
    if who != name:
        data = base64.b64decode(line)
        stamp = int.from_bytes(data[4:12], "big")
        message = f"cosignature/v1\ntime {stamp}\n{text}".encode()
        signed(
            bytes.fromhex(members[who]), data[12:], message, f"log/checkpoint: cosigned by {who}"
        )
        witnesses.add(who)
quorum = (len(members) + (len(members) - 1) // 3) // 2 + 1
check(len(witnesses) >= quorum, f"cosigned by {', '.join(sorted(witnesses))}; {quorum} must")

# 4. every file, and the weights
found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if not path.is_dir()}
covered = {path for path in found if path not in ("manifest.json", "model.sig")}
covered = {path for path in covered if not path.startswith("log/")}
check(covered == set(manifest["files"]), "no file is missing and none is unknown")
for path, said in manifest["files"].items():
    if (ROOT / path).is_symlink():
        sys.exit(f"WRONG: {path} is a link")
    with (ROOT / path).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != said["sha256"]:
            sys.exit(f"WRONG: {path} is another file")
check(True, f"{len(covered)} files have the SHA-256 that the manifest names")
weights = f"sha256:{manifest['files']['model.safetensors']['sha256']}"
check(weights == closed["model"] == manifest["model"], f"the run ended with the weights {weights}")
