"""What a site's policy allows: every limit alone, what comes first, and that the file means what it says."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from barnraise.client.node import policy_file
from barnraise.client.node.policy import (
    Allowed,
    Facts,
    Forbidden,
    Held,
    Policy,
    Spent,
    may_leave,
    may_run,
    may_say,
    may_start,
)
from barnraise.protocols.errors import BarnraiseError
from barnraise.protocols.statements import NO_POLICY

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=timezone(timedelta(hours=2)))  # a Wednesday
APP, CHARTER = "sha256:" + "a" * 64, "sha256:" + "c" * 64
MIDNIGHT = datetime(2026, 3, 5, 0, 0, tzinfo=NOON.tzinfo)


def of(text: str) -> Policy:
    return policy_file.parse(text.encode(), Path("policy.toml"))


def facts(**more: Any) -> Facts:
    return Facts(**{"now": NOON, "app": APP, "charter": CHARTER, "run": "r1", **more})


def held(policy: str, **more: Any) -> Held:
    decided = may_run(of(policy), facts(**more))
    assert isinstance(decided, Held)
    return decided


def test_without_a_key_there_is_no_limit() -> None:
    lots = Spent(rounds=10**6, processor=1e9, gpu=1e9, out=2**52)
    assert may_run(of(""), facts(spent=lots)) == Allowed()
    assert may_leave(of(""), facts(spent=lots), 2**52) == Allowed()
    assert may_say(of(""), {"arrays": None}) == Allowed()
    assert may_start(of(""), {"network": "refused"}) == Allowed()


def test_the_empty_policy_is_what_a_reply_names_that_left_under_none() -> None:
    assert of("").digest == Policy().digest == NO_POLICY  # type: ignore[call-arg]
    assert of("[hours]\nopen = '18:00-07:00'").digest != NO_POLICY


def test_a_policy_is_named_by_what_it_says_however_it_is_written() -> None:
    one = of("[limits]\nbytes_out_a_day = '2 GB'\n# a word\n[data]\n")
    assert one.digest == of("limits = {bytes_out_a_day = 2_000_000_000}").digest


@pytest.mark.parametrize(
    ("limit", "spent", "said"),
    [
        ("rounds_a_day = 3", Spent(rounds=3), "3 rounds"),
        ("processor_hours_a_day = 1.5", Spent(processor=5400.0), "1.5 of 1.5 processor hours"),
        ("gpu_hours_a_day = 2.0", Spent(gpu=7200.0), "2.0 of 2 GPU hours"),
    ],
)
def test_what_a_day_has_is_held_until_midnight(limit: str, spent: Spent, said: str) -> None:
    found = held(f"[limits]\n{limit}", spent=spent)
    assert said in found.reason
    assert found.until == MIDNIGHT
    assert may_run(of(f"[limits]\n{limit}"), facts()) == Allowed()


def test_hours_over_midnight_belong_to_the_day_on_which_they_begin() -> None:
    policy = of("[hours]\nopen = '18:00-07:00'\ndays = ['wed']")

    def at(day: int, hour: int) -> Allowed | Held:
        return may_run(policy, facts(now=NOON.replace(day=day, hour=hour)))

    assert at(4, 18) == at(4, 23) == at(5, 0) == at(5, 6) == Allowed()
    assert at(4, 12) == Held(
        "outside of this site's hours (18:00-07:00 wed)", NOON.replace(hour=18)
    )
    assert at(5, 7) == Held(
        "outside of this site's hours (18:00-07:00 wed)", NOON.replace(day=11, hour=18)
    )
    assert at(5, 19) != Allowed()


def test_days_alone_are_whole_days() -> None:
    policy = of("[hours]\ndays = ['sat', 'sun']")
    assert may_run(policy, facts(now=NOON.replace(day=7, hour=0))) == Allowed()
    assert may_run(policy, facts(now=NOON.replace(day=8, hour=23))) == Allowed()
    found = may_run(policy, facts())
    assert isinstance(found, Held)
    assert found.until == NOON.replace(day=7, hour=0)


@settings(deadline=None, max_examples=100)
@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    st.times(),
    st.times(),
    st.sets(st.sampled_from(("mon", "tue", "wed", "thu", "fri", "sat", "sun")), min_size=1),
)
def test_any_hours_that_hold_back_say_when_they_open(now: Any, a: Any, b: Any, days: Any) -> None:
    if f"{a:%H:%M}" == f"{b:%H:%M}":
        return
    named = ", ".join(repr(d) for d in sorted(days))
    policy = of(f"[hours]\nopen = '{a:%H:%M}-{b:%H:%M}'\ndays = [{named}]")
    found = may_run(policy, facts(now=now))
    if isinstance(found, Held):
        assert found.until is not None
        assert now < found.until <= now + timedelta(days=8)
        assert may_run(policy, facts(now=found.until)) == Allowed()
        before = found.until - timedelta(seconds=1)
        assert isinstance(may_run(policy, facts(now=before)), Held)


def test_what_somebody_has_to_act_on_is_said_before_what_passes() -> None:
    closed = "[hours]\nopen = '18:00-19:00'\n[consent]\neach_run = true"
    assert held(closed).reason == "the run r1 waits for this site's approval"
    assert held(closed, paused="paused by the admin").reason == "paused by the admin"
    assert held(closed, draining=True).until is None
    assert "hours" in held(closed, runs=frozenset({"r1"})).reason


def test_only_named_apps_and_charters() -> None:
    other = "sha256:" + "b" * 64
    assert "app" in held(f"[consent]\napps = ['{other}']").reason
    assert "charter" in held(f"[consent]\ncharters = ['{other}']").reason
    both = of(f"[consent]\napps = ['{APP}']\ncharters = ['{CHARTER}']")
    assert may_run(both, facts()) == Allowed()


def test_bytes_out_wait_for_the_next_day_and_what_never_fits_never_leaves() -> None:
    policy = of("[limits]\nbytes_out_a_day = '1 kB'")
    assert may_leave(policy, facts(spent=Spent(out=400)), 600) == Allowed()
    found = may_leave(policy, facts(spent=Spent(out=401)), 600)
    assert isinstance(found, Held)
    assert found.until == MIDNIGHT
    assert isinstance(may_leave(policy, facts(), 1001), Forbidden)


def test_an_update_that_is_too_large_or_cannot_be_measured_does_not_leave() -> None:
    policy = of("[limits]\nupdate_norm = 2.0")
    assert may_say(policy, {"arrays": 2.0}) == may_say(policy, {}) == Allowed()
    for norm in (2.0001, float("inf"), float("nan"), None):
        assert isinstance(may_say(policy, {"arrays": 1.0, "more": norm}), Forbidden)


def test_required_isolation_names_what_the_kernel_refuses() -> None:
    policy = of("[isolation]\nrequired = true")
    assert may_start(policy, {"network": "", "files": ""}) == Allowed()
    found = may_start(policy, {"network": "unshare: no", "files": ""})
    assert isinstance(found, Held)
    assert found.reason.endswith(": network")
    assert "files" not in found.reason


# --- the file -----------------------------------------------------------------------------------------


def test_the_template_allows_everything_and_shows_every_key() -> None:
    assert of(policy_file.TEMPLATE) == of("")
    shown = re.sub(r"(?m)^# (\w+ = )", r"\1", policy_file.TEMPLATE).replace("sha256:…", APP)
    given = of(shown).model_dump()
    for key, meaning in policy_file.meanings():
        section, name = key.split(".")
        assert given[section][name] != Policy().model_dump()[section][name], key  # type: ignore[call-arg]
        assert meaning


def test_the_page_on_sites_says_what_every_key_means() -> None:
    page = (Path(__file__).parents[2] / "docs" / "site.md").read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == list(policy_file.meanings())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hours]\nopen = '18-7'", "hours.open"),
        ("[hours]\nopen = '18:00-18:00'", "hours.open"),
        ("[hours]\ndays = ['monday']", "hours.days"),
        ("[hours]\ndays = []", "hours.days"),
        ("[limits]\nrounds_a_day = 0", "limits.rounds_a_day"),
        ("[limits]\nrounds_a_day = '3'", "limits.rounds_a_day"),
        ("[limits]\nbytes_out_a_day = '3 GiB'", "limits.bytes_out_a_day"),
        ("[limits]\nupdate_norm = nan", "limits.update_norm"),
        ("[consent]\napps = ['latest']", "consent.apps"),
        ("[data]\ndirectories = ['data']", "data.directories"),
        ("[isolation]\nrequires = true", "isolation.required"),
        ("[limits", "]"),
        ("limits = 3", "table"),
    ],
)
def test_a_wrong_policy_is_refused_by_its_key(text: str, said: str) -> None:
    with pytest.raises(BarnraiseError) as caught:
        of(text)
    assert caught.value.code == "P101"
    assert said in caught.value.evidence


def test_making_a_policy_never_overwrites_one(tmp_path: Path) -> None:
    path = policy_file.make(tmp_path)
    path.write_text("[limits]\nrounds_a_day = 1\n")
    assert policy_file.make(tmp_path) == path
    found = policy_file.read(tmp_path)
    assert found is not None
    assert found.limits.rounds_a_day == 1
    assert policy_file.read(tmp_path / "nowhere") is None
