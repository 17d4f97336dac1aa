"""`policy.toml`: read, explained, and made for a site that has just joined.

A policy that cannot be read allows nothing: whoever asks gets P101, and the node holds back.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from barnraise.client.node.policy import Policy
from barnraise.protocols import files
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.values import fault, key_of

FILE = "policy.toml"
LARGEST = 1 << 20

TEMPLATE = """\
# What this site allows. The node's daemon holds to it, outside of the process that runs the code.
# A line that begins with # is not in force. `barnraise node policy edit` checks what you write, and
# a change counts from the next order on. A site that holds back says why; no run fails by it.

[consent]
# each_run = true                   # each run waits for `barnraise node approve RUN`, not only its code
# apps = ["sha256:…"]               # no other code than this, whatever was approved
# charters = ["sha256:…"]           # no other charter

[data]
# directories = ["/srv/data/ward"]  # what the code may read; the first is what it is given as `data`
# config = { threads = 2 }          # what else the code is told

[hours]                             # this machine's local time
# open = "18:00-07:00"
# days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

[limits]                            # from midnight to midnight; what was begun is finished
# rounds_a_day = 48
# processor_hours_a_day = 96.0      # of all cores together
# gpu_hours_a_day = 24.0
# bytes_out_a_day = "20 GB"
# update_norm = 100.0               # an update that is larger does not leave; an error goes instead

[isolation]
# required = true                   # where the kernel cannot cut the code off, it is not started

[worker]                            # how the code is started; deploy/torchrun explains it
# launcher = ["torchrun", "--standalone", "--nproc-per-node", "2"]    # as several processes, one a GPU
# network = "host"                  # they are on several machines: the code then reaches the network
"""


def make(home: Path) -> Path:
    """Write the template, unless there is a policy; its path."""
    with files.disk_errors(home):
        files.keep(home / FILE, TEMPLATE.encode())
    return home / FILE


def read(home: Path) -> Policy | None:
    """The policy of the node in `home`; None where there is no policy.toml. Raises P101."""
    path = home / FILE
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from None
    return parse(data, path)


def parse(data: bytes, path: Path) -> Policy:
    """The policy that these bytes are; P101 names the key and what belongs there."""
    if len(data) > LARGEST:
        raise _unusable(path, f"it has more than {LARGEST} bytes")
    try:
        policy = Policy.model_validate(tomllib.loads(data.decode()))
        assert policy.digest  # a policy is bound by its digest, so it must have one
        return policy
    except ValidationError as error:
        raise _unusable(path, _explained(error)) from None
    except (ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from None


def meanings(section: type[BaseModel] = Policy, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a policy as `section.key`, and what it means."""
    for key, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from meanings(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", field.description or ""


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    key = key_of(first["loc"])
    if first["type"] == "extra_forbidden":
        return "\n".join(
            [f"there is no key {key}; the keys are", *(f"  {k}" for k, _ in meanings())]
        )
    said = dict(meanings()).get(key)
    return f"{key}: {fault(first)}" + (f"\n{key}: {said}" if said else "")


def _unusable(path: Path, evidence: str) -> BarnraiseError:
    return BarnraiseError(
        "P101",
        f"{path} is no policy",
        evidence,
        changed="the site holds back as long as this is so",
        next="barnraise node policy edit",
    )
