"""The power of a disk of this machine goes at twenty moments: no confirmed save is lost, and nothing has to be repaired."""

import random

import pytest
from vm.power_campaign import Judgement
from vm.power_here import PowerHere

pytestmark = [pytest.mark.root, pytest.mark.lxc, pytest.mark.qemu]

SEED = 1
CUTS = 20


def test_twenty_power_cuts_take_no_confirmed_save_and_an_envkit_without_syncs_loses_some(tmp_path):
    rng = random.Random(SEED)
    with PowerHere(str(tmp_path / "power")) as here:
        judgement = Judgement(here.directory, seed=SEED)
        judgement.judge(here.run(saves=4).moments(CUTS, here.moment, rng))
        judgement.judge_careless(here.careless_run(saves=2).moments(6, here.moment, rng))
    assert judgement.violations() == [], judgement.told()
    assert judgement.moments.faults == CUTS
    assert judgement.broken > 0
