"""For which CPU a program was compiled, from its machine code; and bytes that are no program."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine_support import CODE, PLAIN, program

from envkit.content.machinecode import cpu_flags


def test_plain_code_needs_nothing():
    assert cpu_flags(program(PLAIN * 1000)) == frozenset()


@pytest.mark.parametrize("flag", CODE)
def test_extensions_are_found(flag):
    assert flag in cpu_flags(program(PLAIN * 100 + CODE[flag] * 20 + PLAIN * 100))


def test_a_few_instructions_may_be_data():
    assert cpu_flags(program(PLAIN * 100 + CODE["avx512f"] * 2 + PLAIN * 100)) == frozenset()


def test_large_programs_are_sampled_and_rare_vectors_found():
    code = bytearray(PLAIN * ((32 << 20) // len(PLAIN)))
    burst = CODE["avx512f"] * 200
    for place in range(3_000_000, len(code) - len(burst), 5_000_000):
        start = place - place % len(PLAIN)
        code[start : start + len(burst)] = burst
    assert "avx512f" in cpu_flags(program(bytes(code)))


def test_code_that_is_not_executable_is_not_looked_at():
    assert cpu_flags(program(CODE["avx512f"] * 100, executable=False)) == frozenset()
    assert cpu_flags(program(CODE["avx512f"] * 100, machine=183)) == frozenset()


@given(st.binary(max_size=300))
def test_what_is_no_program_gives_nothing_and_raises_nothing(data):
    assert cpu_flags(b"\x7fELF\x02\x01" + data) == frozenset()
    assert cpu_flags(data) == frozenset()


def test_programs_that_were_cut_or_overwritten_raise_nothing():
    whole = program(PLAIN * 50 + CODE["avx2"] * 20)
    rng = random.Random(3)
    for _ in range(200):
        broken = bytearray(whole[: rng.randrange(len(whole))])
        for _ in range(min(8, len(broken))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        cpu_flags(bytes(broken))


def test_programs_of_distributions_are_read():
    with open(os.path.realpath("/bin/sh"), "rb") as file:
        assert "avx512f" not in cpu_flags(file.read())
