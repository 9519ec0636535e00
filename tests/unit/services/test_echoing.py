"""What a task prints goes to the queue's files, too, where the user has asked sbatch for them."""

import pytest

from envkit.model.ids import EnvName
from envkit.model.job import Job
from envkit.model.order import Kind, Order, Resources
from envkit.model.version import LayerRef
from envkit.services.jobs.tasks import _echoing, _has_file


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        (("--output=x",), True),
        (("-o", "x"), True),
        (("-ex",), True),
        (("--error", "x"), True),
        (("--exclusive", "--open-mode=append"), False),
        ((), False),
    ],
)
def test_only_who_asked_for_files_gets_them(extra, wanted):
    order = Order(
        token="ab" * 16,
        owner="root",
        uid=0,
        gid=0,
        env=EnvName(owner="lab", name="sci"),
        version=1,
        arch="x86_64",
        layers=(LayerRef(tree="ab" * 32, entries=1, size=1, stored=1),),
        kind=Kind.COMMAND,
        job=Job(environment="lab/sci@1", command=("true",)),
        resources=Resources(extra=extra),
    )
    assert _has_file(order) is wanted


def test_each_stream_goes_where_it_belongs(capfd):
    taken = []
    write = _echoing(lambda stream, data: taken.append((stream, data)))
    write("out", b"one\n")
    write("err", b"two\n")
    assert taken == [("out", b"one\n"), ("err", b"two\n")]
    assert capfd.readouterr() == ("one\n", "two\n")
