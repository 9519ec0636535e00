"""What sudo(8) has to let through is written in two places, and has to be the same in both."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from envkit.queues.script import ATTEMPT, INDEX, KEPT, NUMBER, QUEUE, SLURM_VARIABLES

SUDOERS = (Path(__file__).parents[3] / "scripts/slurm/sudoers").read_text(encoding="utf-8")


def kept(name):
    return any(fnmatchcase(name, pattern) for pattern in KEPT)


def test_the_rule_for_sudo_keeps_what_tasks_and_ranks_need():
    said = " ".join(re.findall(r'env_keep \+= "([^"]*)"', SUDOERS)).split()
    assert sorted(said) == sorted(KEPT)


def test_whatever_a_batch_script_asks_for_is_kept():
    assert [name for name in (INDEX, ATTEMPT, NUMBER, QUEUE, *SLURM_VARIABLES) if not kept(name)] == []


def test_what_makes_root_run_other_peoples_code_is_not():
    for name in (
        "SLURM_CONF",
        "SLURM_DEBUG",
        "LD_PRELOAD",
        "PYTHONPATH",
        "PATH",
        "ENVKIT_ROOT",
        "ENVKIT_STORE",
        "HOME",
    ):
        assert not kept(name)
    assert "SETENV" not in SUDOERS.replace("No SETENV here", "")
