import pytest

from envkit.errors import InvalidInput
from envkit.model.sbatch import directives, parse_array, parse_sbatch, parse_time

HERE = "the options"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:05", 7205),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("2-0:0:7", 2 * 86400 + 7),
        ("90s", 90),
        ("7d", 7 * 86400),
    ],
)
def test_times_are_those_of_sbatch_or_have_a_unit(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1-", "1x", "٣", "s"])
def test_other_times_are_refused(text):
    with pytest.raises(InvalidInput):
        parse_time(text)


def test_arrays():
    assert parse_array("0-3") == ((0, 1, 2, 3), None)
    assert parse_array("1-9:4%2") == ((1, 5, 9), 2)
    assert parse_array("7,3,3,4-5") == ((7, 3, 4, 5), None)
    assert len(parse_array("0-99999")[0]) == 100_000


@pytest.mark.parametrize("text", ["", "x", "3-1", "1-5:0", "1%", "1%x", "1,", "0-100000", "0-2147483648", "-1"])
def test_other_arrays_are_refused(text):
    with pytest.raises(InvalidInput):
        parse_array(text)


def test_options_that_envkit_has_become_its_own():
    words = [
        "-n4",
        "-N",
        "2",
        "--cpus-per-task=3",
        "--mem=2000",
        "-t",
        "1:00:00",
        "-p",
        "long,short",
        "--gpus-per-node",
        "1",
        "--priority=7",
    ]
    found = parse_sbatch(words, HERE)
    assert found.resources == {
        "tasks": 4, "nodes": 2, "cpus": 3, "memory": 2000 << 20, "time": 3600, "partition": "long,short", "gpus": 1,
        "priority": 7,
    }  # fmt: skip
    assert found.extra == ()
    more = parse_sbatch(["-J", "my job!", "-D", "/work", "--no-requeue", "-d", "afterok:4:5,afterok:6"], HERE)
    assert (more.label, more.directory, more.requeue, more.depends_on) == ("my-job", "/work", False, (4, 5, 6))
    assert parse_sbatch(["--export=ALL,A=1,B,C=x=y"], HERE).variables == (("A", "1"), ("C", "x=y"))
    array = parse_sbatch(["-a", "2,4%1"], HERE)
    assert (array.array, array.resources) == ((2, 4), {"at_once": 1})


def test_other_options_go_to_slurm_as_they_are():
    words = ["--qos", "long", "--exclusive", "-A", "acct", "-N", "2-4", "--mem=0", "-o", "out-%j", "-d", "afterany:3"]
    found = parse_sbatch(words, HERE)
    assert list(found.extra) == words
    assert found.resources == {}
    assert found.depends_on == ()


def test_the_last_of_several_counts():
    assert parse_sbatch(["-n", "1", "--ntasks=8"], HERE).resources == {"tasks": 8}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--wrap=true"], "--wrap"),
        (["--wrap", "true"], "--wrap"),
        (["--uid=0"], "--uid"),
        (["--gid", "0"], "--gid"),
        (["--comment=x"], "--comment"),
        (["-W"], "-W"),
        (["-Mother"], "-M"),
        (["--arr=0-9"], "--arr"),
        (["--wra=true"], "--wra"),
        (["--ui=0"], "--ui"),
        (["--time"], "needs a value"),
        (["--time", "soon"], "soon"),
        (["--mem=lots"], "lots"),
        (["script.sh"], "script.sh"),
        (["--qos=x", "y", "z"], "'y'"),
        (["--"], "'--'"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(words, text):
    with pytest.raises(InvalidInput) as refused:
        parse_sbatch(words, HERE)
    assert str(refused.value).startswith(HERE)
    assert text in str(refused.value)


def test_directives_end_at_the_first_command():
    script = b"#!/bin/sh\n#SBATCH -n 4 # as many as there are\n\n# note\n #SBATCH --no\n#SBATCH -J 'a b'\necho\n#SBATCH -n 8\n"
    assert directives(script.replace(b" #SBATCH --no\n", b""), "x") == ["-n", "4", "-J", "a b"]
    assert directives(script, "x") == ["-n", "4"]
    assert directives(b"#!/bin/sh\n#SBATCHX\n", "x") == []


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (b"echo\n", "#!"),
        (b"", "#!"),
        (b"#!/bin/sh\n#SBATCH -J 'x\n", "line 2"),
        (b"#!/bin/sh\n#SBATCH hetjob\n", "line 2"),
    ],
)
def test_what_is_no_script_is_refused(script, text):
    with pytest.raises(InvalidInput) as refused:
        directives(script, "solve.sh")
    assert text in str(refused.value)
    assert "solve.sh" in str(refused.value)
