"""Verify a Barnraise release without Barnraise: from the log's key to the weights.

    python verify_release.py DIR [LOG_KEY]

Needs Python 3.11 and `cryptography`. It ends with an error at the first thing that does not hold. What it
leaves to `barnraise verify`: the log's rules, metrics.json, contributions, data statements, model.sig.
"""

import hashlib
import json
import sys
from base64 import b64decode
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__))
sys.excepthook = lambda kind, why, _: print(f"WRONG: {kind.__name__}: {why}", file=sys.stderr)


def check(holds, what):
    if not holds:
        sys.exit(f"WRONG: {what}")


def signed(key, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        check(False, what)


def sha256(data, prefix=b""):
    return hashlib.sha256(prefix + data)


def tree(hashes):  # RFC 6962, section 2.1
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(tree(hashes[:split]) + tree(hashes[split:]), b"\x01").digest()


def entries():  # C2SP tlog-tiles: each entry after its length in two bytes
    paths = (ROOT / "log/tile/entries").rglob("*")
    for path in sorted((p for p in paths if p.is_file()), key=Path.as_posix):
        data = path.read_bytes()
        while data:
            end = 2 + int.from_bytes(data[:2], "big")
            yield data[2:end]
            data = data[end:]


def body_of(entry):  # a body too large for an entry is a file that the entry names
    body = json.loads(entry)["body"]
    if set(body) != {"run", "blob"}:
        return body
    name = body["blob"].removeprefix("sha256:")
    data = (ROOT / f"log/blobs/sha256/{name[:2]}/{name[2:]}").read_bytes()
    check(sha256(data).hexdigest() == name, f"log/blobs: {name}")
    return json.loads(data)


# 1. The log's key has signed the checkpoint.
check((ROOT / "manifest.json").is_file(), f"{ROOT}: no release, for it has no manifest.json")
raw = (ROOT / "manifest.json").read_bytes()
manifest = json.loads(raw)
log = sys.argv[2] if len(sys.argv) > 2 else manifest["log"]
check(log.count("+") > 1, f"{log!r} is no log's key, which is name+id+key")
text, _, lines = (ROOT / "log/checkpoint").read_text().rpartition("\n\n")
text, lines = f"{text}\n", [line.split(" ") for line in lines.splitlines()]
(origin, size, root), (name, _, key) = text.splitlines(), log.split("+", 2)
ours = [b64decode(line[2])[4:] for line in lines if line[1] == name]
check(len(ours) == 1, f"log/checkpoint: it is not signed by {name}")
signed(b64decode(key)[1:], ours[0], text.encode(), "log/checkpoint: the log's signature")

# 2. Its root follows from the entries, and they name the manifest.
held = list(entries())
leaves = [sha256(entry, b"\x00").digest() for entry in held]
check(len(held) == int(size) and tree(leaves) == b64decode(root), "log/tile: the checkpoint's root")
mine = [(json.loads(entry)["type"], body_of(entry)) for entry in held]
mine = [(kind, body) for kind, body in mine if body.get("run") == manifest["run"]]
named = [body["manifest"] for kind, body in mine if kind == "release.published"]
check(f"sha256:{sha256(raw).hexdigest()}" in named, "manifest.json: the log does not name it")
check((manifest["log"], origin) == (log, name), f"manifest.json: its log is not {log}")

# 3. The members have signed the agreement under which the run was opened, and cosigned the checkpoint.
opened, closed = dict(mine)["run.opened"], dict(mine)["run.closed"]
members, agreed = dict(opened["members"]), opened.get("agreement", "")
check(agreed == manifest["agreement"], "manifest.json: another agreement than the run's")
if agreed:
    data = (ROOT / "agreement.json").read_bytes()
    check(f"sha256:{sha256(data).hexdigest()}" == agreed, "agreement.json")
    members, paths = json.loads(data)["members"], list((ROOT / "signatures").iterdir())
    check(len(paths) >= json.loads(data)["quorum"], "signatures: too few")
    for path in paths:
        one = json.loads(path.read_bytes())
        kind, said = one["payloadType"].encode(), b64decode(one["payload"])
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(said), said)
        (signature,) = one["signatures"]
        signed(bytes.fromhex(members[path.stem]), b64decode(signature["sig"]), message, path)
        signs = {"federation": manifest["federation"], "agreement": agreed}
        check(json.loads(said) == signs, f"{path}: it signs something else")
for _, who, line in [line for line in lines if line[1] != name]:
    stamp, signature = int.from_bytes(b64decode(line)[4:12], "big"), b64decode(line)[12:]
    message = f"cosignature/v1\ntime {stamp}\n{text}".encode()
    signed(bytes.fromhex(members[who]), signature, message, f"log/checkpoint: {who}'s cosignature")
witnesses, quorum = (
    {line[1] for line in lines} - {name},
    (len(members) + (len(members) - 1) // 3) // 2 + 1,
)
check(len(witnesses) >= quorum, f"log/checkpoint: cosigned by {witnesses}, and {quorum} must")

# 4. Every file is the one that the manifest names, and the weights are those with which the run ended.
apart = {"manifest.json", "model.sig"}
found = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if not path.is_dir()}
found = {path for path in found if path not in apart and not path.startswith("log/")}
check(found == set(manifest["files"]), f"files: {sorted(found ^ set(manifest['files']))}")
for path, said in manifest["files"].items():
    check(not (ROOT / path).is_symlink(), f"{path}: a link")
    with (ROOT / path).open("rb") as file:
        check(
            hashlib.file_digest(file, "sha256").hexdigest() == said["sha256"],
            f"{path}: its SHA-256",
        )
weights = f"sha256:{manifest['files']['model.safetensors']['sha256']}"
check(weights == closed["model"] == manifest["model"], "model.safetensors: not the run's model")
print(
    f"{len(found)} files hold; cosigned by {', '.join(sorted(witnesses))}, of {len(members)} members"
)
print(f"the weights are {weights}; the log's key is {log}")
