import pytest

from envkit.cli.submission import as_array, request_from, split_words
from envkit.errors import InvalidInput
from envkit.model.order import TASK_NUMBER
from envkit.model.sbatch import Sbatch, parse_sbatch

NO_SCRIPT = Sbatch()


def made(command=("true",), extra=(), script=NO_SCRIPT, **values):
    return request_from({"environment": "sci", **values}, command, extra=extra, script=script)


def test_the_first_word_tells_options_of_sbatch_from_a_command():
    assert split_words(["git", "log", "--", "file"]) == ([], ["git", "log", "--", "file"])
    assert split_words(["--exclusive", "--qos", "long", "--", "a", "--", "b"]) == (
        ["--exclusive", "--qos", "long"],
        ["a", "--", "b"],
    )
    assert split_words([]) == ([], [])
    with pytest.raises(InvalidInput):
        split_words(["--exclusive", "a"])


def test_own_options_win_over_those_of_sbatch_and_these_over_the_script():
    script = parse_sbatch(["-n", "1", "-c", "1", "--time=1", "-J", "script", "--requeue", "--qos=a"], "script")
    request = made(extra=["-c", "2", "--time=2", "--no-requeue"], script=script, time="3", label="own")
    assert (request.resources.tasks, request.resources.cpus, request.resources.time) == (1, 2, 180)
    assert request.resources.extra == ("--qos=a",)
    assert (request.label, request.requeue) == ("own", False)
    assert request.job.cpus == 2
    assert made(script=script).label == "script"


def test_limits_are_both_asked_of_the_queue_and_given_to_the_container():
    request = made(cpus="3", memory="2G")
    assert (request.resources.cpus, request.resources.memory) == (3, 2 << 30)
    assert (request.job.cpus, request.job.memory) == (3, 2 << 30)


def test_when_layers_are_fetched_goes_with_the_job():
    assert [made(**how).job.fetch for how in ({}, {"eager": True}, {"offline": True})] == ["", "eager", "offline"]
    with pytest.raises(InvalidInput, match="contradict"):
        made(eager=True, offline=True)


def test_volumes_are_named_from_the_root_since_nodes_are_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (volume,) = made(volumes=["data:/data:ro"]).job.volumes
    assert volume.source == f"{tmp_path}/data"


def test_arrays():
    plain = made(array="0-2%2")
    assert (plain.count, plain.array, plain.names, plain.resources.at_once) == (3, True, (), 2)
    numbered = made(array="5,7")
    assert (numbered.names, numbered.rows) == ((TASK_NUMBER,), (("5",), ("7",)))
    assert made(script=parse_sbatch(["-a", "1-2"], "script")).count == 2
    assert made(script=parse_sbatch(["-a", "1-2"], "script"), array="0-6").count == 7
    assert as_array(made(), [0]).array


def test_dependencies_come_together():
    request = made(extra=["-d", "afterok:3"], depends_on=("5,3", "7-8"))
    assert request.depends_on == (3, 5, 7, 8)


@pytest.mark.parametrize(
    "values",
    [
        {"tasks": "0"},
        {"nodes": "two"},
        {"cpus": "1.5"},
        {"mpi": "magic"},
        {"time": "soon"},
        {"depends_on": ("3_1",)},
        {"priority": "-1"},
        {"extra": ["-D", "relative"]},
        {"extra": ["--wrap=x"]},
    ],
)
def test_what_cannot_be_asked_for(values):
    with pytest.raises(InvalidInput):
        made(**values)
