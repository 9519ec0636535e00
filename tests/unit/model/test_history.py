"""What an environment's records say together."""

from hypothesis import given
from hypothesis import strategies as st

from envkit.model.history import History
from envkit.model.ids import EnvName
from envkit.model.version import LayerRef, Version, VersionKind

SCI = EnvName(owner="alice", name="sci")
_LAYER = LayerRef(tree="ab" * 32, entries=1, size=1, stored=1)


def version(number, description=""):
    return Version(env=SCI, number=number, kind=VersionKind.ENVIRONMENT, layers=(_LAYER,), description=description)


def tombstone(number, *deletes):
    return Version(env=SCI, number=number, kind=VersionKind.TOMBSTONE, deletes=deletes)


def restore(number, *restores):
    return Version(env=SCI, number=number, kind=VersionKind.RESTORE, restores=restores)


def tag(number, name, target):
    return Version(env=SCI, number=number, kind=VersionKind.TAG, tag=name, target=target)


def describe(number, text):
    return Version(env=SCI, number=number, kind=VersionKind.DESCRIBE, description=text)


def test_the_newest_record_that_speaks_of_a_version_decides():
    records = [version(1), version(2), version(3), tombstone(4, 1, 2), restore(5, 2), tombstone(6, 3), restore(7, 3, 1)]
    assert History(records[:4]).live == [3]
    assert History(records[:5]).live == [2, 3]
    assert History(records[:6]).deleted == [1, 3]
    history = History(records)
    assert (history.live, history.deleted, history.newest_tombstone) == ([1, 2, 3], [], None)


def test_the_newest_tombstone_is_one_that_still_deletes_something():
    history = History([version(1), version(2), tombstone(3, 1), tombstone(4, 2), restore(5, 2)])
    assert history.newest_tombstone.number == 3
    assert history.tombstone_of(1).number == 3
    assert history.tombstone_of(2) is None


def test_a_collected_version_is_still_known_as_deleted():
    history = History([version(2), tombstone(3, 1)])
    assert (history.live, history.deleted, [*history.versions]) == ([2], [1], [2])


def test_tags_move_and_go():
    history = History([version(1), version(2), tag(3, "b", 1), tag(4, "a", 1), tag(5, "b", 2), tag(6, "gone", 1)])
    assert history.tags == {"a": 1, "b": 2, "gone": 1}
    history = History([*history.records, tag(7, "gone", 0)])
    assert history.tags == {"a": 1, "b": 2}
    assert (history.tags_of(1), history.tags_of(2), history.tags_of(3)) == (["a"], ["b"], [])


def test_the_description_is_that_of_the_newest_version_that_lives_or_of_a_newer_record():
    records = [version(1, "one"), version(2, "two"), tombstone(3, 2)]
    assert History(records).description == "one"
    assert History([*records, describe(4, "four")]).description == "four"
    assert History([*records, describe(4, "four"), version(5, "five")]).description == "five"
    assert History([]).description == ""


_kinds = st.sampled_from(("version", "tombstone", "restore"))


@given(st.lists(st.tuples(_kinds, st.sets(st.integers(1, 8), max_size=4)), max_size=12))
def test_a_history_is_what_happened_in_order(steps):
    """The model: a set that tombstones take from and restores give back to."""
    records, there, live = [], set(), set()
    for number, (kind, named) in enumerate(steps, 1):
        before = [other for other in sorted(named) if other < number]
        if kind == "version":
            records.append(version(number))
            there.add(number)
            live.add(number)
        elif kind == "tombstone":
            records.append(tombstone(number, *before))
            live -= set(before)
        else:
            records.append(restore(number, *before))
            live |= set(before) & there
    assert History(reversed(records)).live == sorted(live)
