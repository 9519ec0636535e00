"""Whether a process can see all of an upper directory."""

import pytest

from envkit.errors import EXIT_UNAVAILABLE
from envkit.overlay.errors import MissingPrivilege
from envkit.overlay.privilege import missing_privileges

INITIAL = "         0          0 4294967295\n"


def status(effective):
    return f"Name:\tpython3\nUid:\t0\t0\t0\t0\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective:016x}\nCapBnd:\t0\n"


def test_a_process_with_all_capabilities_of_the_host_lacks_nothing():
    assert missing_privileges(status(0x1FF_FFFF_FFFF), INITIAL) == ()


@pytest.mark.parametrize(("bit", "name"), [(1, "CAP_DAC_OVERRIDE"), (3, "CAP_FOWNER"), (21, "CAP_SYS_ADMIN")])
def test_each_capability_is_asked_for_whatever_the_user_id(bit, name):
    assert missing_privileges(status(0x1FF_FFFF_FFFF & ~(1 << bit)), INITIAL) == (name,)


def test_root_of_a_user_namespace_does_not_see_trusted_attributes():
    mapped = "         0     100000      65536\n"
    assert missing_privileges(status(0x1FF_FFFF_FFFF), mapped) == ("the host's user namespace",)


def test_all_that_is_missing_is_said_at_once():
    missing = missing_privileges(status(0), INITIAL)
    assert len(missing) == 3
    error = MissingPrivilege(missing)
    assert str(error) == "cannot read what changed without CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN"
    assert error.resolution == "run as root of the host: sudo envkit ..."
    assert error.exit_code == EXIT_UNAVAILABLE


def test_a_status_without_capabilities_counts_as_none():
    assert len(missing_privileges("Name:\tx\n", INITIAL)) == 3
