"""A kill at every crash point: what is there is the old state or the new one, and the next command needs no repair."""

import pytest
from faults.campaign import Campaign, told
from faults.scenarios import AREAS, OFTEN, SEED, points, without_scenario
from torture_support import Tally

from envkit.drivers.crash import POINTS

pytestmark = pytest.mark.root


def test_every_crash_point_has_a_scenario():
    assert without_scenario() == []
    assert sorted(point for area in AREAS for point in points(area)) == sorted(POINTS)


@pytest.mark.parametrize("area", [area for area in AREAS if points(area)])
def test_a_kill_leaves_the_old_state_or_the_new(zygote, scratch, area):
    campaign = Campaign(scratch, zygote, AREAS[area], seed=SEED)
    tally, missed = Tally(), []
    for point in points(area):
        if not campaign.crash(point, tally):
            missed.append(point)
        elif point in OFTEN:
            campaign.crash(f"{point}@2", tally)
    campaign.scenario().world.run("verify", "--data").ok()
    print(f"{area}: {tally}")  # noqa: T201
    assert [told(violation) for violation in tally.violations] == []
    assert missed == [], "the scenario never comes to these points"
    assert tally.killed == tally.faults >= len(points(area))
    assert tally.unused <= 1


def test_a_version_that_is_written_before_its_packs_is_noticed(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["save"], seed=SEED)
    tally = Tally()
    assert campaign.crash("save:published", tally, broken="version-first")
    (violation,) = tally.violations
    assert violation.kind == "lost"
    assert "needs what is not whole" in str(violation)


def test_a_collection_that_deletes_what_is_needed_is_noticed(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["gc"], seed=SEED)
    tally = Tally()
    assert campaign.crash("gc:done", tally, broken="collects-too-much")
    (violation,) = tally.violations
    assert violation.kind == "lost"


def test_a_job_that_nobody_knows_of_is_noticed(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["submit"], seed=SEED)
    tally = Tally()
    assert campaign.crash("submit:queued", tally, broken="silent-jobs")
    (violation,) = tally.violations
    assert violation.kind == "lost"
    assert "`jobs` shows" in str(violation)


def test_a_kill_that_is_not_met_is_not_counted(zygote, scratch):
    campaign = Campaign(scratch, zygote, AREAS["save"], seed=SEED)
    tally = Tally()
    assert not campaign.crash("save:begin@1000", tally)
    assert (tally.faults, tally.unused, tally.acked) == (0, 1, 1)
