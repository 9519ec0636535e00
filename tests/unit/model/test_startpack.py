"""What an entry point shows of a command line, and what it must never show."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.model.startpack import entry_point, granule_length, stack_digest

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("true", "true"),
        ("/usr/bin/gcc -O2 -c hello.c", "gcc"),
        ("python3", "python3"),
        ("python3 -", "python3"),
        ("python3 solve.py --token hunter2", "python3 solve.py"),
        ("/usr/bin/python3.11 -u -W ignore /home/a/solve.py", "python3.11 solve.py"),
        ("python3 -m pip install numpy", "python3 -m pip"),
        ("python3 -Im http.server", "python3 -m http.server"),
        ("python3 -mpip", "python3 -m pip"),
        ("python3 -Bc hunter2", "python3 -c"),
        ("python3 -Xhunter2 -X hunter2 a.py", "python3 a.py"),
        ("python3 --check-hash-based-pycs hunter2 a.py", "python3"),
        ("bash /x/run.sh hunter2", "bash run.sh"),
        ("bash -e -o pipefail run.sh", "bash run.sh"),
        ("perl -Ilib -w x.pl", "perl x.pl"),
        ("perl -lne hunter2", "perl -e"),
        ("perl -Mhunter2 -e hunter2", "perl -e"),
        ("Rscript --vanilla fit.R", "Rscript fit.R"),
        ("Rscript -e hunter2", "Rscript -e"),
        ("node --token hunter2 a.js", "node"),
        ("env TOKEN=hunter2 python3 a.py", "python3 a.py"),
        ("env -u X hunter2", "env"),
        ("timeout 10 nice -n 5 make -j4", "make"),
        ("nohup", "nohup"),
        ("", "_"),
    ],
)
def test_the_program_and_what_it_interprets_are_shown(line, shown):
    assert entry_point(line.split()) == shown


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("cd /x && python3 a.py", "sh -c cd"),
        ("/usr/bin/make all", "sh -c make"),
        ("ls; hunter2", "sh -c ls"),
        ("TOKEN=hunter2 curl x", "sh -c curl"),
        ("TOKEN='hunter2 hunter2' curl x", "sh -c"),
        ("$(hunter2)", "sh -c"),
        ("ls;hunter2", "sh -c"),
        ("", "sh -c"),
    ],
)
def test_of_a_shells_code_only_the_first_command_is_shown(code, shown):
    assert entry_point(["sh", "-c", code]) == shown
    assert entry_point(["/bin/sh", "-ec", code, SECRET]) == shown


@given(
    st.lists(st.text(max_size=120) | st.sampled_from(["python3", "sh", "-c", "-m", "env", "perl", "A=b"]), max_size=6)
)
def test_whatever_is_started_its_entry_point_has_plain_characters(argv):
    assert re.fullmatch(r"[A-Za-z0-9._+-](?:[A-Za-z0-9._+ -]{0,98}[A-Za-z0-9._+-])?", entry_point(argv))


@given(
    st.sampled_from(["python3", "bash", "sh", "perl", "Rscript", "env", "nice", "timeout", "gcc"]),
    st.lists(st.sampled_from(["-", "-u", "--", "-x", "-o", "-W", "-l", "--long"]), max_size=3),
    st.sampled_from(
        [f"A={SECRET}", f"--password={SECRET}", f"-p{SECRET}!", f"'{SECRET}'", f"x({SECRET})", f"a {SECRET}"]
    ),
)
def test_what_is_no_plain_name_is_never_shown(program, options, word):
    assert SECRET not in entry_point([program, *options, word])


def test_a_stack_has_the_digest_of_its_layers_in_order():
    assert stack_digest(["ab", "cd"]) == hashlib.sha256(b"ab\ncd").hexdigest()
    assert stack_digest(["ab", "cd"]) != stack_digest(["cd", "ab"])


@pytest.mark.parametrize(("size", "granule", "length"), [(40_960, 0, 16_384), (40_960, 2, 8192), (32_768, 2, 0)])
def test_the_last_granule_is_what_is_left(size, granule, length):
    assert granule_length(size, granule) == length
