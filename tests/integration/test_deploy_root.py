"""What the images run, run in a plain root directory as an engine would: the Dockerfile's own commands, user,
environment and health checks, on a read-only root, without capabilities or new privileges."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "deploy/container/Dockerfile").read_text())
STATE = "/var/lib/barnraise"

ENTER = """
set -e
root=$1; state=$2; secrets=$3; shift 3
mount --make-rprivate / && mount --bind "$root" "$root"
for place in $SHOWN; do mount --bind "$place" "$root$place"; done
mount --bind /proc "$root/proc" && mount --rbind /dev "$root/dev"
for place in $SHOWN; do mount -o remount,ro,bind "$root$place"; done
mount --bind "$state" "$root/var/lib/barnraise" && mount --bind "$secrets" "$root/run/secrets"
mount -o remount,ro,bind "$root" && mount -t tmpfs tmpfs "$root/tmp"
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --inh-caps=-all \
    --bounding-set=-all --no-new-privs env -i $ENVIRONMENT "$@"
"""


def said(word: str, stage: str = "") -> str:
    """What one instruction of the Dockerfile says, the last in its stage."""
    text = DOCKERFILE.split(f"FROM base AS {stage}")[1] if stage else DOCKERFILE
    found = re.search(rf"^{word} (.*)$", text, re.M)
    assert found, word
    return found[1]


def outermost(*places: str) -> list[str]:
    """Those of these directories that are in no other of them: an environment may be in the clone."""
    return [p for p in dict.fromkeys(places) if not {str(q) for q in Path(p).parents} & {*places}]


class Box:
    """A root directory with what an image has, and a volume."""

    def __init__(self, place: Path, invites: Path) -> None:
        self.root, self.state, self.secrets = place / "root", place / "state", invites
        for path in (self.root, self.state):
            path.mkdir(parents=True)
        place.chmod(0o755)
        os.chown(self.state, 10001, 10001)
        self.state.chmod(0o700)
        for name in ("proc", "dev", "tmp", "run/secrets", "var/lib/barnraise", "opt", "usr/local"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.shown = ["/usr", "/etc", *outermost(sys.base_prefix, sys.prefix, str(ROOT))]
        for path in map(Path, ("/bin", "/sbin", "/lib", "/lib64")):
            if path.is_symlink():
                (self.root / path.name).symlink_to(path.readlink())
            elif path.is_dir():
                self.shown.append(str(path))
        for shown in self.shown:
            (self.root / shown[1:]).mkdir(parents=True, exist_ok=True)
        (self.root / "opt" / "barnraise").symlink_to(sys.prefix)

    def begin(self, *command: str) -> subprocess.Popen[str]:
        environment = f"{said('ENV')} PYTHONPATH={ROOT / 'src'}"
        return subprocess.Popen(
            ["unshare", "-m", "bash", "-c", ENTER, "enter",
             str(self.root), str(self.state), str(self.secrets), *command],
            env={"SHOWN": " ".join(self.shown), "ENVIRONMENT": environment, "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip

    def run(self, *command: str) -> tuple[int, str, str]:
        process = self.begin(*command)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, out, err

    def does(self, *command: str) -> str:
        code, out, err = self.run(*command)
        assert code == 0, (command, err)
        return out


def until(ready: object, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    assert callable(ready)
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        threading.Event().wait(0.2)


@pytest.fixture
def place() -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to make a root directory and give up rights in it")
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("this machine allows no mount namespaces")
    made = Path("/var/tmp") / f"barnraise-root-{os.getpid()}"  # short, and every user may pass
    made.mkdir(mode=0o755)
    yield made
    shutil.rmtree(made)


def free_port() -> int:
    """One of two that follow each other."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_both_images_do_their_work_without_rights(place: Path) -> None:
    (place / "invites").mkdir()
    coordinator, node = (Box(place / name, place / "invites") for name in ("coordinator", "node"))
    entry = json.loads(said("ENTRYPOINT", "coordinator"))
    health = json.loads(said("HEALTHCHECK").partition(" CMD ")[2])
    port, beside = free_port(), str(free_port())
    coordinator.does(
        *(*entry, "found", "neighbours"),
        *("--host", f"127.0.0.1:{port}", "--dir", f"{STATE}/federation"),
    )
    serve = [*entry, *json.loads(said("CMD", "coordinator"))]
    running = [coordinator.begin(*(beside if word == "9464" else word for word in serve))]
    try:
        checks = [word.replace("9464", beside) for word in health]
        until(lambda: coordinator.run(*checks)[0] == 0, running[0])
        within = ("--dir", f"{STATE}/federation")
        invite = place / "invites" / "invite"
        invite.write_text(coordinator.does("barnraise", "invite", "basel", *within))
        (place / "node/root/usr/local/bin").mkdir(parents=True, exist_ok=True)
        script = str(ROOT / "deploy/container/join-and-run")
        assert json.loads(said("CMD", "node")) == ["/usr/local/bin/join-and-run"]
        running.append(node.begin(script))
        assert node.run(*health)[0] == 1, "it has not joined"

        def waiting() -> dict[str, str]:
            told = json.loads(coordinator.does("barnraise", "members", *within, "--json"))
            return next((m for m in told["members"] if m["status"] == "unconfirmed"), {})

        until(waiting, running[1])
        digits = waiting()["fingerprint"]
        coordinator.does(
            "barnraise", "members", "confirm", "basel", "--fingerprint", digits, *within
        )
        until(lambda: node.run(*health)[0] == 0, running[1])
        for process in running:
            shut_in(process.pid)
        assert node.run("touch", "/x")[0] == node.run("touch", "/usr/x")[0] == 1
        assert "basel" in node.does(
            "barnraise", "node", "status", "--dir", f"{STATE}/node", "--json"
        )
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        ends = [process.communicate(timeout=30) and process.returncode for process in running]
    assert ends == [0, 0]
    assert all(path.stat().st_uid == 10001 for path in (place / "node" / "state").rglob("*"))


def shut_in(pid: int) -> None:
    """A process of nobody in particular, that has no rights and can come by none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert shlex.split(status["Uid"]) == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
