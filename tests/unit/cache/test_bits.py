import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.cache.bits import Bits


@given(st.integers(0, 70).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(0, n - 1))))))
def test_bits_are_a_set_of_numbers(case):
    count, numbers = case
    numbers = {number for number in numbers if number < count}
    bits = Bits(count)
    for number in numbers:
        bits.add(number)
    assert {number for number in range(count) if bits[number]} == numbers
    assert bits.total() == len(numbers)
    assert Bits.from_bytes(bits.to_bytes(), count).to_bytes() == bits.to_bytes()
    for start in range(count + 1):
        for stop in range(count + 1):
            assert bits.all_in(start, stop) == all(number in numbers for number in range(start, stop))
    for number in numbers:
        bits.discard(number)
    assert bits.total() == 0


@pytest.mark.parametrize("number", [-1, 9, 15, 16])
def test_there_are_no_other_bits(number):
    bits = Bits(9)
    for access in (bits.__getitem__, bits.add, bits.discard, lambda n: bits.all_in(0, n + 1 if n > 0 else 10)):
        with pytest.raises(IndexError):
            access(number)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xff", b"\x00\x02", b"\xff\x01\x00"])
def test_bytes_of_other_bits_are_refused(data):
    with pytest.raises(ValueError, match="are not 9 bits"):
        Bits.from_bytes(data, 9)
