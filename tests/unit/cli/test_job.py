import pytest

from envkit.cli.job import job_from
from envkit.errors import InvalidInput
from envkit.model.job import Volume


def test_options_become_a_job(monkeypatch):
    monkeypatch.setenv("INHERITED", "x y")
    values = {
        "environment": "sci@2",
        "volumes": ["/a:/b:ro"],
        "variables": ["A=1", "INHERITED"],
        "directory": "/b",
        "net": "host",
        "cpus": "2",
        "memory": "1G",
        "timeout": "1.5",
        "user": "root",
    }
    job = job_from(values, ["true"])
    assert job.volumes == (Volume(source="/a", target="/b", read_only=True),)
    assert job.variables == (("A", "1"), ("INHERITED", "x y"))
    assert (job.directory, job.net, job.cpus, job.memory, job.timeout, job.as_root) == (
        "/b",
        "host",
        2,
        1 << 30,
        1.5,
        True,
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("net", "bridge", "--net 'bridge' is no network"),
        ("cpus", "0", "--cpus '0' must be a whole number above zero"),
        ("cpus", "1.5", "--cpus '1.5' must be a whole number above zero"),
        ("cpus", "nan", "--cpus 'nan' must be a whole number above zero"),
        ("timeout", "-1", "--timeout '-1' must be a number above zero"),
        ("timeout", "x", "--timeout 'x' must be a number above zero"),
        ("memory", "lots", "invalid size 'lots'"),
        ("user", "bob", "--user 'bob': only root can be asked for"),
        ("directory", "rel", "--workdir 'rel' must be absolute"),
    ],
)
def test_values_that_cannot_be_used_are_refused(key, value, message):
    with pytest.raises(InvalidInput) as caught:
        job_from({"environment": "sci", key: value}, ["true"])
    assert caught.value.brief == message
