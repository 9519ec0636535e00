"""`envkit run`: the command's exit code, streams, signals and terminal; who it runs as, and what it may not do."""

import hashlib
import os
import signal
import socket
import subprocess
import time

import pytest
from commandline import ALICE, NOBODY, Terminal, User, read_until, wait_until

from envkit.drivers import lxc
from envkit.drivers.subids import container_range

pytestmark = [pytest.mark.root, pytest.mark.lxc]

TINY = "base/tiny"


@pytest.fixture
def shelf(place):
    """A directory of the host that everybody may write to."""
    path = place / "shelf"
    path.mkdir()
    path.chmod(0o777)
    return path


# Exit codes


@pytest.mark.parametrize("code", [0, 7, 124, 125, 255])
def test_the_exit_code_is_the_commands(envkit, code):
    assert envkit.sh(TINY, f"exit {code}") == (code, b"", b"")


def test_a_command_that_a_signal_ends_gives_128_and_its_number(envkit):
    assert envkit.sh(TINY, "kill -9 $$") == (137, b"", b"")
    assert envkit.sh(TINY, "kill -TERM $$").code == 143
    assert envkit.sh(TINY, "ulimit -c 0; kill -SEGV $$").code == 139


def test_a_missing_environment_is_125_and_names_what_there_is(envkit):
    envkit.sh("tiny", "true").fails(125, "no environment lab/tiny", "did you mean base/tiny?")
    envkit.sh(f"{TINY}@9", "true").fails(125, "base/tiny has no version 9: it has 1")
    envkit.sh("base/", "true").fails(125, "invalid name ''")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--net", "wifi"], "--net 'wifi' is no network"),
        (["--memory", "lots"], "invalid size 'lots'"),
        (["--memory", "0"], "invalid size '0'"),
        (["-c", "0"], "--cpus '0' must be a whole number above zero"),
        (["-c", "1.5"], "--cpus '1.5' must be a whole number above zero"),
        (["--timeout", "soon"], "--timeout 'soon' must be a number above zero"),
        (["--timeout", "0"], "--timeout '0' must be a number above zero"),
        (["-v", "relative:data"], "invalid volume 'relative:data'"),
        (["-v", "/tmp:/a/../../etc"], "invalid volume"),
        (["-v", "/tmp:/"], "and not / itself"),
        (["-v", "/tmp:/x:rx"], "invalid volume"),
        (["-v", "/no/such/place:/data"], "the volume's source /no/such/place does not exist"),
        (["--env", "=x"], "invalid variable '=x'"),
        (["--env", "NOT_SET_ANYWHERE"], "the variable NOT_SET_ANYWHERE is not set"),
        (["--env", "TWO WORDS=1"], "invalid variable name 'TWO WORDS'"),
        (["--env", "LINES=one\ntwo"], "the value of variable LINES holds a line break"),
        (["-w", "work"], "--workdir 'work' must be absolute"),
        (["-w", "/no/such/place"], "base/tiny@1 has no directory /no/such/place"),
        (["--user", "alice"], "--user 'alice': only root can be asked for"),
    ],
)
def test_an_option_that_cannot_be_used_is_125_and_named(envkit, options, text):
    envkit("run", "-e", TINY, *options, "--", "true").fails(125, text)


def test_an_unknown_option_and_a_missing_command_are_125_with_the_usage(envkit):
    for words in (["--colour", "red", "--", "true"], []):
        outcome = envkit("run", "-e", TINY, *words)
        assert (outcome.code, outcome.out) == (125, b"")
        assert outcome.stderr.startswith("Usage: envkit run")


def test_what_cannot_be_executed_is_126_and_what_is_not_there_127(envkit):
    make = "printf '#!/no/such/shell\\n' >/opt/orphan; chmod +x /opt/orphan; ln -s /no/such/file /opt/dangling"
    env = envkit.saved("unexecutable", make)
    envkit("run", "-e", env, "--", "/etc/passwd").fails(126, "cannot execute '/etc/passwd': it is no executable file")
    envkit("run", "-e", env, "--", "/etc").fails(126, "cannot execute '/etc'")
    envkit("run", "-e", env, "--", "/opt/orphan").fails(126, "its interpreter /no/such/shell is not in lab/unexec")
    envkit("run", "-e", env, "--", "frobnicate").fails(127, "lab/unexecutable@1 has no command 'frobnicate'")
    envkit("run", "-e", env, "--", "/opt/dangling").fails(127, "has no command '/opt/dangling'")
    envkit("run", "-e", env, "--", "").fails(127, "has no command ''")


def test_words_reach_the_command_as_they_are(envkit):
    words = ["-e", "--", "", "a b", "*", "$HOME", "'\"", "line\nbreak", "\udcff\udc80", "ünï", "--help", "--net"]
    outcome = envkit("run", "-e", TINY, "printf", "%s|", *words)
    assert outcome.ok() == "".join(f"{word}|" for word in words)


def test_the_root_may_lie_at_any_path(new_root, disk, tiny_root):
    envkit = new_root(place="odd ro:ot,x=1 'q\" \\back #%s $HOME ünï")
    envkit("base", "import", "tiny", tiny_root).ok()
    env = envkit.saved("env", "touch /opt/x")
    assert envkit.sh(env, "ls /opt", user=ALICE).ok() == "x"


# Streams


def test_output_and_errors_stay_apart(envkit):
    assert envkit.sh(TINY, "echo out; echo err >&2") == (0, b"out\n", b"err\n")


def test_ten_megabytes_of_any_bytes_go_in_and_come_out_unchanged(envkit):
    data = os.urandom(64 * 1024) * 160
    outcome = envkit("run", "-e", TINY, "--", "cat", input=data)
    assert outcome.code == 0
    assert hashlib.sha256(outcome.out).digest() == hashlib.sha256(data).digest()


def test_standard_input_may_be_empty_a_file_or_closed(envkit, shelf):
    assert envkit("run", "-e", TINY, "--", "cat", input=None) == (0, b"", b"")
    (shelf / "file").write_bytes(b"12345")
    with open(shelf / "file", "rb") as file, envkit.start("run", "-e", TINY, "--", "wc", "-c", stdin=file) as process:
        assert process.communicate()[0] == b"5\n"
    argv = ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *envkit.argv("run", "-e", TINY, "--", "sh", "-c", "cat; echo end")]
    done = subprocess.run(argv, env=envkit.environment(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"end\n")


def test_every_standard_stream_may_be_closed(envkit, shelf):
    words = ["run", "-e", TINY, "-v", f"{shelf}:/shelf", "--", "sh", "-c", "echo done >/shelf/mark; exit 7"]
    argv = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *envkit.argv(*words)]
    done = subprocess.run(argv, env=envkit.environment(), timeout=60, check=False)
    assert done.returncode == 7
    assert (shelf / "mark").read_text() == "done\n"


def test_a_reader_that_goes_away_ends_the_command(envkit):
    with envkit.start("run", "-e", TINY, "--", "yes") as process:
        read_until(process.stdout, b"y\ny\n")
        process.stdout.close()
        process.stdout = None
        assert process.wait(30) == 141


# Signals

_TRAP = "trap 'echo got it; exit 42' {}; echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1"])
def test_a_signal_to_envkit_reaches_the_command(envkit, name):
    with envkit.start("run", "-e", TINY, "--", "sh", "-c", _TRAP.format(name)) as process:
        read_until(process.stdout, b"ready\n")
        process.send_signal(getattr(signal, f"SIG{name}"))
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (42, b"got it\n", b"")


def test_a_command_without_a_handler_is_ended_by_sigterm(envkit):
    with envkit.start("run", "-e", TINY, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        read_until(process.stdout, b"ready\n")
        process.terminate()
        assert process.wait(30) == 143


def test_a_command_that_ignores_every_signal_is_killed_after_a_few(envkit):
    script = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.05; done"
    with envkit.start("run", "-e", TINY, "--", "sh", "-c", script) as process:
        read_until(process.stdout, b"ready\n")
        for _ in range(3):
            process.terminate()
            time.sleep(0.5)
            assert process.poll() is None, "it was killed before it had a chance"
        process.terminate()
        assert process.wait(30) == 137


def test_a_job_ends_when_its_time_is_up(envkit):
    started = time.monotonic()
    outcome = envkit("run", "-e", TINY, "--timeout", "0.5", "--", "sleep", "1000")
    assert outcome == (124, b"", b"")
    assert time.monotonic() - started < 8
    assert envkit("run", "-e", TINY, "--timeout", "60", "--", "true").code == 0


def test_a_job_that_ignores_the_end_of_its_time_is_killed(envkit):
    outcome = envkit.sh(TINY, "trap '' TERM; while :; do sleep 0.05; done", options=["--timeout", "0.3"])
    assert outcome.code == 124


# Terminal


def test_a_terminal_is_detected_with_its_size_and_exit_code(envkit):
    script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo TERM=$TERM; read line; echo got $line; exit 7"
    with Terminal(envkit, "run", "-e", TINY, "--", "sh", "-c", script, rows=33, columns=101) as terminal:
        assert "33 101" in terminal.expect("TERM=xterm")
        terminal.type("hello\n")
        terminal.expect("got hello")
        assert terminal.end() == 7


def test_a_terminals_new_size_reaches_the_command(envkit):
    script = "echo ready; while [ \"$(stty size)\" != '50 120' ]; do sleep 0.05; done; echo resized"
    with Terminal(envkit, "run", "-e", TINY, "--", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.resize(50, 120)
        terminal.expect("resized")
        assert terminal.end() == 0


def test_ctrl_c_reaches_the_command(envkit):
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with Terminal(envkit, "run", "-e", TINY, "--", "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("caught")
        assert terminal.end() == 3


def test_an_interactive_shell_has_job_control(envkit):
    with Terminal(envkit, "run", "-e", TINY, "--env", "PS1=prompt> ", "--", "sh", "-i") as terminal:
        terminal.expect("prompt> ")
        terminal.type("sleep 1000\n")
        time.sleep(0.5)
        terminal.type("\x1a")
        terminal.expect("prompt> ")
        terminal.type("jobs; fg\n")
        terminal.expect("Stopped")
        time.sleep(0.5)
        terminal.type("\x03")
        terminal.expect("prompt> ")
        terminal.type("exit 5\n")
        assert terminal.end() == 5


def test_a_terminal_that_is_closed_ends_the_command(envkit):
    with Terminal(envkit, "run", "-e", TINY, "--", "sh", "-c", "echo ready; exec sleep 1000") as terminal:
        terminal.expect("ready")
        with open(os.devnull, "rb") as null:
            os.dup2(null.fileno(), terminal.screen)
        pid = terminal.pid
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], "envkit ends with its terminal", patience=20)
        terminal.pid = 0


# Who it runs as


@pytest.mark.parametrize("user", [ALICE, NOBODY, User(1, 1, "daemon"), User(3_000_000_123, 3_000_000_123, "far")])
def test_a_job_runs_as_the_invoking_user(envkit, shelf, user):
    script = "id -u; id -g; whoami; echo $HOME $USER; pwd; touch ~/own && echo wrote; touch /data/made; umask"
    outcome = envkit.sh(TINY, script, options=["-v", f"{shelf}:/data"], user=user)
    uid, gid, name, home, here, *rest = outcome.ok().splitlines()
    assert (uid, gid, name) == (str(user.uid), str(user.gid), user.name)
    if user != NOBODY:  # the base has a line for nobody, with a home that does not exist
        assert home == f"/home/{name} {name}"
        assert (here, rest[0]) == (f"/home/{name}", "wrote")
    made = (shelf / "made").stat()
    assert (made.st_uid, made.st_gid) == (user.uid, user.gid)


@pytest.mark.parametrize("kind", ["user", "group"])
def test_ids_that_containers_use_themselves_are_refused(envkit, kind):
    first = container_range()
    number = first + (65_000 if kind == "user" else 500)
    outcome = envkit.sh(TINY, "id", user=User(number, 1000, "deep") if kind == "user" else User(1000, number, "deep"))
    text = f"the {kind} id {number} of deep lies among the ids of containers, {first} to {first + 65_535}"
    outcome.fails(125, text, "/etc/subuid")


def test_root_without_sudo_runs_as_root_of_the_container_only(envkit, shelf):
    outcome = envkit.sh(TINY, "id -u; echo $HOME; touch /data/made", options=["-v", f"{shelf}:/data"])
    assert outcome.ok() == "0\n/root"
    assert (shelf / "made").stat().st_uid >= 100_000


def test_root_inside_has_no_power_over_the_hosts_files(envkit, shelf):
    shelf.chmod(0o755)
    secret = shelf / "secret"
    secret.write_text("for root of the host alone\n")
    secret.chmod(0o600)
    script = (
        "id -u; for try in 'cat secret' 'chown 0 secret' 'chmod 644 secret' 'rm -f secret' 'mv secret x' 'touch new'; do"
        " (cd /data; eval $try) && echo worked: $try; done; exit 0"
    )
    for options, uid in ((["--user", "root"], 0), ([], ALICE.uid)):
        outcome = envkit.sh(TINY, script, options=[*options, "-v", f"{shelf}:/data"], user=ALICE)
        assert outcome.ok() == str(uid)
        assert "can't open 'secret': Permission denied" in outcome.stderr
    assert secret.read_text() == "for root of the host alone\n"


def test_read_only_volumes_refuse_writing_and_files_can_be_bound(envkit, shelf):
    (shelf / "file").write_text("one\n")
    (shelf / "deep").mkdir()
    options = ["-v", f"{shelf}:/data:ro", "-v", f"{shelf}/file:/etc/one/two/three", "-v", f"{shelf}:{shelf}"]
    script = f"cat /etc/one/two/three {shelf}/file; echo x >/data/file; echo x >/data/deep/new; rm /data/file"
    outcome = envkit.sh(TINY, script, options=options, user=ALICE)
    assert outcome.stdout == "one\none\n"
    assert outcome.stderr.count("Read-only file system") == 3
    assert (shelf / "file").read_text() == "one\n"


def test_volumes_inside_volumes_and_over_files_of_the_environment(envkit, shelf):
    for name in ("a", "b"):
        (shelf / name).mkdir()
        (shelf / name / "name").write_text(name)
    options = ["-v", f"{shelf}/a:/usr/share", "-v", f"{shelf}/b:/usr/share/inner", "-v", f"{shelf}/b/name:/etc/group"]
    script = "cat /usr/share/name /usr/share/inner/name /etc/group; ls /usr/share"
    assert envkit.sh(TINY, script, options=options).ok() == "abbinner\nname"


def test_what_a_job_writes_is_gone_afterwards(envkit):
    assert envkit.sh(TINY, "echo x >/root/mark; rm /usr/share/old; cat /root/mark").ok() == "x"
    assert envkit.sh(TINY, "ls /root; cat /usr/share/old").ok() == "from the base"


# Settings


def test_variables_reach_the_command_as_they_are(envkit):
    values = {
        "PLAIN": "1",
        "SPACES": "  two  words ",
        "QUOTES": "\"double\" 'single' `back`",
        "ENDS": '"quoted"',
        "EQUALS": "a=b=c",
        "DOLLAR": "$HOME ${X} \\n \\",
        "UNICODE": "ünï 漢",
        "BYTES": "\udcff\udcfe",
        "TAB": "a\tb",
        "HASH": "# no comment",
        "EMPTY": "",
        "LONG": "x" * 100_000,
    }
    options = [word for name, value in values.items() for word in ("--env", f"{name}={value}")]
    outcome = envkit(
        "run", "-e", TINY, *options, "--env", "PASSED", "--", "env", "-0", env={"PASSED": "on", "NOT": "1"}
    )
    found = dict(line.split("=", 1) for line in outcome.stdout.split("\0") if line)
    outcome.ok()
    assert {name: found.get(name) for name in values} == values
    assert found["PASSED"] == "on"
    assert "NOT" not in found


def test_the_commands_own_variables_are_few_and_known(envkit):
    lines = envkit("run", "-e", TINY, "--", "env", user=ALICE, env={"SECRET_TOKEN": "x"}).ok().splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    assert variables.pop("container") == "lxc"
    assert variables == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/home/alice",
        "USER": "alice",
        "LOGNAME": "alice",
        "LANG": "C.UTF-8",
        "ENVKIT_ENVIRONMENT": "base/tiny@1",
    }


def test_the_working_directory_can_be_chosen_also_in_a_volume(envkit, shelf):
    assert envkit.sh(TINY, "pwd", options=["-w", "/usr/share"]).ok() == "/usr/share"
    (shelf / "with space").mkdir()
    (shelf / "with space").chmod(0o777)
    outcome = envkit.sh(
        TINY, "pwd; echo x >here", options=["-v", f"{shelf}:/data", "-w", "/data/with space"], user=ALICE
    )
    assert outcome.ok() == "/data/with space"
    assert (shelf / "with space" / "here").read_text() == "x\n"


def test_memory_beyond_the_limit_kills_the_job(envkit):
    hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=128M", "count=1"]
    assert envkit("run", "-e", TINY, "--memory", "64M", "--", *hog).code == 137
    assert envkit("run", "-e", TINY, "--memory", "512M", "--", *hog).code == 0


def test_processors_beyond_the_limit_are_not_used(envkit):
    script = (
        "for n in 1 2; do timeout 1 sh -c 'while :; do :; done' & done; wait; cat /proc/self/cgroup >/dev/null; times"
    )
    outcome = envkit.sh(TINY, script, options=["-c", "1"])
    minutes, seconds = outcome.ok().splitlines()[1].split()[0].rstrip("s").split("m")
    assert float(minutes) * 60 + float(seconds) < 1.5, "two loops on one processor used more than one second each"


def test_without_a_network_there_is_only_loopback(envkit):
    assert envkit.sh(TINY, "ls /sys/class/net; ip route").ok() == "lo"
    assert envkit.sh(TINY, "ls /sys/class/net", options=["--net", "none"]).ok() == "lo"
    assert envkit.sh(TINY, "ping -c 1 -W 1 192.0.2.1").code != 0


def test_the_hosts_network_is_the_hosts(envkit):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        options = ["--net", "host"]
        process = envkit.start("run", "-e", TINY, *options, "--", "sh", "-c", f"echo hello | nc 127.0.0.1 {port}")
        with process:
            server.settimeout(30)
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"hello\n"
            process.communicate(timeout=30)
    devices = envkit.sh(TINY, "tail -n +3 /proc/net/dev | cut -d: -f1", options=options).ok().split()
    assert set(devices) >= {"lo"}
    assert sorted(devices) == sorted(name for _, name in socket.if_nameindex())


def test_the_nat_network_has_an_address_a_route_and_a_resolver(envkit):
    script = "cat /sys/class/net/eth0/operstate; ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf"
    outcome = envkit.sh(TINY, script, options=["--net", "nat"], user=ALICE).ok()
    assert outcome.splitlines()[0] == "up"
    assert "default via" in outcome
    assert "nameserver" in outcome


# Isolation

_ATTACKS = {
    "mount a tmpfs": "mount -t tmpfs none /mnt || mount -t tmpfs none /opt",
    "mount proc again": "mount -t proc none /opt",
    "bind": "mount --bind /etc /opt",
    "remount": "mount -o remount,rw /sys",
    "unmount": "umount /proc || umount /sys || umount /dev",
    "new user namespace": "unshare -U true",
    "new user namespace with a map": "unshare -r true",
    "new mount namespace": "unshare -m true",
    "new network namespace": "unshare -n true",
    "join init's namespaces": "nsenter -t 1 -m true",
    "block device": "mknod /tmp/disk b 254 0",
    "character device": "mknod /tmp/mem c 1 1",
    "kernel setting": "echo 1 >/proc/sys/vm/drop_caches",
    "kernel's core pattern": "echo '|/bin/sh' >/proc/sys/kernel/core_pattern",
    "own host name": "hostname evil",
    "sysfs": "echo 1 >/sys/kernel/mm/ksm/run || echo 1 >/sys/kernel/profiling || touch /sys/new",
    "uevent helper": "echo /bin/sh >/sys/kernel/uevent_helper",
    "kernel memory": "head -c 1 /proc/kcore | grep -q .",
    "kernel log": "dmesg",
    "clock": "date -s 2001-01-01; test $(date +%Y) = 2001",
    "reboot": "reboot -f",
    "module": "insmod /bin/busybox",
    "swap": "swapon /bin/busybox",
    "control group": "for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 1 >$f && exit 0; done; exit 1",
    "release agent": "find /sys/fs/cgroup -name release_agent | grep -q .",
    "raw disk": "for d in /dev/vd* /dev/sd* /dev/nvme* /dev/loop*; do test -e $d && exit 0; done; exit 1",
    "init's root": "test -e /proc/1/root{outside}",
    "host's processes": "kill -0 {pid}",
    "oom score": "echo -1000 >/proc/self/oom_score_adj",
    "real time": "chrt -f 99 true 2>/dev/null || nice -n -20 true",
    "pivot": "pivot_root / /opt",
}


@pytest.mark.parametrize("options", [[], ["--user", "root"]], ids=["user", "root"])
def test_attacks_on_the_host_fail(envkit, place, options):
    (place / "outside").write_text("x")
    steps = []
    for name, attack in _ATTACKS.items():
        attack = attack.replace("{outside}", f"{place}/outside").replace("{pid}", str(os.getpid()))
        steps.append(f'if ( {attack} ) >/dev/null 2>&1; then echo "worked: {name}"; fi')
    outcome = envkit.sh(TINY, "\n".join([*steps, "echo all tried"]), options=options, user=ALICE)
    assert outcome.ok() == "all tried"


def test_a_job_sees_only_its_own_processes_and_devices(envkit):
    outcome = envkit.sh(TINY, "ls -d /proc/[0-9]*; ls /dev; hostname", options=["--user", "root"]).ok().splitlines()
    assert len([line for line in outcome if line.startswith("/proc/")]) <= 4
    devices = {line for line in outcome if not line.startswith("/proc/")}
    assert devices <= {
        *("console", "core", "fd", "full", "initctl", "log", "mqueue", "null", "ptmx", "pts", "random", "shm"),
        *("stderr", "stdin", "stdout", "tty", "urandom", "zero", "tiny"),
    }


def test_a_job_has_no_capabilities_and_cannot_gain_any(envkit):
    env = envkit.saved("setuid", "cp /bin/busybox /opt/suid; chmod 4755 /opt/suid; ln -s suid /opt/id")
    status = "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; ls -l /opt/suid; /opt/id -u"
    lines = envkit.sh(env, status, user=ALICE).ok().split()
    fields = dict(zip(lines[0:10:2], lines[1:10:2], strict=True))
    assert fields["CapEff:"] == fields["CapBnd:"] == fields["CapAmb:"] == "0" * 16
    assert (fields["NoNewPrivs:"], fields["Seccomp:"]) == ("1", "2")
    assert "-rwsr-xr-x" in lines
    assert lines[-1] == str(ALICE.uid)
    root = envkit.sh(env, status, options=["--user", "root"]).ok().split()
    assert root[7] == "1"
    assert not int(root[3], 16) & (1 << 21 | 1 << 12 | 1 << 16 | 1 << 27 | 1 << 19), "SYS_ADMIN, NET_ADMIN ... kept"


@pytest.mark.skipif(not lxc.apparmor_enabled(), reason="the kernel has no AppArmor")
def test_apparmor_confines_jobs_and_sessions(envkit):
    label = "cat /proc/self/attr/current"
    expected = f"{lxc.APPARMOR_PROFILE} (enforce)"
    for options in ([], ["--user", "root"]):
        assert envkit.sh(TINY, label, options=options, user=ALICE).ok() == expected
    with envkit.session("confined"):
        assert envkit.inside("confined", label).ok() == expected
    names = [check["name"] for check in envkit.json("doctor") if not check["ok"]]
    assert "AppArmor" not in names


def test_devices_in_a_volume_cannot_be_opened(envkit, shelf):
    os.mknod(shelf / "zero", 0o20666, os.makedev(1, 5))
    outcome = envkit.sh(TINY, "head -c 1 /data/zero", options=["-v", f"{shelf}:/data", "--user", "root"])
    assert outcome.code == 1
    assert "Permission denied" in outcome.stderr


# Hostile environments


def _tree(path):
    """Write down all below a directory."""
    found = {}
    for where, directories, files in os.walk(path):
        for name in (*directories, *files):
            status = os.lstat(f"{where}/{name}")
            found[f"{where}/{name}"] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def hostile(shared, tiny_root, disk):
    """A function that imports a base whose paths are links, and gives (its name, the host's place they lead to)."""
    made = []

    def make(links, *, inside):
        name = f"hostile-{len(made)}"
        host, root = f"{disk}/{name}-canary", f"{disk}/{name}"
        os.makedirs(f"{host}/sub")
        for path in (host, f"{host}/sub"):
            with open(f"{path}/passwd", "w", encoding="ascii") as file:
                file.write("root:x:0:0::/root:/bin/sh\n")
        subprocess.run(["cp", "-a", tiny_root, root], check=True)
        if inside:  # the links lead to something in the environment too
            os.makedirs(f"{root}{host}/sub")
        for link, target in links.items():
            subprocess.run(["rm", "-rf", f"{root}/{link}"], check=True)
            os.symlink(target.format(host=host), f"{root}/{link}")
        shared("base", "import", name, root).ok()
        made.append(name)
        return f"base/{name}", host

    return make


_FILES = ("passwd", "group", "machine-id", "hostname", "hosts", "resolv.conf")
_HOSTILE = {
    "files": {f"etc/{name}": f"{{host}}/{name}" for name in _FILES} | dict.fromkeys(("tmp", "home", "root"), "{host}"),
    "directories": {"etc": "{host}", "run": "{host}"},
    "upwards": {"etc": "../../../../../../../../../..{host}", "run": "/../../../../{host}"},
    "magic": {"etc": "/proc/self/root{host}", "run": "/proc/1/cwd"},
    "proc": {"proc": "{host}"},
    "sys": {"sys": "{host}"},
    "dev": {"dev": "{host}"},
}


@pytest.mark.parametrize("inside", [False, True], ids=["dangling", "leading inside"])
@pytest.mark.parametrize("links", _HOSTILE.values(), ids=_HOSTILE.keys())
def test_links_in_an_environment_lead_nowhere_on_the_host(envkit, hostile, links, inside):
    env, host = hostile(links, inside=inside)
    before = _tree(host)
    for options in ([], ["--user", "root", "--net", "host"]):
        outcome = envkit.sh(env, "echo ran", options=options, user=ALICE)
        assert _tree(host) == before
        if outcome.out != b"ran\n":
            outcome.fails(125)


@pytest.mark.parametrize("inside", [False, True], ids=["dangling", "leading inside"])
def test_a_volume_behind_a_link_stays_inside_the_environment(envkit, hostile, shelf, inside):
    env, host = hostile({"data": "{host}", "up": "../../../../../..{host}", "passwd": "{host}/passwd"}, inside=inside)
    before = _tree(host)
    (shelf / "file").write_text("mine\n")
    for target in ("/data", "/data/sub", "/data/new/deep", "/up", "/up/new", "/passwd"):
        outcome = envkit.sh(env, f"cat {target}/file", options=["-v", f"{shelf}:{target}"], user=ALICE)
        assert _tree(host) == before
        if outcome.code == 125:
            outcome.fails(125)
        else:
            assert outcome.ok() == "mine"


_ODD_PASSWD = (
    b"",
    b"\xff\xfe:x:54321:54321::/\xff:/bin/sh\n",
    b"alice:x:54321:54321::/../../../etc:/bin/sh\n",
    b"$(reboot):x:54321:54321::/home/a b:/bin/sh\n",
    b'x"y:x:54321:54321::/"quoted"/:/bin/sh\n',
    b"alice:x:54321:54321::/line\rbreak:/bin/sh\n",
)


def test_odd_lines_in_passwd_do_no_harm(envkit):
    with envkit.session("oddpasswd"):
        for number, passwd in enumerate(_ODD_PASSWD, 1):
            script = "cat >/etc/passwd.new; mv /etc/passwd.new /etc/passwd"
            envkit("exec", "oddpasswd", "--", "sh", "-c", script, input=passwd).ok()
            assert envkit("save", "oddpasswd").ok() == f"lab/oddpasswd@{number}"
            outcome = envkit.sh("oddpasswd", "id -u; id -g; id -G", user=ALICE)
            if outcome.code == 125:
                outcome.fails(125)
            else:
                assert outcome.ok() == "54321\n54321\n54321", passwd


def test_a_passwd_that_is_no_small_file_is_refused_or_replaced(envkit):
    makers = ("mkfifo $0", "mkdir $0", "truncate -s 100G $0", "ln -s /dev/zero $0", "ln -s passwd $0", "true")
    with envkit.session("nopasswd"):
        for maker in makers:
            envkit("exec", "nopasswd", "--", "sh", "-c", f"rm -r $0; {maker}", "/etc/passwd").ok()
            envkit("save", "nopasswd").ok()
            outcome = envkit.sh("nopasswd", "id -u", user=ALICE, patience=30)
            if outcome.code == 125:
                outcome.fails(125, "passwd")
            else:
                assert outcome.ok() == str(ALICE.uid), maker
