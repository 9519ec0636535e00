"""Kills and errors at system calls: a sample for each kind of call; `scripts/torture --all` takes every one."""

import random

import pytest
from faults import strace
from faults.campaign import Campaign, told
from faults.scenarios import AREAS, SEED
from torture_support import Tally

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("strace_here")]

_SAMPLE = {"save": 40, "copy": 16, "rename": 12, "squash": 12, "gc": 8, "init": 12, "repair": 8, "submit": 12}


def _sample(counts, number, *, seed):
    """Return some faults at any of the calls, as many kills as errors, every kind of call first once."""
    rng = random.Random(seed)
    calls = sorted(counts)
    rng.shuffle(calls)
    faults = []
    for turn in range(number):
        call = calls[turn // 2 % len(calls)]
        kill, *errors = strace.effects(call)
        effect = rng.choice(errors) if turn % 2 else kill
        faults.append(strace.Fault(call, rng.randint(1, counts[call]), effect))
    return faults


@pytest.mark.parametrize("area", AREAS)
def test_a_fault_at_a_system_call_loses_nothing(zygote, scratch, area):
    campaign = Campaign(scratch, zygote, AREAS[area], seed=SEED)
    tally = Tally()
    for fault in _sample(campaign.counts(), _SAMPLE[area], seed=SEED):
        campaign.strace(fault, tally)
    print(f"{area}: {tally}")  # noqa: T201
    assert [told(violation) for violation in tally.violations] == []
    assert tally.killed > _SAMPLE[area] / 5
    assert tally.errors
    assert tally.unused < tally.faults / 2


def test_an_object_that_is_written_in_place_is_noticed(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["save"], seed=SEED)
    tally = Tally()
    for number in range(1, 6):
        campaign.strace(strace.Fault("write", number, strace.KILL), tally, broken="in-place")
    assert {violation.kind for violation in tally.violations} & {"lost", "wrong", "stuck"}


def test_an_error_of_fsync_that_is_passed_over_is_noticed(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["save"], seed=SEED)
    tally = Tally()
    for number in range(1, 6):
        campaign.strace(strace.Fault("fsync", number, "error=EIO"), tally, broken="deaf-to-sync")
    assert {violation.kind for violation in tally.violations} == {"lost"}
    assert all("acknowledged although" in str(violation) for violation in tally.violations)
