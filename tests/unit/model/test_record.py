import pytest

from envkit.model.record import Record


class Point(Record):
    x: int
    y: int = 0


def test_fields_are_given_by_keyword_and_have_defaults():
    point = Point(x=1)
    assert (point.x, point.y) == (1, 0)
    assert repr(point) == "Point(x=1, y=0)"


def test_missing_and_unknown_fields_are_errors():
    with pytest.raises(TypeError, match="needs 'x'"):
        Point()
    with pytest.raises(TypeError, match="no field 'z'"):
        Point(x=1, z=2)


def test_records_are_frozen_values():
    point = Point(x=1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2
    assert point == Point(x=1, y=0)
    assert point != Point(x=2)
    assert hash(point) == hash(Point(x=1))
    assert point.replace(y=5) == Point(x=1, y=5)
