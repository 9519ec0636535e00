"""What Slurm's programs are told, and what is made of what they print, whatever somebody has put there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers import slurm
from envkit.drivers.slurm import SlurmRefused
from envkit.model.order import Resources
from envkit.model.task import NodeFacts

MARK = "|0123456789abcdef|"
ROW = ("12", "2-9%2", "12", "PENDING", "JobArrayTaskLimit", "54321", "n/a", "N/A", "N/A", "0", "envkit a b")
RUNNING = ("12", "1", "14", "RUNNING", "None", "54321", "n1", "1795285295", "1826821295", "0", "envkit a b")

# What 22.05 prints; the longer values are shortened.
NODES = """\
NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=3 CPUEfctv=4 CPUTot=4 CPULoad=13.21 AvailableFeatures=avx2,big \
ActiveFeatures=avx2,big Gres=gpu:2 NodeAddr=127.0.0.1 NodeHostName=n1 Port=20175 Version=22.05.8 OS=Linux 6.18.44 #1 \
SMP @0  RealMemory=4096 AllocMem=768 State=MIXED TmpDisk=0 Partitions=main,long  BootTime=2026-11-21T18:21:20
NodeName=n2 CPUTot=64 ActiveFeatures=(null) Gres=gpu:a100:4(S:0-1),gpu:v100:1,nvme:2 RealMemory=1 State=DOWN* \
Partitions=main Reason=said CPUTot=9 State=IDLE [root@2026-11-21T18:21:20]
NodeName=n3 Arch=aarch64 CPUTot=1 Gres=(null) RealMemory=1 State=IDLE+CLOUD+POWERED_DOWN
NodeName=n4 Arch=x86_64 CPUTot=1 Gres=gpu RealMemory=1 State=IDLE+DRAIN Partitions=main
"""
PARTITIONS = "PartitionName=main AllowGroups=ALL Nodes=c[1-2],n1 State=UP TotalCPUs=12 TotalNodes=3 MaxTime=UNLIMITED\n"


def printed(*rows):
    return "".join("".join(field + MARK for field in row) + "\n" for row in rows)


def options(**given):
    given = {
        "name": "sci",
        "comment": "envkit alice 0123",
        "count": None,
        "resources": Resources(),
        "depends_on": (),
        "requeue": True,
        "directory": "/",
    } | given
    return slurm.job_options(**given)


def test_rows_are_read():
    waiting, running = slurm.parse_jobs(printed(ROW, RUNNING), MARK)
    assert (waiting.job, waiting.indexes, waiting.state, waiting.node) == (12, "2-9%2", "PENDING", "")
    assert (waiting.began, waiting.ended) == (0.0, 0.0)
    assert (running.raw, running.node, running.uid, running.began) == (14, "n1", 54_321, 1795285295.0)
    assert slurm.parse_jobs("", MARK) == slurm.parse_jobs("\n", MARK) == []


@given(st.text(alphabet=st.sampled_from("1x|\n= ,%é\x1f\0")), st.text(alphabet=st.sampled_from("1x|\n= ,%é\x1f")))
def test_comments_and_reasons_may_hold_anything(comment, reason):
    rows = slurm.parse_jobs(printed((*ROW[:4], reason, *ROW[5:-1], comment), RUNNING), MARK)
    assert [row.comment for row in rows] == [comment, "envkit a b"]
    assert [row.job for row in rows] == [12, 12]


@pytest.mark.parametrize("text", ["12" + MARK, printed(ROW) + "12", printed(("x", *ROW[1:])), printed(ROW[:-1])])
def test_what_cannot_be_read_is_no_job(text):
    with pytest.raises(SlurmRefused, match="cannot be read"):
        slurm.parse_jobs(text, MARK)


def test_times_are_read_in_either_form():
    as_text = (*RUNNING[:7], "2026-11-21T18:21:35", "Unknown", *RUNNING[9:])
    (row,) = slurm.parse_jobs(printed(as_text), MARK)
    assert row.began > 1.7e9
    assert row.ended == 0.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("N/A", None),
        ("", None),
        ("7", (7,)),
        ("0-3", (0, 1, 2, 3)),
        ("2-4%2", (2, 3, 4)),
        ("[0,3,5-9:2%1]", (0, 3, 5, 7, 9)),
    ],
)
def test_tasks_of_arrays_are_expanded(words, expected):
    assert slurm.expanded(words) == expected


@pytest.mark.parametrize("words", ["1,3,...", "x", "1-", "0x1f", "1;2"])
def test_tasks_that_are_not_all_told_are_an_error(words):
    with pytest.raises(SlurmRefused, match="calls the tasks of an array"):
        slurm.expanded(words)


def test_nodes_are_read():
    first, second, third, fourth = slurm.parse_nodes(NODES)
    assert first == NodeFacts(
        name="n1",
        arch="x86_64",
        features=("avx2", "big"),
        cpus=4,
        memory=4 << 30,
        gpus=2,
        partitions=("main", "long"),
        up=True,
    )
    assert (second.arch, second.cpus, second.gpus, second.features, second.up) == ("", 64, 5, (), False)
    assert (third.gpus, third.partitions, third.up) == (0, (), True)
    assert (fourth.gpus, fourth.up) == (1, False)
    assert slurm.parse_nodes("No nodes in the system\n") == []


def test_partitions_and_the_configuration_are_read():
    assert slurm.parse_partitions(PARTITIONS) == {"main": ("c[1-2],n1", 3)}
    text = "Configuration data as of 2026\nClusterName             = envkit\nMaxArraySize            = 10001\n"
    assert slurm.parse_config(text).max_array == 10_001
    with pytest.raises(SlurmRefused, match="no ClusterName"):
        slurm.parse_config("MaxArraySize = 7\n")


def test_a_job_goes_nowhere_but_into_the_store_and_is_not_left_waiting():
    words = options()
    assert words[0] == "--output=/dev/null"
    assert {"--parsable", "--requeue", "--chdir=/", "--kill-on-invalid-dep=yes"} <= set(words)
    assert not any(word.startswith(("--array", "--ntasks", "--mem", "--dependency", "--gpus")) for word in words)


def test_resources_become_options():
    resources = Resources(
        tasks=4, nodes=2, cpus=3, memory=(5 << 20) + 1, gpus=1, time=3661, partition="long", priority=7, at_once=10
    )
    words = options(resources=resources, count=100, depends_on=(7, 8), requeue=False)
    assert {
        *("--ntasks=4", "--nodes=2", "--cpus-per-task=3", "--mem=6M", "--gpus-per-node=1", "--time=61:01"),
        *("--partition=long", "--priority=7", "--array=0-99%10", "--dependency=afterok:7:8", "--no-requeue"),
    } <= set(words)


def test_what_envkit_owns_comes_after_what_the_user_says():
    words = options(resources=Resources(extra=("--kill-on-invalid-dep=no", "--output=mine")), count=1)
    assert words.index("--output=/dev/null") < words.index("--output=mine")
    assert words.index("--kill-on-invalid-dep=no") < words.index("--kill-on-invalid-dep=yes")
    assert "--array=0-0" in words


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("", ("", None)),
        ("sbatch: unrecognized option '--x'\nTry \"sbatch --help\" for more\n", ("unrecognized option '--x'", None)),
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            ("Invalid partition name specified", "invalid partition specified: nope"),
        ),
        (
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
            ("Unable to contact slurm controller (connect failure)", None),
        ),
    ],
)
def test_the_reason_is_the_last_thing_that_was_said(errors, expected):
    assert slurm.reason_of(errors) == expected
