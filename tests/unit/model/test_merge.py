from envkit.model.merge import merge, sorted_entries
from envkit.model.tree import Entry, Kind

ROOT = Entry(b"", Kind.DIRECTORY, mode=0o755)


def directory(path, **changes):
    return Entry(path, Kind.DIRECTORY, mode=0o755, **changes)


def file(path, size=0):
    return Entry(path, Kind.FILE, mode=0o644, size=size)


def paths(*layers):
    return [entry.path for entry in sorted_entries(merge(layers))]


LOWER = [ROOT, directory(b"d"), directory(b"d/e"), file(b"d/e/f"), file(b"d/g"), file(b"d.x"), file(b"z")]


def test_higher_layers_replace_and_add():
    merged = merge([LOWER, [ROOT, file(b"a"), file(b"z", 5)]])
    assert merged[b"z"].size == 5
    assert b"a" in merged
    assert b"d/e/f" in merged


def test_a_whiteout_hides_a_whole_directory():
    assert paths(LOWER, [ROOT, Entry(b"d", Kind.WHITEOUT)]) == [b"", b"d.x", b"z"]


def test_an_opaque_directory_hides_only_what_it_held():
    merged = merge([LOWER, [ROOT, directory(b"d", opaque=True), file(b"d/n")]])
    assert [e.path for e in sorted_entries(merged)] == [b"", b"d", b"d/n", b"d.x", b"z"]
    assert not merged[b"d"].opaque


def test_a_file_in_place_of_a_directory_hides_it():
    assert paths(LOWER, [ROOT, file(b"d")]) == [b"", b"d", b"d.x", b"z"]


def test_a_directory_that_comes_back_above_a_whiteout_is_empty():
    assert paths(LOWER, [ROOT, Entry(b"d", Kind.WHITEOUT)], [ROOT, directory(b"d")]) == [b"", b"d", b"d.x", b"z"]


def test_a_hard_link_whose_first_name_is_hidden_becomes_the_file():
    lower = [ROOT, file(b"a", 7), Entry(b"b", Kind.HARDLINK, target=b"a"), Entry(b"c", Kind.HARDLINK, target=b"a")]
    merged = merge([lower, [ROOT, Entry(b"a", Kind.WHITEOUT)]])
    assert merged[b"b"].kind is Kind.FILE
    assert merged[b"b"].size == 7
    assert merged[b"c"] == Entry(b"c", Kind.HARDLINK, target=b"b")
