"""What is refused before it is queued, what is noted, and what a queue is asked for because of it."""

import pytest
from stored_support import Lab

from envkit.errors import Unavailable
from envkit.model.ids import EnvName
from envkit.model.needs import Needs
from envkit.model.order import Resources
from envkit.model.task import NodeFacts
from envkit.model.version import Version, VersionKind
from envkit.services.jobs import preflight

PLAIN = NodeFacts(name="n1", arch="x86_64", cpus=4, memory=4 << 30, partitions=("main",))
GPU = NodeFacts(name="n2", arch="x86_64", cpus=8, memory=8 << 30, gpus=2, partitions=("gpu",), features=("avx2", "fma"))
ASLEEP = NodeFacts(name="c1", partitions=("main",))


def version(*, arch="x86_64", **needs):
    return Version(
        env=EnvName(owner="lab", name="sci"),
        number=3,
        kind=VersionKind.ENVIRONMENT,
        layers=(),
        arch=arch,
        needs=Needs(cpu_file="/opt/solve", **needs),
    )


@pytest.fixture
def look(tmp_path):
    """A function that looks whether a version without layers could begin."""
    context = Lab(tmp_path).fresh_context()
    return lambda wanted, machines, **resources: preflight.check(context, wanted, Resources(**resources), machines)


def test_what_fits_needs_no_word(look):
    assert look(version(), [PLAIN, GPU], cpus=8, memory=8 << 30, gpus=2, nodes=2) == preflight.Findings()
    assert look(version(arch="mips"), []) == preflight.Findings()  # the queue cannot say
    resources = Resources(extra=("--qos=x",))
    assert preflight.Findings().asked(resources) is resources


@pytest.mark.parametrize(
    ("wanted", "resources", "text"),
    [
        (version(arch="aarch64"), {}, "built for aarch64, and this queue has nodes of x86_64 only"),
        (version(), {"cpus": 9}, "no node of this queue has 9 CPUs"),
        (version(), {"memory": 9 << 30}, "bytes of memory"),
        (version(), {"gpus": 3}, "no node of this queue has 3 GPUs"),
        (version(), {"gpus": 1, "partition": "main"}, "no node of the partition main has 1 GPUs"),
        (version(), {"nodes": 3}, "2 nodes that could run it, not 3"),
        (version(cpu=("avx512f",)), {}, "needs a CPU with avx512f, which no node of this queue has"),
        (version(cpu=("avx2",)), {"partition": "none,gpu", "nodes": 1, "cpus": 9}, "no node of the partition none,gpu"),
    ],
)
def test_what_no_node_has_is_refused(look, wanted, resources, text):
    with pytest.raises(Unavailable, match=text):
        look(wanted, [PLAIN, GPU], **resources)


def test_a_node_that_is_switched_off_may_be_anything(look):
    assert look(version(), [PLAIN, ASLEEP], gpus=4, cpus=64) == preflight.Findings()
    assert look(version(arch="aarch64"), [PLAIN, ASLEEP]) == preflight.Findings()
    found = look(version(cpu=("avx512f",)), [PLAIN, GPU, ASLEEP])
    assert found == preflight.Findings(features=("avx512f",))


def test_an_unknown_partition_is_for_the_queue_to_refuse(look):
    assert look(version(), [PLAIN, GPU], partition="nope") == preflight.Findings()


def test_flags_that_nodes_name_are_asked_for(look):
    found = look(version(cpu=("avx2", "fma")), [PLAIN, GPU])
    assert found.notes == ()
    assert found.asked(Resources(extra=("--qos=x",))).extra == ("--qos=x", "--constraint=avx2&fma")


def test_where_no_node_names_flags_that_is_said(look):
    found = look(version(cpu=("avx2",)), [PLAIN])
    assert found.features == ()
    assert "needs a CPU with avx2" in found.notes[0] and "when it starts" in found.notes[0]


@pytest.mark.parametrize("word", ["-Cbig", "-C", "--constraint=big", "--constr"])
def test_a_constraint_of_the_users_own_is_left_alone(look, word):
    found = look(version(cpu=("avx2",)), [GPU], extra=(word,))
    assert found.features == ()
    assert "your --constraint" in found.notes[0]


def test_nodes_that_are_down_are_waited_for(look):
    (note,) = look(version(), [PLAIN.replace(up=False)]).notes
    assert "are down" in note
    assert look(version(), [PLAIN.replace(up=False), GPU]).notes == ()


@pytest.mark.parametrize(
    ("families", "resources", "text"),
    [
        ((), {"mpi": "pmix"}, "no library of MPI was seen in lab/sci@3"),
        (("openmpi",), {"mpi": "pmi2"}, "use --mpi=pmix"),
        (("mpich",), {"tasks": 4}, "without --mpi"),
    ],
)
def test_mpi_that_does_not_look_right_is_noted(look, families, resources, text):
    (note,) = look(version(mpi=families), [PLAIN], **resources).notes
    assert text in note


@pytest.mark.parametrize(
    ("families", "resources"),
    [((), {}), (("openmpi",), {"mpi": "pmix", "tasks": 4}), (("mpich",), {"mpi": "pmi2"}), (("openmpi",), {})],
)
def test_mpi_that_looks_right_is_not(look, families, resources):
    assert look(version(mpi=families), [PLAIN], **resources).notes == ()
