"""What was read a moment ago: each range once, neighbours as one."""

from envkit.ondemand.recent import Recent


def test_reads_that_follow_one_another_are_one_range():
    recent = Recent()
    for offset, length in ((0, 4), (4, 4), (20, 1), (8, 4)):
        recent.note(offset, length)
    assert recent.take() == [(0, 8), (20, 1), (8, 4)]


def test_what_was_taken_is_forgotten():
    recent = Recent()
    recent.note(0, 4)
    recent.take()
    assert recent.take() == []
    recent.note(4, 4)
    assert recent.take() == [(4, 4)]
