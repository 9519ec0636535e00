import hashlib

import pytest

from envkit.errors import Damaged, InvalidInput
from envkit.model.ids import EnvName
from envkit.model.job import Job
from envkit.model.order import TASK_NUMBER, Input, Kind, Order, Resources, order_from_json, order_to_json
from envkit.model.version import LayerRef
from envkit.queues.script import Place
from envkit.services.jobs import ranks
from envkit.services.jobs.taskwork import job_of, task_variables, version_of

PLACE = Place(number=12, index=0, attempt=0, queue="slurm-x")


def order(*command, **fields):
    fields = {
        "token": "0" * 32,
        "owner": "lab",
        "uid": 1000,
        "gid": 1000,
        "env": EnvName(owner="lab", name="sci"),
        "version": 3,
        "arch": "x86_64",
        "layers": (LayerRef(tree="1" * 64, entries=1, size=1, stored=1),),
        "kind": Kind.COMMAND,
        "job": Job(environment="lab/sci@3", command=command),
    } | fields
    return Order(**fields)


@pytest.mark.parametrize(
    "job",
    [
        Job(environment="x", command=()),
        Job(environment="x", command=("a\0b",)),
        Job(environment="x", command=("true",), net="bridge0"),
    ],
)
def test_a_job_that_no_command_line_could_ask_for_is_refused(job):
    with pytest.raises(InvalidInput):
        job_of(order("true", job=job), 0, {})


def test_what_runs_is_what_was_pinned():
    version = version_of(order("true"))
    assert str(version) == "lab/sci@3"
    assert [layer.tree for layer in version.layers] == ["1" * 64]


def test_parameters_are_filled_in_but_for_the_number():
    many = order("f", "{x}", names=("x", TASK_NUMBER), rows=(("a b", "5"), ("{x}", "7")), count=2, array=True)
    assert job_of(many, 0, {}).command == ("f", "a b")
    assert job_of(many, 1, {}).command == ("f", "{x}")
    assert task_variables(many, PLACE.replace(index=1), {})[TASK_NUMBER] == "7"


def test_without_parameters_a_command_is_no_template():
    numbered = order("awk", "{print $1}", names=(TASK_NUMBER,), rows=(("5",),))
    assert job_of(numbered, 0, {}).command == ("awk", "{print $1}")


def test_a_task_beyond_the_last_is_refused():
    with pytest.raises(InvalidInput, match="no task 1"):
        job_of(order("true"), 1, {})


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({"SLURM_JOB_GPUS": "2,3", "CUDA_VISIBLE_DEVICES": "0,1"}, "2,3"),
        ({"SLURM_JOB_GPUS": "2", "SLURM_STEP_GPUS": "1"}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "0"),
        ({}, "all"),
    ],
)
def test_the_gpus_are_those_that_slurm_gave(environment, gpus):
    assert job_of(order("true", resources=Resources(gpus=2)), 0, environment).gpus == gpus


def test_a_job_without_gpus_gets_none_whatever_the_node_says():
    assert job_of(order("true"), 0, {"SLURM_JOB_GPUS": "0"}).gpus is None


def test_a_job_that_asked_for_gpus_and_got_none_says_so():
    with pytest.raises(InvalidInput, match="gave this job no GPU"):
        job_of(order("true", resources=Resources(gpus=1)), 0, {"SLURM_JOB_ID": "1"})


def test_variables_of_slurm_are_passed_on_in_bounds():
    given = {"SLURM_JOB_ID": "99", "SLURM_X": "a\nb", "SLURM_LONG": "x" * 20_000, "LD_PRELOAD": "evil", "SLURM_Y": "y"}
    found = task_variables(order("true"), PLACE, given | {f"SLURM_Z{n}": "" for n in range(1000)})
    assert found["SLURM_JOB_ID"] == "99"
    assert found["ENVKIT_JOB"] == "12"
    assert not {"SLURM_X", "SLURM_LONG", "LD_PRELOAD"} & set(found)
    assert len(found) < 220


def test_without_slurm_scripts_find_the_variables_that_they_know():
    found = task_variables(order("true", count=4, array=True, resources=Resources(cpus=2)), PLACE.replace(index=3), {})
    assert found["SLURM_ARRAY_TASK_ID"] == "3"
    assert (found["SLURM_ARRAY_JOB_ID"], found["SLURM_CPUS_PER_TASK"], found["SLURM_NTASKS"]) == ("12", "2", "1")


def call_input(*parts):
    data = b"".join(parts)
    edges = [sum(map(len, parts[: number + 1])) for number in range(len(parts) - 1)]
    digests = tuple(hashlib.sha256(part).hexdigest() for part in parts)
    return Input(digest=hashlib.sha256(data).hexdigest(), size=len(data), offsets=tuple(edges), digests=digests)


def test_parts_of_an_input_are_where_they_are_said_to_be():
    parts = (b"function", b"one", b"", b"three")
    given = call_input(*parts)
    data = b"".join(parts)
    for number, part in enumerate(parts):
        start, length, digest = given.part(number)
        assert data[start : start + length] == part
        assert digest == hashlib.sha256(part).hexdigest()


def test_an_order_of_a_call_comes_back_from_json():
    given = order("python3", kind=Kind.CALL, count=2, input=call_input(b"f", b"a", b"b"))
    assert order_from_json(order_to_json(given), where="here") == given


@pytest.mark.parametrize(
    "change",
    [{"digests": ()}, {"digests": ("0" * 64,) * 2}, {"digests": ("x",) * 3}, {"offsets": (2, 1)}, {"offsets": (1,)}],
)
def test_an_input_whose_parts_do_not_fit_is_refused(change):
    given = order("python3", kind=Kind.CALL, count=2, input=call_input(b"f", b"a", b"b"))
    broken = given.input.replace(**change)
    with pytest.raises((Damaged, InvalidInput)):
        order_from_json(order_to_json(given.replace(input=broken)), where="here")


@pytest.mark.parametrize(
    ("fields", "environment", "expected"),
    [
        ({"resources": Resources(tasks=2)}, {}, True),
        ({"resources": Resources(mpi="pmix")}, {"SLURM_JOB_ID": "1"}, True),
        ({"resources": Resources(mpi="pmix")}, {}, False),
        ({}, {"SLURM_JOB_ID": "1"}, False),
    ],
)
def test_ranks_are_started_by_srun_where_there_are_several(fields, environment, expected):
    assert ranks.has_ranks(order("true", **fields), environment) is expected


def test_a_script_starts_its_own_processes():
    script = order("x.sh", kind=Kind.SCRIPT, input=Input(digest="0" * 64, size=1), resources=Resources(tasks=8))
    assert not ranks.has_ranks(script, {"SLURM_JOB_ID": "1"})


def test_a_rank_gets_what_finds_the_others_and_nothing_else():
    given = {"PMIX_RANK": "3", "PMI_FD": "0", "SLURM_PROCID": "3", "LD_PRELOAD": "evil", "PMIX_BAD": "a\nb"}
    found = ranks.pmi_variables(given)
    assert {"PMIX_RANK", "PMI_FD", "SLURM_PROCID"} <= set(found)
    assert not {"LD_PRELOAD", "PMIX_BAD"} & set(found)
    assert ranks.pmi_variables({"OMPI_MCA_btl": "x"})["OMPI_MCA_btl"] != "x"


def test_a_rank_is_on_the_hosts_network_with_the_directory_of_its_pmi_server():
    job = ranks.rank_job(Job(environment="x", command=("true",)), {"PMIX_SERVER_TMPDIR": "/spool/pmix.1.0/"})
    assert job.net == "host"
    assert [(v.source, v.target) for v in job.volumes] == [("/spool/pmix.1.0/", "/spool/pmix.1.0/")]
    assert ranks.rank_job(job, {"PMIX_SERVER_TMPDIR": "relative"}).volumes == job.volumes
