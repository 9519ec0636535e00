"""Sessions: opening, working in them, what ends them and what does not, copying files, closing."""

import io
import itertools
import os
import shutil
import signal
import stat
import tarfile
import time

import pytest
from commandline import ALICE, Terminal, wait_until

from envkit.drivers import cgroup
from envkit.drivers.process import start_time

pytestmark = [pytest.mark.root, pytest.mark.lxc]


@pytest.fixture
def session(envkit):
    """An open session on the tiny base; nobody saves it."""
    with envkit.session("box") as name:
        yield name


@pytest.fixture
def keeper(envkit):
    """A session of a name of its own, so that it can be saved."""
    name = f"keeper-{next(_numbers)}"
    with envkit.session(name):
        yield name


_numbers = itertools.count()


def _status(envkit, name):
    (row,) = envkit.json("status", name)
    return row


# Opening


def test_a_session_opens_without_a_shell_where_there_is_no_terminal(envkit):
    for number, words in enumerate((["--no-shell"], [])):
        outcome = envkit("create", f"plain-{number}", "--base", "tiny", *words)
        assert outcome.ok() == ""
        assert f"opened lab/plain-{number} on base/tiny@1" in outcome.stderr
        assert _status(envkit, f"plain-{number}")["running"] is True
        envkit("close", f"plain-{number}").ok()


def test_a_command_given_to_create_runs_as_root_and_its_exit_code_counts(envkit):
    with envkit.session("given"):
        pass
    outcome = envkit("create", "given", "--base", "tiny", "--", "sh", "-c", "id -u; pwd; touch /opt/new; exit 9")
    assert (outcome.code, outcome.out) == (9, b"0\n/root\n")
    assert envkit.inside("given", "ls /opt").ok() == "new"
    envkit("close", "given", "--discard").ok()


def test_a_script_of_the_host_runs_with_its_own_interpreter_and_is_not_saved(envkit, tmp_path):
    script = tmp_path / "install it.awk"
    script.write_text('#!/bin/awk -f\nBEGIN { print "from awk"; system("touch /opt/installed"); exit 4 }\n')
    outcome = envkit("create", "scripted", "--base", "tiny", "--script", str(script))
    assert (outcome.code, outcome.out) == (4, b"from awk\n")
    envkit("save", "scripted", "--close").ok()
    paths = [row["path"] for row in envkit.json("files", "scripted", "--changed")]
    assert "/opt/installed" in paths
    assert not any("awk" in path for path in paths)


def test_what_create_is_told_has_to_fit(envkit, tmp_path):
    envkit("create", "x", "--base", "nope", "--no-shell").fails(3, "no base nope")
    envkit("create", "x", "--base", "tiny@9", "--no-shell").fails(3, "base/tiny has no version 9")
    envkit("create", "x", "--from", "nothing", "--no-shell").fails(3, "no environment lab/nothing")
    envkit("create", "x", "--no-shell").fails(2, "give one of --base and --from")
    envkit("create", "x", "--base", "tiny", "--from", "y", "--no-shell").fails(2, "give one of --base and --from")
    for name in ("UPPER", "a b", "../up", ".hidden", "x" * 65, "ünï", "a/b/c", "-x/y", "x.lock"):
        envkit("create", "--base", "tiny", "--no-shell", "--", name).fails(2, "invalid")
    envkit("create", "base/mine", "--base", "tiny", "--no-shell").fails(2, "the owner 'base' is for bases")
    outcome = envkit("create", "x", "--base", "tiny", "--script", str(tmp_path / "none"))
    assert (outcome.code, "does not exist" in outcome.stderr) == (2, True)
    assert envkit.json("status") == []


def test_one_name_has_one_session_and_a_saved_name_is_taken(envkit, keeper):
    envkit("create", keeper, "--base", "tiny", "--no-shell").fails(4, f"a session on lab/{keeper} is open already")
    envkit.inside(keeper, "touch /opt/kept").ok()
    envkit("save", keeper).ok()
    envkit("create", keeper, "--from", keeper, "--no-shell").fails(4, "is open already", f"envkit close {keeper}")
    envkit("close", keeper).ok()
    envkit("create", keeper, "--base", "tiny").fails(4, f"the environment lab/{keeper} exists", f"--from {keeper}")
    with envkit.session("other"):
        envkit("create", keeper, "--from", "other").fails(3, "no environment lab/other")


# Working


def test_exec_gives_exit_codes_and_passes_streams_through(envkit, session):
    data = bytes(range(256)) * 4096
    assert envkit("exec", session, "--", "cat", input=data) == (0, data, b"")
    assert envkit.inside(session, "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
    assert envkit.inside(session, "kill -9 $$").code == 137
    assert envkit("exec", session, "--", "no-such-command").code == 127
    assert envkit("exec", session, "--", "/etc/passwd").code == 126
    assert envkit("exec", session, "-w", "/usr/share", "--", "pwd").ok() == "/usr/share"
    assert envkit("exec", session, "-w", "/no where", "--", "pwd").code != 0
    words = ["", "a b", "*", "'\"$X", "line\nbreak", "-n"]
    assert envkit("exec", session, "--", "printf", "%s|", *words).ok() == "".join(f"{word}|" for word in words)


def test_a_command_in_a_session_sees_the_sessions_settings_and_not_the_callers(envkit, session):
    outcome = envkit("exec", session, "--", "env", env={"SECRET_TOKEN": "x", "PATH": os.environ["PATH"]})
    variables = dict(line.split("=", 1) for line in outcome.ok().splitlines())
    assert "SECRET_TOKEN" not in variables
    assert variables["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (variables["HOME"], variables["USER"], variables["ENVKIT_SESSION"]) == ("/root", "root", "lab/box")
    assert envkit.inside(session, "hostname").ok() == "box"


def test_root_in_a_session_can_do_what_installers_do(envkit, session):
    script = """set -e
        echo 'bob:x:1234:1234::/home/bob:/bin/sh' >>/etc/passwd; echo 'bob:x:1234:' >>/etc/group
        mkdir /home/bob; chown -R bob:bob /home/bob; chmod 2770 /home/bob
        cp /bin/busybox /usr/bin/tool; chown 1234:0 /usr/bin/tool; chmod 6755 /usr/bin/tool
        mkfifo /opt/pipe; ln /usr/share/old /opt/link; ln -s nowhere /opt/dangling
        su bob -c 'id -u; touch /home/bob/mine' 2>&1
        ls -ln /usr/bin/tool /home/bob; rm -r /usr/share/doc"""
    text = envkit.inside(session, script).ok()
    assert text.startswith("1234\n")
    assert "-rwsr-sr-x    1 1234     0" in text
    upper = f"{envkit.directory(session)}/upper"
    status = os.stat(f"{upper}/home/bob/mine")
    assert (status.st_uid, status.st_gid) == (101_234, 101_234)


def test_a_session_is_confined_like_a_job(envkit, session, place):
    (place / "outside").write_text("x")
    attacks = (
        "mount -t tmpfs x /mnt || mount -t tmpfs x /opt",
        "mknod /opt/disk b 254 0",
        "echo 1 >/proc/sys/vm/drop_caches",
        "unshare -U true",
        "head -c1 /proc/kcore | grep -q .",
        f"test -e /proc/1/root{place}/outside",
        f"kill -0 {os.getpid()}",
        "insmod /bin/busybox",
        "ip link add d0 type dummy",
        "date -s 2001-01-01; test $(date +%Y) = 2001",
        "touch /sys/new",
    )
    script = "\n".join(f"if ( {attack} ) >/dev/null 2>&1; then echo 'worked: {attack}'; fi" for attack in attacks)
    assert envkit.inside(session, script).ok() == ""


def test_a_session_has_the_nat_network(envkit, session):
    outcome = envkit.inside(session, "ip -4 -o addr show eth0; ip route; cat /etc/resolv.conf").ok()
    assert "default via" in outcome
    assert "nameserver" in outcome


def test_the_shell_is_a_login_shell_on_a_terminal(envkit, session):
    with Terminal(envkit, "shell", session, rows=44, columns=123) as terminal:
        terminal.expect("# ")
        terminal.type("tty; stty size; pwd; echo user=$(id -u)\n")
        before = terminal.expect("user=0")
        assert "/dev/" in before
        assert "44 123" in before
        assert "/root" in before
        terminal.type("sleep 1000\n")
        terminal.expect("sleep 1000")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.expect("# ")
        terminal.type("exit 6\n")
        assert terminal.end() == 6
    assert _status(envkit, session)["running"] is True


def test_create_on_a_terminal_opens_a_shell(envkit):
    with Terminal(envkit, "create", "fromtty", "--base", "tiny") as terminal:
        terminal.expect("# ")
        terminal.type("touch /opt/typed; exit\n")
        assert terminal.end() == 0
    assert envkit.inside("fromtty", "ls /opt").ok() == "typed"
    envkit("close", "fromtty", "--discard").ok()


# What ends a session, and what does not


def test_a_session_outlives_the_terminal_that_made_it(envkit):
    with Terminal(envkit, "create", "outlives", "--base", "tiny") as terminal:
        terminal.expect("# ")
        terminal.type("(trap '' HUP; while :; do date >/opt/alive; sleep 0.1; done) & echo start''ed=$!\n")
        terminal.expect("started=")
        os.killpg(terminal.pid, signal.SIGHUP)
        time.sleep(0.2)
        os.killpg(terminal.pid, signal.SIGKILL)
    assert _status(envkit, "outlives")["running"] is True
    upper = f"{envkit.directory('outlives')}/upper"
    written = wait_until(lambda: _mtime(f"{upper}/opt/alive"), "the background process writes")
    wait_until(lambda: _mtime(f"{upper}/opt/alive") > written, "the background process goes on")
    with Terminal(envkit, "shell", "outlives") as terminal:
        terminal.expect("# ")
        terminal.type("ls /opt; exit 0\n")
        terminal.expect("alive")
        assert terminal.end() == 0
    envkit("close", "outlives", "--discard").ok()


def _mtime(path):
    return os.stat(path).st_mtime_ns if os.path.exists(path) else 0


def test_a_killed_shell_leaves_the_session_running(envkit, session):
    with envkit.start("exec", session, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert _status(envkit, session)["running"] is True
    assert envkit("exec", session, "--", "true").code == 0


def _crash(envkit, name):
    """Kill a session's container, monitor first, as the kernel's memory killer might."""
    monitor = envkit.monitor(name)
    os.kill(monitor, signal.SIGKILL)
    wait_until(lambda: start_time(monitor) is None, "the monitor ends")


@pytest.mark.parametrize("how", ["exec", "shell", "save"])
def test_after_a_crash_the_session_resumes_with_all_its_changes(envkit, keeper, how):
    envkit.inside(keeper, "echo safe >/opt/kept; rm /usr/share/old; echo gone >/run/gone").ok()
    _crash(envkit, keeper)
    assert (_status(envkit, keeper)["running"], _status(envkit, keeper)["unsaved"]) == (False, True)
    if how == "shell":
        with Terminal(envkit, "shell", keeper) as terminal:
            terminal.expect("# ")
            terminal.type("cat /opt/kept; exit\n")
            terminal.expect("safe")
            assert terminal.end() == 0
    elif how == "save":
        envkit("save", keeper).ok()
        assert envkit.sh(keeper, "cat /opt/kept; ls /usr/share").ok() == "safe\ndoc"
    found = envkit.inside(keeper, "cat /opt/kept; ls /usr/share /run").ok().split()
    assert found == ["safe", "/run:", "envkit", "/usr/share:", "doc"]
    assert _status(envkit, keeper)["running"] is True


def test_after_a_reboot_the_session_resumes(envkit, session):
    envkit.inside(session, "echo kept >/opt/kept").ok()
    container = envkit.identity(session)
    _crash(envkit, session)
    assert cgroup.remove_container_groups(container) == []
    shutil.rmtree(envkit.run_directory)
    assert _status(envkit, session)["running"] is False
    assert envkit.inside(session, "cat /opt/kept").ok() == "kept"


def test_a_crashed_session_can_be_closed(envkit):
    envkit("create", "crashed", "--base", "tiny", "--no-shell").ok()
    _crash(envkit, "crashed")
    envkit("close", "crashed").ok()
    assert not os.path.exists(envkit.directory("crashed"))


def test_two_commands_that_resume_a_session_at_once_start_it_once(envkit, session):
    _crash(envkit, session)
    processes = [
        envkit.start("exec", session, "--", "sh", "-c", "cat /proc/sys/kernel/random/boot_id; hostname") for _ in "abcd"
    ]
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, _, code in outcomes] == [0, 0, 0, 0], outcomes
    assert envkit.inside(session, "ls -d /proc/[0-9]* | wc -l").code == 0


def test_an_interrupted_create_leaves_nothing_or_a_whole_session(envkit):
    for step in range(5):
        with envkit.start("create", "hasty", "--base", "tiny", "--no-shell") as process:
            time.sleep(0.1 + step * 0.1)
            process.kill()
        rows = envkit.json("status")
        if rows:
            assert envkit.inside("hasty", "cat /usr/share/old").ok() == "from the base"
            envkit("close", "hasty", "--discard").ok()
        else:
            envkit("create", "hasty", "--base", "tiny", "--no-shell").ok()
            envkit("close", "hasty").ok()
    assert os.listdir(os.path.dirname(envkit.directory("hasty"))) == []


# Status


def test_status_tells_what_has_changed(envkit, keeper):
    fresh = _status(envkit, keeper)
    assert fresh == {
        "session": f"lab/{keeper}",
        "running": True,
        "on": "base/tiny@1",
        "description": "",
        "created": fresh["created"],
        "files": 0,
        "bytes": 0,
        "saved": None,
        "saved_as": None,
        "unsaved": False,
    }
    envkit.inside(keeper, "head -c 1000000 /dev/zero >/opt/big; echo x >/opt/small; rm /usr/share/old").ok()
    changed = _status(envkit, keeper)
    assert (changed["files"], changed["unsaved"], changed["saved"]) == (3, True, None)
    assert 1_000_000 < changed["bytes"] < 1_010_000
    envkit("save", keeper).ok()
    saved = _status(envkit, keeper)
    assert (saved["saved"], saved["unsaved"]) == (1, False)
    envkit.inside(keeper, "echo y >>/opt/small").ok()
    assert _status(envkit, keeper)["unsaved"] is True
    table = envkit("status").ok().splitlines()
    assert table[0].split() == ["SESSION", "STATE", "ON", "CHANGED", "LAST", "SAVE", "UNSAVED"]
    assert table[1].split("  ")[0] == f"lab/{keeper}"
    for word in ("running", "base/tiny@1", "3 files, 1.0 MB", "version 1", "yes"):
        assert word in table[1]


def test_status_of_nothing(envkit):
    assert envkit.json("status") == []
    assert len(envkit("status").ok().splitlines()) == 1
    for words in (["status"], ["shell"], ["close"], ["save"], ["exec"]):
        more = ["--", "true"] if words == ["exec"] else []
        envkit(*words, "nobody-home", *more).fails(3, "no session on lab/nobody-home is open")


# Closing


def test_unsaved_changes_are_not_thrown_away_by_accident(envkit):
    envkit("create", "careful", "--base", "tiny", "--no-shell").ok()
    envkit("close", "careful").ok()  # nothing has changed
    envkit("create", "careful", "--base", "tiny", "--", "touch", "/opt/work").ok()
    envkit("close", "careful").fails(4, "the session on lab/careful has unsaved changes", "--discard")
    assert envkit.inside("careful", "ls /opt").ok() == "work"
    envkit("save", "careful").ok()
    envkit.inside("careful", "rm /opt/work").ok()
    envkit("close", "careful").fails(4, "unsaved changes")
    envkit("close", "careful", "--discard").ok()
    assert not os.path.exists(envkit.directory("careful"))
    assert envkit.sh("careful", "ls /opt").ok() == "work"


def test_a_session_closes_while_something_runs_in_it(envkit):
    envkit("create", "busy", "--base", "tiny", "--no-shell").ok()
    with envkit.start("exec", "busy", "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert process.stdout.readline() == b"ready\n"
        envkit("close", "busy", "--discard").ok()
        assert process.wait(30) == 137
    assert envkit.json("status") == []


# Copying


@pytest.fixture
def desk(place):
    """A directory of alice's."""
    path = place / "desk"
    path.mkdir()
    os.chown(path, ALICE.uid, ALICE.gid)
    return path


def test_files_and_directories_go_in(envkit, session, desk):
    (desk / "tree" / "sub").mkdir(parents=True)
    (desk / "tree" / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (desk / "tree" / "sub" / "run.sh").chmod(0o755)
    (desk / "tree" / "link").symlink_to("sub/run.sh")
    (desk / "one").write_text("one")
    (desk / "two").write_text("two")
    for path in desk.rglob("*"):
        os.chown(path, ALICE.uid, ALICE.gid, follow_symlinks=False)
    os.utime(desk / "one", (1_000_000_000, 1_000_000_000))

    def copy(*words):
        assert envkit("cp", *words, user=ALICE, cwd=desk).ok() == ""

    copy("one", "box:/opt/renamed")
    copy("one", "two", "box:/opt/several")
    copy("one", "box:/opt/made/")
    copy("tree", "box:/opt/")
    copy("tree", "box:/opt/as")
    copy(f"{desk}/one", "box:home")
    copy("two", "box:/opt/renamed")
    script = "cd /opt; find . | sort; cat renamed /root/home as/link; stat -c '%u:%g %a %Y' made/one; tree/sub/run.sh"
    lines = envkit.inside(session, script).ok().splitlines()
    assert lines[:-3] == [
        *(".", "./as", "./as/link", "./as/sub", "./as/sub/run.sh", "./made", "./made/one", "./renamed", "./several"),
        *("./several/one", "./several/two", "./tree", "./tree/link", "./tree/sub", "./tree/sub/run.sh"),
        *("twoone#!/bin/sh",),
    ]
    assert lines[-3:] == ["echo ran", "0:0 644 1000000000", "ran"]


def test_files_and_directories_come_out_as_the_users_own(envkit, session, desk):
    script = """mkdir -p /opt/tree/sub; echo deep >/opt/tree/sub/file; ln -s sub/file /opt/tree/link
        echo one >/opt/one; chown 7:7 /opt/one; chmod 4755 /opt/one; echo home >/root/mine; touch -d @1000000000 /opt/one"""
    envkit.inside(session, script).ok()

    def copy(*words):
        assert envkit("cp", *words, user=ALICE, cwd=desk).ok() == ""

    copy("box:/opt/one", ".")
    copy("box:/opt/one", "renamed")
    copy("box:/opt/one", "box:mine", "several/")
    copy("box:/opt/tree", "box:/opt/one", f"{desk}/both")
    copy("box:/opt/tree/", "as")
    copy("box:mine", "renamed")
    envkit("cp", "box:/opt/one", f"{desk}/by-root").ok()
    root = (desk / "by-root").stat()
    assert (root.st_uid, root.st_mode & 0o7777) == (0, 0o755)
    (desk / "by-root").unlink()
    found = sorted(str(path.relative_to(desk)) for path in desk.rglob("*"))
    tree = ["", "/link", "/sub", "/sub/file"]
    assert found == sorted(
        [*("one", "renamed", "several", "several/one", "several/mine", "both", "both/one")]
        + [f"both/tree{end}" for end in tree]
        + [f"as{end}" for end in tree]
    )
    for path in desk.rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (ALICE.uid, ALICE.gid), path
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID)
    assert (desk / "renamed").read_text() == "home\n"
    assert (desk / "one").stat().st_mtime == 1_000_000_000
    assert (desk / "as" / "link").read_text() == "deep\n"


_NAMES = [
    "-rf",
    "--help",
    "a b",
    "line\nbreak",
    "'q\"",
    "*",
    "$HOME",
    "\udcff\udc80",
    "back\\slash",
    "\\n",
    "\\101",
    "~",
    "x" * 255,
    "@x",
]


def test_any_name_can_be_copied_both_ways(envkit, session, desk):
    for number, name in enumerate(_NAMES):
        (desk / name).write_bytes(b"%d" % number)
    envkit("cp", *(f"./{name}" for name in _NAMES), "box:/opt/in dir/", cwd=desk).ok()
    out = desk / "out"
    envkit("cp", *(f"box:/opt/in dir/{name}" for name in _NAMES), str(out), cwd=desk, user=ALICE).ok()
    assert {name: (out / name).read_bytes() for name in _NAMES} == {n: b"%d" % i for i, n in enumerate(_NAMES)}
    for name in ("line\nbreak", "-rf"):
        envkit("cp", f"./{name}", f"box:/opt/{name} new", cwd=desk).ok()
        envkit("cp", f"box:/opt/{name} new", f"./{name} back", cwd=desk).ok()
        assert (desk / f"{name} back").read_bytes() == (desk / name).read_bytes()


def test_what_cannot_be_copied_is_said(envkit, session, desk):
    (desk / "file").write_text("x")
    envkit("cp", "none", "box:/opt/", cwd=desk).fails(3, "none does not exist")
    envkit("cp", "box:/opt/none", ".", cwd=desk).fails(3, "lab/box has no /opt/none")
    envkit("cp", "file", "copy", cwd=desk).fails(2, "exactly one side must be in a session")
    envkit("cp", "box:/etc/passwd", "box:/opt/", cwd=desk).fails(2, "exactly one side must be in a session")
    envkit("cp", "file", "box:/etc/passwd", "box:/opt/", cwd=desk).fails(2, "exactly one side")
    envkit("cp", "box:/etc/passwd", "other:/etc/passwd", ".", cwd=desk).fails(2, "all sources must be in one session")
    envkit("cp", "file", "other:/opt/", cwd=desk).fails(3, "no session on lab/other is open")
    envkit("cp", "box:/etc/passwd", "no/such/dir", cwd=desk).fails(3, "the directory")
    envkit("cp", "file", "box:/etc/passwd/below", cwd=desk).fails(1, "cannot copy into lab/box:/etc/passwd/below")
    assert sorted(path.name for path in desk.iterdir()) == ["file"]
    assert envkit.inside(session, "find /opt /root -name '.envkit*'").ok() == ""


def test_copying_out_writes_only_where_the_user_may(envkit, session, place, desk):
    closed = place / "closed"
    closed.mkdir()
    for target in (f"{closed}/", f"{closed}/name"):
        assert envkit("cp", "box:/etc/passwd", target, user=ALICE).fails(1, "Permission denied")
    assert list(closed.iterdir()) == []
    (desk / "link").symlink_to(closed / "made")
    envkit("cp", "box:/etc/passwd", f"{desk}/link", user=ALICE).ok()
    assert list(closed.iterdir()) == []
    assert not (desk / "link").is_symlink()


def test_a_session_that_lies_about_its_files_writes_nothing_else(envkit, session, desk, place):
    """tar in the session is the session's: it may send whatever it likes."""
    canary = place / "canary"
    canary.write_text("untouched")
    canary.chmod(0o666)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("../evil", f"{place}/evil", "./.bashrc", "./wanted", "./wanted/../../evil", str(canary)):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("./link")
        link.type, link.linkname = tarfile.SYMTYPE, str(place)
        tar.addfile(link)
        through = tarfile.TarInfo("./link/evil")
        through.size = 4
        tar.addfile(through, io.BytesIO(b"evil"))
    envkit("exec", session, "--", "sh", "-c", "cat >/opt/archive", input=archive.getvalue()).ok()
    envkit.inside(session, "rm /bin/tar; printf '#!/bin/sh\\ncat /opt/archive\\n' >/bin/tar; chmod +x /bin/tar").ok()
    (desk / ".bashrc").write_text("mine")
    before = {path.name for path in place.iterdir()}
    for target in (f"{desk}/", f"{desk}/new"):
        envkit("cp", "box:/opt/wanted", target, user=ALICE)
        assert {path.name for path in place.iterdir()} == before
        assert {path.name for path in desk.iterdir()} <= {".bashrc", "wanted", "new"}
        assert (desk / ".bashrc").read_text() == "mine"
        assert canary.read_text() == "untouched"


# The real thing


@pytest.mark.network
def test_apt_and_pip_install_and_the_saved_environment_runs_as_an_ordinary_user(envkit, debian):
    install = """set -e
        apt-get -qq update
        apt-get -qq install -y iputils-ping cron >/dev/null
        pip install -q numpy
        useradd --system --create-home --home-dir /srv/solver solver
        python3 - <<'END'
import os
os.setxattr("/bin/ping", "user.note", b"kept")
END
        touch /opt/done"""
    with envkit.session("science", base=debian):
        outcome = envkit.inside("science", install, patience=300)
        assert outcome.code == 0, outcome.stderr[-3000:]
        plan = envkit.json("save", "science", "--plan")
        assert plan["entries"] > 500
        envkit("save", "science", "-m", "numpy").ok()
    script = """import os, pwd, stat, numpy
print(numpy.arange(10).sum(), os.getuid(), pwd.getpwnam("solver").pw_dir)
print(os.getxattr("/bin/ping", "security.capability").hex()[:8], os.getxattr("/bin/ping", "user.note"))
print(oct(os.stat("/usr/bin/crontab").st_mode), os.stat("/usr/bin/crontab").st_gid > 0)
print(os.stat("/srv/solver").st_uid == pwd.getpwnam("solver").pw_uid)
"""
    lines = envkit("run", "-e", "science", "--", "python3", "-c", script, user=ALICE).ok().splitlines()
    assert lines[0] == f"45 {ALICE.uid} /srv/solver"
    assert lines[1].endswith("b'kept'")
    assert lines[1].startswith("0100000")
    assert lines[2:] == ["0o102755 True", "True"]
    # Nothing of what the session borrowed or cached is in the version.
    files = {row["path"] for row in envkit.json("files", "science", "--changed") if row["kind"] == "file"}
    assert "/opt/done" in files
    unwanted = ("/run/", "/var/lib/apt/lists/", "/root/.cache/pip", "/var/cache/apt/", "/etc/resolv.conf")
    assert [path for path in files if path.startswith(unwanted)] == []


@pytest.mark.network
def test_capabilities_and_users_made_in_a_session_hold_in_it(envkit, debian):
    script = """set -e
        useradd -m worker
        cp /bin/true /opt/tool; chmod 4755 /opt/tool
        python3 -c 'import os; os.setxattr("/opt/tool", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))'
        su worker -c 'id -un; touch ~/x'; stat -c '%U %a' /home/worker/x /opt/tool"""
    with envkit.session("caps", base=debian):
        assert envkit.inside("caps", script).ok().split() == ["worker", "worker", "644", "root", "4755"]
        envkit("save", "caps").ok()
    script = (
        'import os; print(os.getxattr("/opt/tool", "security.capability").hex(), oct(os.stat("/opt/tool").st_mode))'
    )
    found = envkit("run", "-e", "caps", "--", "python3", "-c", script).ok()
    assert found.split()[1] == "0o104755"
    assert "00040000" in found
