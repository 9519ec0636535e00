"""What becomes of extended attributes; pure."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.errors import EXIT_REFUSED
from envkit.model.idmap import IdMap, IdRange, for_user, shifted
from envkit.model.tree import MAX_ID
from envkit.overlay.attributes import translate, translate_acl, translate_capability
from envkit.overlay.errors import BadAttribute, ForeignId, LimitExceeded, OverlayMark
from tests.support import acl, capability

ACCESS = b"system.posix_acl_access"
IDS = shifted(100_000)
inner_ids = st.integers(0, 65_535)
bits = st.integers(0, 7)


@given(st.lists(st.tuples(inner_ids, bits), max_size=4), st.lists(st.tuples(inner_ids, bits), max_size=4))
def test_the_ids_of_an_access_control_list_become_the_containers(users, groups):
    def outer(rows):
        return [(number + 100_000, permissions) for number, permissions in rows]

    on_host = acl(0o754, users=outer(users), groups=outer(groups))
    assert translate_acl(b"f", ACCESS, on_host, IDS) == acl(0o754, users=users, groups=groups)


def test_users_and_groups_of_a_list_have_maps_of_their_own():
    ids = IdMap(uids=(IdRange(inside=0, outside=1000, count=10),), gids=(IdRange(inside=0, outside=2000, count=10),))
    assert translate_acl(b"f", ACCESS, acl(0o640, users=[(1003, 4)], groups=[(2005, 4)]), ids) == acl(
        0o640, users=[(3, 4)], groups=[(5, 4)]
    )


def test_a_minimal_list_without_a_mask_is_kept():
    minimal = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 7, 0xFFFFFFFF) for tag in (1, 4, 0x20))
    assert translate_acl(b"f", ACCESS, minimal, IDS) == minimal


def test_an_id_of_a_list_outside_the_map_is_refused_by_path_and_number():
    with pytest.raises(ForeignId) as caught:
        translate_acl(b"etc/x", ACCESS, acl(0o640, users=[(1000, 4)]), IDS)
    assert str(caught.value) == "/etc/x has the ACL user 1000, which is outside the container's range [R305]"
    assert caught.value.exit_code == EXIT_REFUSED


def rows(*tags):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 7, 100_000) for tag in tags)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        struct.pack("<I", 2),
        struct.pack("<I", 3) + acl(0o600)[4:],
        acl(0o600) + b"\0",
        acl(0o600)[:-1],
        rows(1, 4),
        rows(4, 1, 0x20),
        rows(1, 2, 4, 0x20),
        rows(1, 4, 8, 0x20),
        rows(1, 4, 2, 0x10, 0x20),
        rows(1, 1, 4, 0x20),
        rows(1, 4, 0x10, 0x10, 0x20),
        rows(1, 4, 0x20, 0x40),
        rows(1, 4, 0, 0x20),
        rows(3, 4, 0x20),
        acl(0o600)[:4] + struct.pack("<HHI", 1, 8, 0) + acl(0o600)[12:],
    ],
)
def test_a_malformed_list_is_refused(value):
    with pytest.raises(BadAttribute, match=r"/f has a malformed system\.posix_acl_access \[R306\]"):
        translate_acl(b"f", ACCESS, value, IDS)


@given(st.binary(max_size=64))
def test_no_bytes_crash_the_reading_of_a_list_or_a_capability(value):
    for read in (lambda: translate_acl(b"f", ACCESS, value, IDS), lambda: translate_capability(b"f", value, IDS)):
        try:
            assert len(read()) in (len(value), 20)
        except (BadAttribute, ForeignId) as error:
            assert error.path == "/f"


def test_capabilities_without_a_root_stay_as_they_are():
    assert translate_capability(b"f", capability(5), IDS) == capability(5)


def test_capabilities_for_the_containers_root_become_those_without_a_root():
    assert translate_capability(b"f", capability(5, root=100_000), IDS) == capability(5)


def test_the_effective_bit_survives_the_change_of_revision():
    value = bytearray(capability(5, root=100_000))
    value[0] = 0
    assert translate_capability(b"f", bytes(value), IDS)[:4] == bytes([0, 0, 0, 2])


def test_capabilities_for_another_root_of_the_container_keep_it():
    assert translate_capability(b"f", capability(5, root=101_000), IDS) == capability(5, root=1000)
    assert translate_capability(b"f", capability(5, root=1000), for_user(100_000, 1000, (1000,))) == capability(
        5, root=1000
    )


def test_capabilities_for_a_root_outside_the_map_are_refused():
    with pytest.raises(ForeignId, match=r"/bin/p has the capability root 4242, which is outside"):
        translate_capability(b"bin/p", capability(root=4242), IDS)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        capability()[:-1],
        capability() + b"\0",
        capability(root=100_000)[:-4],
        b"\1\0\0\1" + capability()[4:12],
        b"\3" + capability()[1:],
        b"\1\0\0\4" + capability()[4:],
    ],
)
def test_malformed_capabilities_are_refused(value):
    with pytest.raises(BadAttribute, match=r"/f has a malformed security\.capability"):
        translate_capability(b"f", value, IDS)


def test_an_id_that_no_layer_can_hold_is_outside_every_map():
    ids = IdMap(uids=(IdRange(inside=0, outside=0, count=1 << 32),), gids=(IdRange(inside=0, outside=0, count=1),))
    assert translate_capability(b"f", capability(root=MAX_ID), ids) == capability(root=MAX_ID)
    with pytest.raises(ForeignId, match=str(MAX_ID + 1)):
        translate_capability(b"f", capability(root=MAX_ID + 1), ids)


def test_attributes_are_sorted_and_those_that_no_layer_carries_are_named():
    found = {
        b"user.z": b"1",
        b"security.selinux": b"s",
        b"user.a": b"",
        b"trusted.mine": b"x",
        b"user.overlay.opaque": b"y",
        b"user.overlay.overlay.redirect": b"/etc",
        b"system.nfs4_acl": b"",
        b"trusted.overlay.origin": b"handle",
        b"trusted.overlay.protattr": b"i",
        ACCESS: acl(0o640, users=[(100_007, 6)]),
    }
    result = translate(b"f", found, IDS, directory=False)
    assert result.xattrs == (
        (ACCESS, acl(0o640, users=[(7, 6)])),
        (b"user.a", b""),
        (b"user.z", b"1"),
    )
    assert not result.opaque
    assert result.dropped == (
        b"security.selinux",
        b"system.nfs4_acl",
        b"trusted.mine",
        b"trusted.overlay.protattr",
        b"user.overlay.opaque",
        b"user.overlay.overlay.redirect",
    )


@pytest.mark.parametrize("name", ["origin", "impure", "uuid", "nlink"])
def test_hints_that_hold_true_on_one_overlay_only_leave_no_trace(name):
    found = {b"trusted.overlay." + name.encode(): b"y"}
    assert translate(b"d", found, IDS, directory=True) == ((), False, ())


def test_an_opaque_directory_is_a_fact_not_an_attribute():
    assert translate(b"d", {b"trusted.overlay.opaque": b"y"}, IDS, directory=True) == ((), True, ())


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize(
    "name", ["redirect", "metacopy", "upper", "whiteout", "whiteouts", "overlay.opaque", "overlay.redirect", "new", ""]
)
def test_every_other_mark_of_overlayfs_stops_the_scan(name, directory):
    full = "trusted.overlay." + name
    with pytest.raises(OverlayMark) as caught:
        translate(b"pub", {full.encode(): b"/etc"}, IDS, directory=directory)
    assert str(caught.value) == f"/pub carries the overlay mark {full} [R017]"
    assert caught.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize("value", [b"x", b"", b"n", b"yy"])
def test_an_opaque_mark_of_another_value_stops_the_scan(value):
    """Linux 6.7 takes "x" for "whiteouts in here are files with an attribute"."""
    with pytest.raises(OverlayMark, match=r"/d carries the overlay mark trusted\.overlay\.opaque=b'"):
        translate(b"d", {b"trusted.overlay.opaque": value}, IDS, directory=True)


@pytest.mark.parametrize(("path", "directory"), [(b"f", False), (b"", True)])
def test_an_opaque_mark_stops_the_scan_where_overlayfs_does_not_look_for_it(path, directory):
    with pytest.raises(OverlayMark, match=r"trusted\.overlay\.opaque"):
        translate(path, {b"trusted.overlay.opaque": b"y"}, IDS, directory=directory)


def test_more_attributes_than_a_layer_holds_are_refused_by_number():
    found = {b"user.%d" % number: b"" for number in range(65)}
    with pytest.raises(LimitExceeded) as caught:
        translate(b"f", found, IDS, directory=False)
    assert str(caught.value) == "/f has more than 64 extended attributes [R307]"
