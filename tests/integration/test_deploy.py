"""`deploy/`: what its files say is what their specifications allow, and what the program needs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from barnraise.cli.main import command

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
DOCKERFILE = DEPLOY / "container" / "Dockerfile"
UNITS = ("coordinator", "node")


def run(*words: str | Path, where: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)], cwd=where, capture_output=True, text=True, check=False, timeout=60
    )


def passes(*words: str | Path) -> None:
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr


# --- containers -------------------------------------------------------------------------------------


def instructions(stage: str) -> list[tuple[str, str]]:
    """The instructions of one stage of the Dockerfile, in sequence."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    found, name = list[tuple[str, str]](), ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            name = rest.split(" AS ")[1]
        elif name == stage and word and not line.startswith("#"):
            found.append((word, rest))
    assert found
    return found


def copied(stage: str) -> list[str]:
    """What of the repository a stage copies."""
    words = [rest.split() for word, rest in instructions(stage) if word == "COPY"]
    return [w for ws in words for w in ws[:-1] if not w.startswith("--") and not w.startswith("/")]


def test_the_dockerfile_passes_its_linter() -> None:
    passes(BIN / "hadolint", DOCKERFILE)


def test_the_context_is_what_is_copied_and_nothing_else() -> None:
    let_through = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert let_through == {*copied("build"), *copied("node")}
    assert all((ROOT / name).exists() for name in let_through)


def test_what_is_copied_is_enough_to_build_the_package(tmp_path: Path) -> None:
    for name in copied("build"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "src" / name, symlinks=True)
        else:
            (tmp_path / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "src" / name)
    passes(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("-o", tmp_path / "out", tmp_path / "src"),
    )
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert (
        "barnraise/client/node/daemon.py"
        in run(sys.executable, "-m", "zipfile", "-l", wheel).stdout
    )


def test_images_run_as_nobody_in_particular_and_hold_no_secret() -> None:
    base = dict(instructions("base"))
    assert base["USER"] == "10001:10001"
    for stage in ("build", "base", "coordinator", "node"):
        for word, rest in instructions(stage):
            if word in ("ENV", "ARG"):
                assert not re.search(r"(?i)token|secret|passw|invite|key=", rest)
    assert "pip uninstall" in base["RUN"]


def services() -> Mapping[str, Mapping[str, Any]]:
    told = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    found: Mapping[str, Mapping[str, Any]] = told["services"]
    return found


def test_the_compose_file_is_one() -> None:
    path = DEPLOY / "container" / "compose.yaml"
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_one_coordinator_and_three_nodes_are_shut_in() -> None:
    assert list(services()) == ["coordinator", "basel", "bern", "jena"]
    for name, service in services().items():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "environment" not in service and "env_file" not in service
        assert f"{name}:/var/lib/barnraise" in service["volumes"]
        if name != "coordinator":
            assert service["secrets"] == [{"source": name, "target": "invite"}]
            assert service["networks"] == ["members"] and "ports" not in service


# --- systemd ----------------------------------------------------------------------------------------


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit, with a program that is there in place of the one that it starts."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    name = f"barnraise-{request.param}.service"
    text = (DEPLOY / "systemd" / name).read_text()
    assert "/opt/barnraise/bin/barnraise " in text
    (tmp_path / name).write_text(text.replace("/opt/barnraise/bin/barnraise", "/bin/true"))
    return tmp_path / name


def test_a_unit_is_valid_and_leaves_little_open(unit: Path) -> None:
    done = run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    most = {"barnraise-coordinator": "15", "barnraise-node": "35"}[unit.stem]
    passes("systemd-analyze", "security", "--offline=true", f"--threshold={most}", unit)


NEEDED = """
unshare clone clone3 mount umount2 prctl seccomp capget capset setns wait4 kill socketpair sendmsg
landlock_create_ruleset landlock_add_rule landlock_restrict_self sched_setaffinity mbind statfs
sync_file_range fsync memfd_create
"""


def test_a_nodes_unit_lets_the_worker_shut_itself_in() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    text = (DEPLOY / "systemd" / "barnraise-node.service").read_text()
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", text, re.M):
        named = {call for word in line.removeprefix("~").split() for call in calls(word)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    assert set(NEEDED.split()) <= allowed
    assert "RestrictNamespaces=user net pid mnt\n" in text
    for covers in ("ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "MemoryDenyWrite"):
        assert not re.search(f"^{covers}", text, re.M)


def calls(word: str) -> Iterator[str]:
    """The system calls of a name, or of a set and the sets in it."""
    if not word.startswith("@"):
        yield word
        return
    for line in run("systemd-analyze", "syscall-filter", word).stdout.splitlines()[1:]:
        if (name := line.strip()) and not name.startswith("#"):
            yield from calls(name)


# --- Kubernetes ---------------------------------------------------------------------------------------


def manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))


def test_manifests_are_what_the_schemas_allow() -> None:
    files = [DEPLOY / "kubernetes" / f"{name}.yaml" for name in UNITS]
    done = run(BIN / "kubernetes-validate", "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == sum(len(manifests(n)) for n in UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_pods_keep_to_the_restricted_standard(name: str) -> None:
    (pod,) = [m["spec"]["template"]["spec"] for m in manifests(name) if m["kind"] == "StatefulSet"]
    assert pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for variable in container.get("env", []):
            assert "configMapKeyRef" in variable["valueFrom"]


def test_a_node_reaches_the_coordinator_and_names_alone() -> None:
    (policy,) = [m["spec"] for m in manifests("node") if m["kind"] == "NetworkPolicy"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["ingress"] == []
    reached = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert reached == {8440, 8441, 53}
    assert all(rule["to"] for rule in policy["egress"])


# --- Slurm --------------------------------------------------------------------------------------------

STUB = """#!{python}
import pathlib, signal, sys, time
place = pathlib.Path({place!r})
with (place / "called").open("a") as file:
    file.write(" ".join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:3] == ["node", "drain"]:
    (place / "drained").touch()
    print('{{"ok": true, "running": {listens}}}')
elif sys.argv[1:3] == ["node", "up"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (place / "up").touch()
    {body}
"""
UNTIL_DRAINED = 'while not (place / "drained").exists(): signal.sigtimedwait([], 0.02)'
FOR_EVER = "while True: signal.sigtimedwait([], 1)"


def job(
    tmp_path: Path, body: str, listens: str = "true", grace: str = "60"
) -> tuple[int, list[str]]:
    """The script as Slurm runs it, told after the node is up that its time ends; status and calls."""
    tools = tmp_path / "bin"
    tools.mkdir()
    text = STUB.format(python=sys.executable, place=str(tmp_path), body=body, listens=listens)
    for name in ("barnraise", "scontrol"):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "8",
        "BARNRAISE_GRACE": grace,
    }
    script = DEPLOY / "slurm" / "barnraise-node.sbatch"
    process = subprocess.Popen(["bash", script], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "runs as process" in line:
                break
        wait_for(tmp_path / "up")
        process.terminate()
        code = process.wait(30)
    finally:
        process.kill()
        process.wait()
    return code, (tmp_path / "called").read_text().splitlines()


def wait_for(path: Path) -> None:
    command = f"until [ -e {shlex.quote(str(path))} ]; do sleep 0.02; done"
    subprocess.run(["bash", "-c", command], check=True, timeout=20)


def test_a_job_drains_before_its_limit_and_queues_itself_again(tmp_path: Path) -> None:
    code, called = job(tmp_path, UNTIL_DRAINED)
    node = f"{tmp_path}/barnraise-node"
    assert code == 0
    assert called == [
        f"barnraise node up {node} --log-format json",
        f"barnraise node drain --dir {node} --json",
        "scontrol requeue 4711",
    ]


@pytest.mark.parametrize(("listens", "grace"), [("true", "0.1"), ("false", "60")])
def test_a_node_that_cannot_drain_in_time_is_ended(
    tmp_path: Path, listens: str, grace: str
) -> None:
    code, called = job(tmp_path, FOR_EVER, listens, grace)
    assert (code, called[-1]) == (0, "scontrol requeue 4711")


def test_a_node_that_is_revoked_does_not_come_back(tmp_path: Path) -> None:
    code, called = job(tmp_path, "signal.sigtimedwait([signal.SIGUSR1], 0.3); sys.exit(1)")
    assert code == 1
    assert not [call for call in called if call.startswith("scontrol")]


def test_shell_scripts_pass_their_linter() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not on this machine")
    passes(
        "shellcheck",
        DEPLOY / "slurm" / "barnraise-node.sbatch",
        DEPLOY / "container" / "join-and-run",
    )


# --- the pages ----------------------------------------------------------------------------------------


def pages() -> list[Path]:
    return [DEPLOY / "README.md", *sorted(DEPLOY.glob("*/README.md"))]


def typed(page: Path) -> Iterator[list[str]]:
    """The words after `barnraise` of every command that the page shows."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.splitlines():
            said = re.split(r"\s{3,}| [<>|;] ", line.strip())[0]
            if found := re.search(r"(?:^|-- |coordinator |/|basel |&& )barnraise ([a-z].*)$", said):
                yield shlex.split(found[1])


@pytest.mark.parametrize("path", ["container", "systemd", "kubernetes", "slurm"])
def test_the_commands_on_a_page_are_ours(path: str) -> None:
    commands = list(typed(DEPLOY / path / "README.md"))
    assert len(commands) >= 2
    for words in commands:
        at: click.Command = command()
        while isinstance(at, click.Group) and words and words[0] in at.commands:
            at = at.commands[words.pop(0)]
        known = {opt for parameter in at.params for opt in parameter.opts}
        assert at.name != "barnraise", words
        assert {word for word in words if word.startswith("-")} <= known, (at.name, words)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.parent.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"\bdeploy/[\w./-]+", page.read_text()):
        assert (ROOT / name).exists(), name
    assert len(page.read_text().splitlines()) <= 100, "a page"
