"""Owns what the disk image of a guest is made of and how: packages and wheels, files, units, virtual environments.

All of this module counts as part of an image: a change here makes new images. Nothing of the code under test is in
them. The network settings of this machine serve to make an image and stay outside.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

from vm import releases

from envkit.drivers import aptsources, hostapt
from envkit.drivers.files import remove_tree

USER = "scientist"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DISK_BYTES = 16 << 30
"""The size that a guest sees; what it does not write takes no space here."""

_SECONDS = 3600
_GLIBC = {"12": 36, "13": 41}

# What a fresh machine would have, and what keeps a guest quiet and offline.
_FILES = {
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 guest\n::1 localhost ip6-localhost ip6-loopback\n",
    # Nobody answers there: an address for documentation.
    "etc/resolv.conf": "nameserver 192.0.2.53\n",
    "etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
    "etc/machine-id": "",
    f"etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/systemd/system/serial-getty@ttyS0.service.d/login.conf": (
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - $TERM\n"
    ),
    "etc/systemd/system/guest-agent.service": """[Unit]
Description=Commands of the host
After=dbus.service
[Service]
Type=simple
ExecStart=/usr/bin/python3 /usr/local/lib/guest-agent.py
KillMode=process
TasksMax=infinity
[Install]
WantedBy=multi-user.target
""",
}
# Each of them takes a part of a minute where the processor is emulated.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "man-db.timer"),
    *("podman-auto-update.service", "podman-auto-update.timer", "podman-restart.service"),
    *("netavark-dhcp-proxy.service", "netavark-dhcp-proxy.socket", "memcached.service", "e2scrub_reap.service"),
)
# The parts that profiles of AppArmor are made of, and a profile of no program in particular.
_PROFILES = ("abi", "abstractions", "disable", "force-complain", "local", "lxc", "tunables", "unprivileged_userns")
_PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/lib", "usr/libexec")


class CannotBuild(Exception):
    """An image cannot be made; the text says what is missing or what failed."""


def build(release, work, say):
    """Make `work/image`; `say` is called with a line for each step.

    :raises CannotBuild: a step failed.
    """
    root = f"{work}/root"
    say(f"Debian {release.number}: wheels")
    _download(release, f"{work}/wheels", releases.requirements())
    _download(release, f"{work}/wheels", releases.SWIFT)
    say(f"Debian {release.number}: packages ({len(releases.packages())} and what they need)")
    _bootstrap(release, root, work)
    say(f"Debian {release.number}: system")
    _furnish(root, f"{work}/wheels")
    say(f"Debian {release.number}: disk")
    os.mkdir(f"{work}/image")
    (kernel,) = (name for name in os.listdir(f"{root}/boot") if name.startswith("vmlinuz-"))
    shutil.copyfile(f"{root}/boot/{kernel}", f"{work}/image/kernel")
    shutil.copyfile(f"{root}/boot/{kernel.replace('vmlinuz', 'initrd.img')}", f"{work}/image/initrd")
    done = _run(["chroot", root, "dpkg-query", "-W"])
    with open(f"{work}/image/packages", "wb") as file:
        file.write(done)
    with open(f"{work}/image/disk", "wb") as file:
        file.truncate(_DISK_BYTES)
    _run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-L", "guest", "-d", root, f"{work}/image/disk"])


def _download(release, directory, requirements):
    """Fetch wheels for the guest's Python with this machine's pip, which knows how to reach an index."""
    python = f"3{release.python}"
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(5, _GLIBC[release.number] + 1)]
    platforms += ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
    argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", directory]
    argv += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", f"3.{release.python}"]
    argv += [word for abi in (f"cp{python}", "abi3", "none") for word in ("--abi", abi)]
    argv += [word for platform in platforms for word in ("--platform", platform)]
    _run([*argv, *requirements], env=dict(os.environ))


def _bootstrap(release, root, work):
    """Install the packages into `root`, from this machine's mirrors, for this release."""
    archives = aptsources.debian_sources(aptsources.read_host(), release.codename)
    dump = hostapt.dump(os.environ)
    conf = hostapt.render(hostapt.acquire_settings(dump, loopback=True), ca=hostapt.ca_file(dump)) or b""
    # Files: URLs may hold passwords, and everybody can read a process's arguments.
    for name, content in (("apt.conf", conf), ("sources.list", aptsources.one_line(archives).encode())):
        with open(os.open(f"{work}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    # The packages' own scripts make the initial RAM disk: small, since a guest has just these devices.
    modules = 'mkdir -p "$1"/etc/initramfs-tools/conf.d "$1"/usr/share/initramfs-tools/modules.d'
    modules += ' && echo MODULES=list >"$1"/etc/initramfs-tools/conf.d/guest'
    modules += r' && printf "virtio_pci\nvirtio_blk\next4\n" >"$1"/usr/share/initramfs-tools/modules.d/guest'
    # Namespaces of its own: killed, it leaves no mounts.
    argv = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    argv += ["--mount-proc", "--", "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"]
    argv += [f"--include={','.join(releases.packages())}", f"--aptopt={work}/apt.conf", "--dpkgopt=force-unsafe-io"]
    argv += [f"--essential-hook={modules}", "--", release.codename, root, f"{work}/sources.list"]
    proxies = {n: v for n, v in os.environ.items() if n.lower() in ("http_proxy", "https_proxy", "no_proxy")}
    _run(argv, env={"PATH": PATH, **proxies})


def _furnish(root, wheels):
    """Turn what the packages made into a machine: user, agent, virtual environments; nothing of the host."""
    # mmdebstrap leaves what it was given: mirrors, proxies.
    for path in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/sources.list"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/{path}")
    remove_tree(f"{root}/var/lib/apt/lists")
    here = os.path.dirname(os.path.abspath(__file__))
    with open(f"{here}/agent.py", encoding="utf-8") as file:
        agent = file.read()
    for path, text in {**_FILES, "usr/local/lib/guest-agent.py": agent}.items():
        os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/{path}")
        with open(f"{root}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(f"{root}/{path}", 0o440 if "sudoers" in path else 0o644)
    wants = f"{root}/etc/systemd/system/multi-user.target.wants"
    os.makedirs(wants, exist_ok=True)
    os.symlink("/etc/systemd/system/guest-agent.service", f"{wants}/guest-agent.service")
    for unit in _MASKED:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{root}/etc/systemd/system/{unit}")
        os.symlink("/dev/null", f"{root}/etc/systemd/system/{unit}")
    _leave_little_to_the_boot(root)
    # The wheels stay: `scripts/provision` installs envkit from them, without a network.
    shutil.copytree(wheels, f"{root}/opt/wheels")
    _run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", USER])
    _run(["chroot", root, "passwd", "--delete", "root"])
    for venv, wanted in (("/opt/envkit", releases.requirements()), ("/opt/envkit-swift", releases.SWIFT)):
        _run(["chroot", root, "/usr/bin/python3", "-m", "venv", venv])
        pip = [f"{venv}/bin/pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--find-links"]
        _run(["chroot", root, *pip, "/opt/wheels", *wanted])


def _leave_little_to_the_boot(root):
    """Take out what a boot would spend minutes on, where the processor is emulated, to no effect."""
    # Debian 13 has more than a hundred profiles of programs that are not installed, each of which is compiled.
    for name in os.listdir(f"{root}/etc/apparmor.d"):
        program = name.rpartition(".")[2]
        installed = any(os.path.exists(f"{root}/{place}/{program}") for place in _PROGRAM_DIRECTORIES)
        if name not in _PROFILES and not name.startswith("lxc") and not installed:
            os.unlink(f"{root}/etc/apparmor.d/{name}")
    # What the packages' scripts have just done: catalogues, users, the linker's cache.
    for directory in ("etc", "var"):
        with open(f"{root}/{directory}/.updated", "w", encoding="ascii"):
            pass


def _run(argv, env=None):
    """Run a step to its end and return what it printed.

    :raises CannotBuild: it failed, with its last lines.
    """
    program = next(os.path.basename(word) for word in argv if word not in ("chroot", "setpriv"))
    with tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        done = subprocess.run(
            argv,
            env=env or {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=_SECONDS,
            check=False,
        )
        errors.seek(0)
        last = errors.read().decode("utf-8", "replace").strip().splitlines()[-12:]
    if done.returncode != 0:
        said = "\n    ".join(["", *last])
        raise CannotBuild(f"{program} failed after {time.monotonic() - started:.0f} s, code {done.returncode}:{said}")
    return done.stdout
