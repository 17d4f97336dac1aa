"""What a site allows, decided: facts in, and out comes either that it may go on or why it holds back.

Pure: it opens no file and reads no clock. `policy_file` reads `policy.toml`, `gate` gathers the facts.
Holding back is a state with its reason, which the operator sees; nothing fails by it. What has been begun
is finished: a limit is looked at before an order is taken up and before a reply goes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from barnraise.protocols.canonical import digest_of, is_digest

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|kB|MB|GB|TB)")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _bytes(value: Any) -> Any:
    """`"20 GB"` as a number of bytes; whole numbers are bytes already."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ValueError('it must be a size, such as "20 GB"')
        return int(float(found[1]) * _UNITS[found[2]])
    return value


Hours = Annotated[float, Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0, le=2**53)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Consent(_Section):
    """What may run, of that which `barnraise node approve` approved."""

    apps: list[str] | None = Field(None, description="digests of apps; default: each approved one")
    charters: list[str] | None = Field(
        None, description="digests of charters; default: each approved one"
    )
    each_run: bool = Field(
        False, description="true: each run waits until it is approved by itself, by its name"
    )

    @field_validator("apps", "charters")
    @classmethod
    def _digests(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not all(is_digest(one) for one in value):
            raise ValueError("it must be digests: sha256: and 64 hex digits")
        return value


class Data(_Section):
    """What the code may read, and what it is told."""

    directories: list[str] = Field(
        [], description="what of this machine's data the code may read; the first is its `data`"
    )
    config: dict[str, bool | int | float | str] = Field(
        {}, description="the node config that the app is given beside `data`"
    )

    @field_validator("directories")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        if not all(one.startswith("/") for one in value):
            raise ValueError("it must be absolute paths")
        return value


class Times(_Section):
    """When the site works, at this machine's local time."""

    open: str | None = Field(None, description='"18:00-07:00"; default: always')
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] | None = Field(
        None, description='on which days the hours begin, such as ["sat", "sun"]; default: on each'
    )

    @field_validator("open")
    @classmethod
    def _span(cls, value: str | None) -> str | None:
        found = _SPAN.fullmatch(value) if value is not None else None
        if value is not None and (found is None or value[:5] == value[6:]):
            raise ValueError('it must be two times of day, such as "18:00-07:00"')
        return value

    @field_validator("days")
    @classmethod
    def _some(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("it must name a day at least; `barnraise node pause` stops the site")
        return value


class Limits(_Section):
    """How much, from midnight to midnight of this machine's local time."""

    rounds_a_day: int | None = Field(None, gt=0, description="training orders taken up")
    processor_hours_a_day: Hours | None = Field(None, description="of all cores together")
    gpu_hours_a_day: Hours | None = Field(None, description="of all GPUs together, while at work")
    bytes_out_a_day: Bytes | None = Field(None, description='of replies, such as "20 GB"')
    update_norm: float | None = Field(
        None, gt=0, description="the largest L2 norm of a model update that may leave"
    )


class Isolation(_Section):
    """What the code is cut off from."""

    required: bool = Field(
        False, description="true: without network, processes and files apart, no code is started"
    )


class Processes(_Section):
    """How the worker is started."""

    launcher: list[str] = Field(
        [], description='what starts it as several processes, such as ["torchrun", …]; default: one'
    )
    network: Literal["loopback", "host"] = Field(
        "loopback",
        description='what they find each other by: "loopback" within this machine, "host" on several',
    )

    @field_validator("launcher")
    @classmethod
    def _words(cls, value: list[str]) -> list[str]:
        if not all(value):
            raise ValueError("it must be a command's words")
        return value


class Policy(_Section):
    """A site's `policy.toml`. Without a key there is no such limit."""

    consent: Consent = Field(Consent(), description="what may run")  # type: ignore[call-arg]
    data: Data = Field(Data(), description="what the code may read")  # type: ignore[call-arg]
    hours: Times = Field(Times(), description="when the site works")  # type: ignore[call-arg]
    limits: Limits = Field(Limits(), description="how much")  # type: ignore[call-arg]
    isolation: Isolation = Field(Isolation(), description="what the code is cut off from")  # type: ignore[call-arg]

    worker: Processes = Field(Processes(), description="how it is started")  # type: ignore[call-arg]

    @property
    def digest(self) -> str:
        """Which policy a reply left under: of what it says, however it is written."""
        return digest_of(self.model_dump(mode="json", exclude_defaults=True))


# --- facts and decisions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What was used since midnight. `processor` and `gpu` in seconds."""

    rounds: int = 0
    processor: float = 0.0
    gpu: float = 0.0
    out: int = 0

    def __add__(self, more: Spent) -> Spent:
        return Spent(
            self.rounds + more.rounds,
            self.processor + more.processor,
            self.gpu + more.gpu,
            self.out + more.out,
        )


@dataclass(frozen=True)
class Facts:
    """What a decision hangs on. `now` is the local time, aware of its zone; "" where nothing is known."""

    now: datetime
    spent: Spent = Spent()
    app: str = ""
    charter: str = ""
    run: str = ""
    runs: frozenset[str] = frozenset()  # approved one by one
    paused: str = ""  # why, if somebody paused the site
    draining: bool = False


@dataclass(frozen=True)
class Allowed:
    """It may go on."""


@dataclass(frozen=True)
class Held:
    """It may not now. `until`: when it may by itself; None where somebody has to act."""

    reason: str
    until: datetime | None = None

    def __str__(self) -> str:
        return self.reason + (f", until {self.until:%Y-%m-%d %H:%M}" if self.until else "")


@dataclass(frozen=True)
class Forbidden:
    """It may never."""

    reason: str


def may_run(policy: Policy, facts: Facts) -> Allowed | Held:
    """Whether an order of this run may be taken up now. What somebody has to act on is said first."""
    for decided in (_stopped(facts), _consented(policy.consent, facts)):
        if isinstance(decided, Held):
            return decided
    for decided in (_in_hours(policy.hours, facts.now), _within(policy.limits, facts)):
        if isinstance(decided, Held):
            return decided
    return Allowed()


def may_leave(policy: Policy, facts: Facts, size: int) -> Allowed | Held | Forbidden:
    """Whether a reply of `size` bytes may leave now."""
    most = policy.limits.bytes_out_a_day
    if most is None or facts.spent.out + size <= most:
        return Allowed()
    if size > most:
        return Forbidden(f"it has {size} bytes, and {most} may leave in a day")
    return Held(f"{facts.spent.out} of {most} bytes have left today", _midnight(facts.now))


def may_say(policy: Policy, norms: Mapping[str, float | None]) -> Allowed | Forbidden:
    """Whether updates of these norms may leave, by record; None: of a form that cannot be measured."""
    most = policy.limits.update_norm
    if most is None:
        return Allowed()
    for name, norm in norms.items():
        if norm is None:
            return Forbidden(
                f"the update in {name!r} cannot be measured, and {most:g} is the limit"
            )
        if not norm <= most:
            return Forbidden(
                f"the update in {name!r} has the norm {norm:.6g}, and {most:g} is the limit"
            )
    return Allowed()


def may_start(policy: Policy, hindered: Mapping[str, str]) -> Allowed | Held:
    """Whether code may run in a process that is cut off but for what `hindered` names, with why.

    Why is said by that process, and what is held back is said to the coordinator: it does not quote that.
    """
    missing = [what for what, why in hindered.items() if why]
    if policy.isolation.required and missing:
        return Held(f"isolation is required, and the kernel refuses: {', '.join(missing)}")
    return Allowed()


def _stopped(facts: Facts) -> Allowed | Held:
    if facts.paused:
        return Held(facts.paused)
    if facts.draining:
        return Held("the node finishes what it has begun, and then ends")
    return Allowed()


def _consented(consent: Consent, facts: Facts) -> Allowed | Held:
    if consent.apps is not None and facts.app and facts.app not in consent.apps:
        return Held(f"policy.toml does not name the app {facts.app[:19]}…")
    if consent.charters is not None and facts.charter and facts.charter not in consent.charters:
        return Held(f"policy.toml does not name the charter {facts.charter[:19]}…")
    if consent.each_run and facts.run and facts.run not in facts.runs:
        return Held(f"the run {facts.run} waits for this site's approval")
    return Allowed()


def _within(limits: Limits, facts: Facts) -> Allowed | Held:
    spent, until = facts.spent, _midnight(facts.now)
    if limits.rounds_a_day is not None and spent.rounds >= limits.rounds_a_day:
        return Held(f"{spent.rounds} rounds were worked on today", until)
    for what, seconds, most in (
        ("processor", spent.processor, limits.processor_hours_a_day),
        ("GPU", spent.gpu, limits.gpu_hours_a_day),
    ):
        if most is not None and seconds >= most * 3600:
            return Held(f"{seconds / 3600:.1f} of {most:g} {what} hours were used today", until)
    return Allowed()


def _midnight(now: datetime) -> datetime:
    return datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)


# --- hours --------------------------------------------------------------------------------------------


def _in_hours(hours: Times, now: datetime) -> Allowed | Held:
    """Hours that go over midnight belong to the day on which they begin."""
    if hours.open is None and hours.days is None:
        return Allowed()
    spans = [_span_of(hours, now.date() + timedelta(days=day), now) for day in range(-1, 8)]
    if any(begin <= now < end for begin, end in (s for s in spans if s)):
        return Allowed()
    begins = min(begin for begin, _ in (s for s in spans if s) if begin > now)
    return Held(f"outside of this site's hours ({_said(hours)})", begins)


def _span_of(hours: Times, day: Any, now: datetime) -> tuple[datetime, datetime] | None:
    if hours.days is not None and DAYS[day.weekday()] not in hours.days:
        return None
    if hours.open is None:
        begin = datetime.combine(day, time(), now.tzinfo)
        return begin, begin + timedelta(days=1)
    first, last = (time.fromisoformat(part) for part in hours.open.split("-"))
    begin, end = (datetime.combine(day, at, now.tzinfo) for at in (first, last))
    return begin, end if end > begin else end + timedelta(days=1)


def _said(hours: Times) -> str:
    return " ".join([hours.open or "all day", *(hours.days or ())])
