import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.model.idmap import CONTAINER_IDS, for_user, inside, outside, proc_lines, shifted

FIRST = 100_000


def test_shifted_maps_root_to_the_first_id():
    ids = shifted(FIRST)
    assert (ids.root_uid, ids.root_gid) == (FIRST, FIRST)
    assert proc_lines(ids.uids) == "0 100000 65536\n"


def test_the_user_is_mapped_to_itself_and_everybody_else_is_not():
    ids = for_user(FIRST, 1000, (1000, 5000))
    assert proc_lines(ids.uids) == "0 100000 1000\n1000 1000 1\n1001 101001 64535\n"
    assert outside(ids.gids, 5000) == 5000
    assert outside(ids.gids, 1001) == FIRST + 1001


def test_a_uid_beyond_the_container_range_gets_a_line_of_its_own():
    ids = for_user(FIRST, 1_234_567, (1_234_567,))
    assert proc_lines(ids.uids) == "0 100000 65536\n1234567 1234567 1\n"


def test_root_of_the_host_is_never_mapped():
    with pytest.raises(ValueError, match="never mapped"):
        for_user(FIRST, 0, (0,))


@given(st.integers(1, 70_000), st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_maps_are_bijections_that_cover_every_container_id(uid, gids):
    ids = for_user(1_000_000, uid, gids)
    for ranges, own in ((ids.uids, {uid}), (ids.gids, set(gids))):
        ends = [(r.inside, r.inside + r.count) for r in ranges]
        assert sum(end - start for start, end in ends if start < CONTAINER_IDS) == CONTAINER_IDS
        for number in [*own, 0, 1, CONTAINER_IDS - 1]:
            assert inside(ranges, outside(ranges, number)) == number
        assert all(outside(ranges, number) == number for number in own)


def test_ids_outside_the_map_are_an_error():
    with pytest.raises(KeyError):
        inside(shifted(FIRST).uids, 0)
    with pytest.raises(KeyError):
        outside(shifted(FIRST).uids, CONTAINER_IDS)
