"""Owns what a test cluster has on disk before it starts: configuration, keys, devices, and its own /etc."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig

from slurm_config import HEAD, cgroup_conf, gres_conf, slurm_conf

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS = {"alice": 54_321, "bob": 54_322}
"""Users of the cluster alone, with homes that all nodes see; they may call envkit through sudo."""
_OWN = ("slurm", "envkit", "sudoers.d")
"""Directories of /etc that a cluster has for itself."""


def free_ports(count):
    """Ports that nobody uses, below those that the kernel gives to clients: a daemon gets its own back after a restart."""
    ports = set()
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return tuple(ports)


def munged(directory):
    """The command line of munged, with nothing outside of the directory."""
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return ["munged", "--foreground", *(f"--{option}={directory}/munge/{name}" for option, name in files.items())]


def write(shape, store):
    """Write everything but what Slurm itself keeps there; what an earlier start has written is replaced."""
    place = pathlib.Path(shape.directory)
    for name in ("bin", "devices", "home", "log", "munge", "state"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "munge/key").touch(mode=0o600)
    (place / "munge/key").write_bytes(os.urandom(128))
    (place / "jobs").touch(mode=0o644)
    for path in (place / "state").glob("node_state*"):
        path.unlink()  # these are new machines
    for number in range(shape.gpus):
        if not (device := place / f"devices/gpu{number}").exists():
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
    version = re.search(r"(\d+)\.(\d+)", _output(["slurmd", "-V"]))
    texts = {
        "slurm.conf": slurm_conf(shape),
        "gres.conf": gres_conf(shape),
        "cgroup.conf": cgroup_conf((int(version[1]), int(version[2]))),
    }
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    _write_etc(place, [HEAD, *shape.names], list(texts))
    _write_scripts(place)
    for name in [HEAD, *shape.names]:
        _write_node(place / "nodes" / name, store)


def _write_node(place, store):
    for part in ("etc", "spool", "tmp"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "tmp").chmod(0o1777)
    settings = {"root": f"{place}/envkit", "store": store, "node_program": f"{place.parents[1]}/bin/envkit"}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    (place / "etc/config.toml").write_text(text, encoding="utf-8")


def _write_scripts(place):
    """What sudo, and Slurm when it starts nodes and lets them sleep, call."""
    # As scripts/provision writes it.
    search = [CHECKOUT, sysconfig.get_path("purelib")]
    launcher = f"import sys\n\nsys.path[:0] = {search}\nfrom envkit.__main__ import main\n\nmain()"
    scripts = {"envkit": f"{sys.executable} -IS\n{launcher}"}
    for name, command in {"resume": "boot", "suspend": "fail"}.items():
        script = f"{sys.executable} {CHECKOUT}/tests/slurm_command.py {command} --quietly {place}"
        scripts[name] = f'/bin/sh\nexec {script} $(scontrol show hostnames "$1")'
    for name, text in scripts.items():
        (place / f"bin/{name}").write_text(f"#!{text}\n", encoding="utf-8")
        (place / f"bin/{name}").chmod(0o755)


def _write_etc(place, machines, configuration):
    """Make another /etc: files are copies, directories are links to this machine's, which is mounted on `machine-etc`. Add
    what the machines of a cluster share: users, names, who may call envkit.
    """
    (place / "machine-etc").mkdir(exist_ok=True)
    etc = place / "etc"
    shutil.rmtree(etc, ignore_errors=True)
    etc.mkdir()
    for entry in os.scandir("/etc"):
        if entry.name in _OWN:
            continue
        if entry.is_dir(follow_symlinks=False):
            (etc / entry.name).symlink_to(place / "machine-etc" / entry.name)
        else:
            shutil.copy2(entry.path, etc / entry.name, follow_symlinks=False)
            status = entry.stat(follow_symlinks=False)
            os.chown(etc / entry.name, status.st_uid, status.st_gid, follow_symlinks=False)
    for name in _OWN:
        (etc / name).mkdir()
    for name in configuration:
        (etc / "slurm" / name).symlink_to(place / name)
    # What admins are given, for the users and the place of this cluster.
    rules = pathlib.Path(CHECKOUT, "scripts/slurm/sudoers").read_text(encoding="utf-8")
    rules = rules.replace("/usr/local/bin/envkit", f"{place}/bin/envkit").replace("%users", ",".join(USERS))
    (etc / "sudoers.d/envkit").write_text(f"Defaults secure_path={place}/bin:{PATH}\n{rules}", encoding="utf-8")
    homes = {name: place / "home" / name for name in USERS}
    _append(etc / "passwd", [f"{name}:x:{uid}:{uid}::{homes[name]}:/bin/bash" for name, uid in USERS.items()])
    _append(etc / "shadow", [f"{name}:*:19000::::::" for name in USERS])
    _append(etc / "group", [f"{name}:x:{uid}:" for name, uid in USERS.items()])
    _append(etc / "hosts", [f"127.0.0.1 {name}" for name in machines])
    for name, home in homes.items():
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, USERS[name], USERS[name])


def mounts(directory):
    """What every machine of a cluster sees in other places, as words for mount(8)."""
    etc = [["-o", "bind,ro", "/etc", f"{directory}/machine-etc"], ["--bind", f"{directory}/etc", "/etc"]]
    return [*etc, *_pmix(directory)]


def _pmix(directory):
    """Without this srun(1) of Debian 12 has no PMIx: it looks for a name of the library that only its development package
    has.
    """
    found = next(pathlib.Path("/usr/lib").glob("*/pmix2/lib/libpmix.so.2"), None)
    if found is None or found.with_name("libpmix.so").exists():
        return []
    shutil.rmtree(f"{directory}/pmix", ignore_errors=True)
    shutil.copytree(found.parent, f"{directory}/pmix", symlinks=True)
    os.symlink(found.name, f"{directory}/pmix/libpmix.so")
    return [["--bind", f"{directory}/pmix", str(found.parent)]]


def _append(path, lines):
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def _output(words):
    return subprocess.run(words, check=True, capture_output=True, text=True, env={"PATH": PATH}).stdout
