import json
import os

import pytest

from envkit.drivers import cdi
from envkit.drivers.lxc import Device
from envkit.drivers.soname import soname
from envkit.errors import EnvkitError, InvalidInput, NotFound
from envkit.services.devices import find_devices

EDITS = {"deviceNodes": [{"path": "/dev/full"}]}
SPEC = {
    "cdiVersion": "0.5.0",
    "kind": "example.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": EDITS},
        {"name": "1", "containerEdits": {"deviceNodes": [{"path": "/dev/gpu1", "hostPath": "/dev/null"}]}},
    ],
    "containerEdits": {
        "env": ["GPU_IS=here"],
        "deviceNodes": [{"path": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/hosts", "containerPath": "/opt/gpu/hosts", "options": ["ro", "bind"]}],
        "hooks": [
            {
                "hookName": "createContainer",
                "path": "/bin/x",
                "args": ["x", "hook", "update-ldcache", "--folder", "/g"],
            },
            {"hookName": "createContainer", "path": "/bin/x", "args": ["x", "create-symlinks", "--link", "a.1::/g/a"]},
            {"hookName": "createContainer", "path": "/bin/rm", "args": ["rm", "-rf", "/"]},
        ],
    },
}


@pytest.fixture
def place(tmp_path):
    def write(spec, name="gpu.json"):
        (tmp_path / name).write_text(spec if isinstance(spec, str) else json.dumps(spec))
        return (str(tmp_path),)

    return write


def test_a_gpu_brings_its_nodes_and_what_all_of_its_kind_need(place):
    found = find_devices("0", (), directories=place(SPEC))
    assert set(found.nodes) == {
        Device(source="/dev/full", target="/dev/full"), Device(source="/dev/zero", target="/dev/zero")
    }  # fmt: skip
    assert found.variables == (("GPU_IS", "here"),)
    assert [(mount.source, mount.target, mount.read_only) for mount in found.mounts] == [
        ("/etc/hosts", "/opt/gpu/hosts", True)
    ]
    assert (found.folders, found.links) == (("/g",), (("/g/a", "a.1"),))


def test_all_gpus_are_all_of_them_each_thing_once(place):
    found = find_devices("all", (), directories=place(SPEC))
    assert {node.target for node in found.nodes} == {"/dev/full", "/dev/gpu1", "/dev/zero"}
    assert len(found.mounts) == 1


def test_kinds_that_are_no_gpu_are_no_gpu(place):
    with pytest.raises(NotFound, match="no GPU that envkit knows of") as refused:
        find_devices("all", (), directories=place({**SPEC, "kind": "example.com/nic"}))
    assert "nvidia-ctk" in refused.value.resolution


def test_a_gpu_that_is_not_there_is_named_with_those_that_are(place):
    with pytest.raises(NotFound, match="no GPU '2'") as refused:
        find_devices("0,2", (), directories=place(SPEC))
    assert refused.value.resolution == "it has 0, 1"


def test_a_name_that_two_kinds_have_needs_the_kind(place):
    place({**SPEC, "kind": "other.com/gpu"}, "other.json")
    directories = place(SPEC)
    with pytest.raises(InvalidInput, match="several kinds"):
        find_devices("0", (), directories=directories)
    assert find_devices("other.com/gpu=0", (), directories=directories).nodes


def test_yaml_alone_says_how_to_write_json(place):
    with pytest.raises(NotFound, match=r"gpu\.yaml is YAML") as refused:
        find_devices("0", (), directories=place("cdiVersion: 0.5.0", "gpu.yaml"))
    assert "--format=json" in refused.value.resolution


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 3},
        {"devices": {"0": {}}},
        {"devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "../dev/full"}]}}]},
        {"devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/../etc/shadow"}]}}]},
        {"containerEdits": {"mounts": [{"hostPath": "/x"}]}},
        {"containerEdits": {"env": ["a\nb=c"]}},
        {"containerEdits": {"env": ["novalue"]}},
        {"containerEdits": {"deviceNodes": [{"path": "/dev/full"}] * 5000}},
        {"containerEdits": {"hooks": [{"args": ["update-ldcache", "--folder", "relative"]}]}},
        {"containerEdits": {"hooks": [{"args": ["create-symlinks", "--link", "x"]}]}},
    ],
)
def test_a_broken_file_is_refused_by_its_name(place, change):
    with pytest.raises(cdi.BrokenCdi, match=r"gpu\.json is no valid CDI file"):
        find_devices("0", (), directories=place({**SPEC, **change}))


@pytest.mark.parametrize("text", ["", "[]", "nul", "[" * 100_000, '{"kind": "x"'])
def test_no_json_is_refused(place, text):
    with pytest.raises(EnvkitError, match="no valid CDI file"):
        find_devices("0", (), directories=place(text))


@pytest.mark.parametrize("path", ["/etc/shadow", "dev/full", "/dev/../etc/shadow", "/dev"])
def test_only_what_is_below_dev_is_a_device(path):
    with pytest.raises(InvalidInput, match="no path below /dev"):
        find_devices(None, (path,))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(NotFound, match="no device /dev/nonsense"):
        find_devices(None, ("/dev/nonsense",))


def test_a_directory_means_the_nodes_in_it():
    found = find_devices(None, ("/dev/full", "/dev/pts"))
    assert Device(source="/dev/full", target="/dev/full") in found.nodes
    assert all(node.target == "/dev/full" or node.target.startswith("/dev/pts/") for node in found.nodes)


def test_libraries_say_by_which_name_they_are_loaded(tmp_path):
    with open("/proc/self/maps", encoding="ascii") as maps:
        libc = next(line.split()[-1] for line in maps if "/libc.so.6" in line or "/libc-" in line)
    assert soname(os.path.realpath(libc)) == "libc.so.6"
    (tmp_path / "text").write_bytes(b"\x7fELF\x02\x01" + b"x" * 10)
    assert soname(str(tmp_path / "text")) is None
    assert soname(str(tmp_path / "missing")) is None
