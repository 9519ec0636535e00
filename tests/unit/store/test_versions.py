"""Versions: which one a name means, who gets the next number, and what a damaged record does."""

import json
import re
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import versions as any_version

from envkit.errors import EXIT_CONFLICT, EXIT_DAMAGED, EXIT_NOT_FOUND, Conflict, Damaged, InvalidInput, NotFound
from envkit.model.ids import EnvName, EnvRef
from envkit.model.version import LayerRef, Version, VersionKind, version_to_json
from envkit.store import layout, rows, versions
from envkit.store.errors import MovedOn
from envkit.store.open import init_store

SCI = EnvName(owner="alice", name="sci")
_STAMP = {"author": "alice", "created": "2026-01-31T12:00:00Z"}


@pytest.fixture
def store(tmp_path):
    return init_store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory):
    """One store for all examples of a property."""
    return init_store(str(tmp_path_factory.mktemp("shared") / "store"))


def draft(env=SCI, **fields):
    layer = LayerRef(tree="ab" * 32, entries=3, size=10, stored=5)
    kind = VersionKind.BASE if env.is_base else VersionKind.ENVIRONMENT
    return Version(env=env, number=1, **({"kind": kind, "layers": (layer,)} | _STAMP | fields))


def record(kind, **fields):
    return Version(env=SCI, number=1, kind=kind, **(_STAMP | fields))


def speak(store, kind, **fields):
    return versions.publish(store, record(kind, **fields), expected=None)


def tag(store, name, target):
    return speak(store, VersionKind.TAG, tag=name, target=target)


def publish(store, env=SCI, count=1, **fields):
    return [versions.publish(store, draft(env, **fields), expected=None) for _ in range(count)][-1]


def ref(text):
    return EnvRef.parse(text, owner="alice")


def not_found(call):
    with pytest.raises(NotFound) as caught:
        call()
    assert caught.value.exit_code == EXIT_NOT_FOUND
    return caught.value


def test_numbers_are_given_in_order_and_the_newest_is_the_latest(store):
    first = publish(store, message="one")
    second = publish(store, message="two")
    assert (first.number, second.number) == (1, 2)
    assert versions.numbers(store, SCI) == [1, 2]
    assert versions.resolve(store, ref("sci")) == second
    assert versions.resolve(store, ref("alice/sci@1")) == first
    assert versions.next_number(store, SCI) == 3


@given(version=any_version())
@settings(max_examples=30, deadline=None)
def test_what_was_published_is_loaded(shared_store, version):
    number = versions.next_number(shared_store, version.env)
    published = versions.publish(shared_store, version, expected=number)
    assert published == version.replace(number=number, token=published.token, description=published.description)
    assert published.description == version.description or not version.description
    assert len(published.token) == 32
    assert versions.load(shared_store, version.env, number) == published


def test_a_text_that_looks_like_the_checksum_is_not_taken_for_it(store):
    published = publish(store, author='"crc32": "00000000"', message='{"crc32": "00000000"}')
    assert versions.load(store, SCI, 1) == published


def test_environments_and_bases_are_listed_without_foreign_files(tmp_path, store):
    base = EnvName(owner="base", name="debian-12")
    publish(store, base)
    publish(store, SCI, count=2)
    for foreign in ("envs/alice/notes.txt", "envs/alice/sci/00000002.json.bak", "envs/README"):
        (tmp_path / "store" / foreign).write_bytes(b"")
    assert versions.list_environments(store) == [SCI, base]
    assert versions.numbers(store, SCI) == [1, 2]


def test_a_missing_environment_is_told_with_what_looks_like_it(store):
    publish(store, EnvName(owner="alice", name="science"))
    publish(store, EnvName(owner="bob", name="sci"))
    error = not_found(lambda: versions.resolve(store, ref("sci")))
    assert error.brief == "no environment alice/sci"
    assert error.resolution == "did you mean alice/science or bob/sci?"


def test_a_missing_environment_that_looks_like_nothing_points_to_the_list(store):
    publish(store, EnvName(owner="alice", name="unrelated"))
    error = not_found(lambda: versions.resolve(store, ref("sci")))
    assert error.resolution == "`envkit list` shows what there is"
    assert error.details is None


def test_a_missing_base_is_called_a_base(store):
    publish(store, EnvName(owner="base", name="debian-12"))
    error = not_found(lambda: versions.resolve(store, ref("base/debian-13")))
    assert error.brief == "no base debian-13"
    assert error.resolution == "did you mean base/debian-12?"


def test_a_missing_version_is_told_with_those_that_exist(store):
    publish(store, count=3)
    error = not_found(lambda: versions.resolve(store, ref("sci@7")))
    assert error.brief == "alice/sci has no version 7: it has 1 to 3"
    assert error.resolution == "use alice/sci@3, or alice/sci for the latest"


def test_deleted_versions_are_gone_for_names_and_stay_in_history(store):
    publish(store, count=4)
    tombstone = versions.delete(store, SCI, [4, 2], **_STAMP)
    assert (tombstone.number, tombstone.kind, tombstone.deletes) == (5, VersionKind.TOMBSTONE, (2, 4))
    assert versions.resolve(store, ref("sci")).number == 3
    assert versions.resolve(store, ref("sci@1")).number == 1
    assert not_found(lambda: versions.resolve(store, ref("sci@2"))).brief == "alice/sci@2 was deleted: there are 1, 3"
    assert not_found(lambda: versions.resolve(store, ref("sci@5"))).brief == "alice/sci has no version 5: it has 1, 3"
    assert [(past.version.number, past.deleted) for past in versions.history(store, SCI)] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
        (5, False),
    ]
    assert publish(store).number == 6
    assert versions.resolve(store, ref("sci")).number == 6


def test_deleting_all_takes_the_environment_away_until_it_is_saved_again(store):
    publish(store, count=2)
    versions.delete(store, SCI, None, **_STAMP)
    assert versions.latest(store, SCI) is None
    for name in ("sci", "sci@1"):
        error = not_found(lambda name=name: versions.resolve(store, ref(name)))
        assert error.brief == "no environment alice/sci"
        assert error.details == "all its versions were deleted"
    assert not_found(lambda: versions.delete(store, SCI, None, **_STAMP)).brief == "no environment alice/sci"
    assert publish(store).number == 4
    assert versions.resolve(store, ref("sci")).number == 4


def test_deleted_environments_are_not_suggested(store):
    other = EnvName(owner="alice", name="scii")
    publish(store, other)
    versions.delete(store, other, None, **_STAMP)
    error = not_found(lambda: versions.resolve(store, ref("sci")))
    assert error.resolution == "`envkit list` shows what there is"


@pytest.mark.parametrize("chosen", [[9], [1, 9], [2]])
def test_deleting_what_is_not_there_deletes_nothing(store, chosen):
    publish(store, count=3)
    versions.delete(store, SCI, [2], **_STAMP)
    not_found(lambda: versions.delete(store, SCI, chosen, **_STAMP))
    assert versions.numbers(store, SCI) == [1, 2, 3, 4]


def test_deleting_nothing_is_refused(store):
    publish(store)
    with pytest.raises(InvalidInput, match="no version of alice/sci was named"):
        versions.delete(store, SCI, [], **_STAMP)


def test_a_deleted_version_comes_back_with_a_restore_and_goes_with_the_next_tombstone(store):
    publish(store, count=3)
    versions.delete(store, SCI, [1, 3], **_STAMP)
    speak(store, VersionKind.RESTORE, restores=(3,))
    assert versions.resolve(store, ref("sci")).number == versions.resolve(store, ref("sci@3")).number == 3
    not_found(lambda: versions.resolve(store, ref("sci@1")))
    assert [past.deleted for past in versions.history(store, SCI)] == [True, False, False, False, False]
    versions.delete(store, SCI, [3], **_STAMP)
    assert versions.resolve(store, ref("sci")).number == 2
    error = not_found(lambda: versions.resolve(store, ref("sci@3")))
    assert error.brief == "alice/sci@3 was deleted: there are 2"
    assert "envkit undelete alice/sci@3" in error.resolution


def test_a_tag_means_what_its_newest_record_says(store):
    publish(store, count=2)
    tag(store, "stable", 1)
    tag(store, "other", 2)
    publish(store)
    assert versions.resolve(store, ref("sci@stable")).number == 1
    tag(store, "stable", 5)
    assert versions.resolve(store, ref("sci@stable")).number == 5
    assert versions.newest(store, SCI).tags == ("stable",)
    tag(store, "stable", 0)
    error = not_found(lambda: versions.resolve(store, ref("sci@stable")))
    assert error.brief == "alice/sci has no tag 'stable': it has other (@2)"
    tag(store, "other", 0)
    assert "it has none" in not_found(lambda: versions.resolve(store, ref("sci@other"))).brief
    assert "no environment alice/scj" in not_found(lambda: versions.resolve(store, ref("scj@stable"))).brief


def test_a_tag_of_a_deleted_version_says_so_and_stands_again_when_it_is_restored(store):
    publish(store, count=2)
    tag(store, "stable", 1)
    versions.delete(store, SCI, [1], **_STAMP)
    error = not_found(lambda: versions.resolve(store, ref("sci@stable")))
    assert error.brief == "the tag stable of alice/sci means alice/sci@1, which was deleted"
    speak(store, VersionKind.RESTORE, restores=(1,))
    assert versions.resolve(store, ref("sci@stable")).number == 1
    versions.delete(store, SCI, None, **_STAMP)
    error = not_found(lambda: versions.resolve(store, ref("sci@stable")))
    assert (error.brief, error.details) == ("no environment alice/sci", "all its versions were deleted")


def test_a_tag_that_means_no_version_is_not_followed(store):
    """No writer of ours makes one; the store may be anybody's."""
    publish(store)
    tag(store, "first", 1)
    tag(store, "second", 2)
    tag(store, "gap", 3)
    store.delete(layout.version_key(SCI, 3))
    for name in ("second", "gap"):
        not_found(lambda name=name: versions.resolve(store, ref(f"sci@{name}")))


def test_names_are_answered_from_the_newest_records(store, monkeypatch):
    publish(store, count=5)
    tag(store, "stable", 5)
    read = []
    real = store.get
    monkeypatch.setattr(store, "get", lambda key, *, limit: read.append(key[-7:-5]) or real(key, limit=limit))
    assert versions.resolve(store, ref("sci")).number == 5
    assert read == ["06", "05"]
    read.clear()
    assert versions.resolve(store, ref("sci@stable")).number == 5
    assert read == ["06", "05"]
    read.clear()
    assert versions.resolve(store, ref("sci@4")).number == 4
    assert read == ["06", "05", "04"]


def test_a_name_that_was_given_up_says_the_new_one(store):
    publish(store, count=2)
    tag(store, "stable", 1)
    new = EnvName(owner="alice", name="science")
    versions.publish(store, versions.tombstone(store, SCI, None, **_STAMP).replace(renamed=new), expected=None)
    for name in ("sci", "sci@1", "sci@stable"):
        error = not_found(lambda name=name: versions.resolve(store, ref(name)))
        assert (error.brief, error.resolution) == ("alice/sci was renamed to alice/science", "use alice/science")


def test_the_description_is_carried_on_until_it_is_changed(store):
    assert publish(store, description="the solver").description == "the solver"
    assert publish(store).description == "the solver"
    speak(store, VersionKind.DESCRIBE, description="our solver")
    assert versions.newest(store, SCI).description == "our solver"
    assert versions.newest(store, SCI).version.description == "the solver"
    assert publish(store).description == "our solver"
    assert publish(store, description="another").description == "another"
    versions.delete(store, SCI, [5], **_STAMP)
    assert publish(store).description == "our solver"
    speak(store, VersionKind.DESCRIBE, description="")
    assert publish(store).description == ""


def test_a_description_that_comes_at_the_last_moment_is_not_lost(store, monkeypatch):
    publish(store, description="old")
    real = store.put_if_absent

    def lose(key, data):
        monkeypatch.undo()
        speak(store, VersionKind.DESCRIBE, description="new")
        return real(key, data)

    monkeypatch.setattr(store, "put_if_absent", lose)
    published = versions.publish(store, draft(), expected=2)
    assert (published.number, published.description) == (3, "new")


def test_a_damaged_record_of_the_past_does_not_keep_a_version_from_being_stored(store):
    publish(store, description="kept")
    store.put_if_absent(layout.version_key(SCI, 2), b"rot")
    assert publish(store).description == "kept"


def test_records_that_speak_of_versions_are_no_conflict_for_a_version(store):
    publish(store)
    tag(store, "stable", 1)
    speak(store, VersionKind.DESCRIBE, description="new")
    assert versions.publish(store, draft(), expected=2).number == 4


def test_what_speaks_of_versions_notices_every_new_record(store):
    publish(store)
    stable = record(VersionKind.TAG, tag="stable", target=1)
    versions.delete(store, SCI, [1], **_STAMP)
    with pytest.raises(MovedOn, match="alice/sci was changed by somebody else meanwhile"):
        versions.publish(store, stable, expected=2)
    assert versions.numbers(store, SCI) == [1, 2]


def test_no_two_records_are_the_same_bytes(store):
    publish(store)
    version = versions.load(store, SCI, 1)
    assert not versions.place(store, version)
    store.delete(layout.version_key(SCI, 1))
    assert versions.place(store, version)
    again = versions.load(store, SCI, 1)
    assert again.token != version.token
    assert again.replace(token="") == version.replace(token="")


def test_numbers_with_gaps_are_normal(store):
    for number in (3, 7):
        assert versions.place(store, draft().replace(number=number))
    store.delete(layout.version_key(SCI, 3))
    versions.place(store, draft(kind=VersionKind.TOMBSTONE, layers=()).replace(number=5, deletes=(2, 3)))
    assert versions.resolve(store, ref("sci@7")).number == versions.resolve(store, ref("sci")).number == 7
    assert not_found(lambda: versions.resolve(store, ref("sci@3"))).brief == "alice/sci@3 was deleted: there are 7"
    assert not_found(lambda: versions.resolve(store, ref("sci@4"))).brief == "alice/sci has no version 4: it has 7"
    with pytest.raises(Conflict, match="alice/sci@7 was saved meanwhile"):
        versions.publish(store, draft(), expected=2)
    assert versions.publish(store, draft(), expected=8).number == 8


def test_a_version_that_is_collected_after_the_listing_is_not_missed(store, monkeypatch):
    publish(store, count=2)
    versions.delete(store, SCI, [1], **_STAMP)
    listed = versions.numbers(store, SCI)
    store.delete(layout.version_key(SCI, 1))
    for module in (rows, versions):
        monkeypatch.setattr(module, "numbers", lambda store, env: listed)
    assert versions.read_history(store, SCI).live == [2]
    not_found(lambda: versions.resolve(store, ref("sci@1")))
    store.delete(layout.version_key(SCI, 2))
    for call in (lambda: versions.read_history(store, SCI), lambda: versions.resolve(store, ref("sci"))):
        assert not_found(call).brief == "alice/sci has no version 2"


def test_history_of_nothing_is_not_found(store):
    assert not_found(lambda: versions.history(store, SCI)).brief == "no environment alice/sci"
    assert not_found(lambda: versions.load(store, SCI, 3)).brief == "alice/sci has no version 3"


def test_a_number_that_somebody_else_took_is_a_conflict_that_names_them(store):
    publish(store, author="bob", message="faster solver")
    with pytest.raises(Conflict) as caught:
        versions.publish(store, draft(), expected=1)
    assert caught.value.exit_code == EXIT_CONFLICT
    assert caught.value.brief == "alice/sci@1 was saved meanwhile by bob"
    assert caught.value.details == "its message: faster solver"
    assert "nothing of yours is lost" in caught.value.resolution
    assert versions.numbers(store, SCI) == [1]


def test_a_race_that_is_lost_at_the_last_moment_is_the_same_conflict(store, monkeypatch):
    real = store.put_if_absent

    def lose(key, data):
        monkeypatch.undo()
        publish(store, author="bob")
        return real(key, data)

    monkeypatch.setattr(store, "put_if_absent", lose)
    with pytest.raises(Conflict, match="alice/sci@1 was saved meanwhile by bob"):
        versions.publish(store, draft(), expected=1)
    assert [past.version.author for past in versions.history(store, SCI)] == ["bob"]


def test_a_deletion_in_between_is_no_conflict(store):
    publish(store, count=3)
    versions.delete(store, SCI, [1], **_STAMP)
    assert versions.publish(store, draft(), expected=4).number == 5


def test_a_number_that_does_not_follow_is_a_conflict(store):
    publish(store)
    with pytest.raises(Conflict, match="alice/sci has no version 6 that this one could follow"):
        versions.publish(store, draft(), expected=7)
    assert versions.numbers(store, SCI) == [1]


def test_a_store_that_always_answers_taken_does_not_hold_us(store, monkeypatch):
    monkeypatch.setattr(store, "put_if_absent", lambda key, data: False)
    with pytest.raises(Conflict, match="is being written by too many others at once"):
        versions.publish(store, draft(), expected=None)


def test_the_last_number_is_the_last(store):
    store.put_if_absent(layout.version_key(SCI, 99_999_999), version_to_json(draft().replace(number=99_999_999)))
    with pytest.raises(Conflict, match="alice/sci has no free version numbers left"):
        publish(store)


def test_a_record_that_could_not_be_read_again_is_not_written(store):
    with pytest.raises(InvalidInput, match=r"the record of alice/sci@1 has .* bytes, more than the 4194304"):
        publish(store, message="x" * (5 << 20))
    with pytest.raises(Damaged, match="the record of alice/sci@1 is not a valid version record"):
        versions.publish(store, draft().replace(layers=()), expected=1)
    assert versions.numbers(store, SCI) == []


def _place(store, number, version, /, **changes):
    """Store a record under a number that may not be its own, with a valid checksum."""
    document = json.loads(version_to_json(version)) | changes | {"crc32": "00000000"}
    data = json.dumps(document, sort_keys=True, indent=1).encode()
    data = data.replace(b'"crc32": "00000000"', b'"crc32": "%08x"' % zlib.crc32(data))
    store.put_if_absent(layout.version_key(SCI, number), data)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 3}, "00000002.json in the store .* is the record of alice/sci@3"),
        ({"owner": "bob"}, "is the record of bob/sci@2"),
        ({"name": "sci2"}, "is the record of alice/sci2@2"),
        ({"deletes": [1]}, "it deletes versions but is no tombstone"),
        ({"kind": "tombstone", "layers": [], "deletes": [2]}, "it speaks of versions that did not come before it"),
        ({"kind": "tombstone", "layers": [], "deletes": [0]}, "it speaks of versions that did not come before it"),
        ({"owner": "../../etc"}, "is not a valid version record"),
        ({"name": ""}, "is not a valid version record"),
        ({"format": 2}, "has format 2, this envkit reads format 1"),
        ({"layers": [{"tree": "../x", "entries": 1, "size": 1, "stored": 1}]}, "is not a valid version record"),
        ({"deletes": None}, "is not a valid version record"),
        ({"message": 5}, "is not a valid version record"),
        ({"kind": "tag", "layers": [], "tag": "stable", "target": 2}, "it speaks of versions that did not come before"),
        ({"kind": "tag", "layers": [], "tag": "latest", "target": 1}, "the name of its tag is invalid"),
        ({"kind": "restore", "layers": [], "restores": [2]}, "it speaks of versions that did not come before it"),
    ],
)
def test_a_record_that_does_not_belong_there_is_damage(store, changes, problem):
    publish(store)
    _place(store, 2, draft().replace(number=2), **changes)
    with pytest.raises(Damaged) as caught:
        versions.load(store, SCI, 2)
    assert re.search(problem, f"{caught.value.brief}: {caught.value.details}")
    assert caught.value.exit_code == EXIT_DAMAGED
    with pytest.raises(Damaged):
        versions.resolve(store, ref("sci"))


def test_a_damaged_neighbour_does_not_hide_that_a_name_is_missing(store):
    store.put_if_absent(layout.version_key(EnvName(owner="alice", name="scii"), 1), b"rot")
    assert not_found(lambda: versions.resolve(store, ref("sci"))).resolution == "did you mean alice/scii?"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_bit_or_a_missing_end_of_a_record_is_damage(shared_store, data):
    version = data.draw(any_version(st.just(SCI))).replace(number=1)
    record = bytearray(version_to_json(version))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, len(record) * 8 - 1))
        record[bit // 8] ^= 1 << bit % 8
    else:
        del record[data.draw(st.integers(0, len(record) - 1)) :]
    shared_store.delete(layout.version_key(SCI, 1))
    shared_store.put_if_absent(layout.version_key(SCI, 1), bytes(record))
    with pytest.raises(Damaged, match=r"envs/alice/sci/00000001.json"):
        versions.load(shared_store, SCI, 1)
