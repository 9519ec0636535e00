"""`envkit save`: what a version holds and what it leaves out, and that no save is ever half done."""

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import threading
import time

import pytest
import zstandard
from commandline import ALICE, wait_until

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_numbers = itertools.count()


@pytest.fixture
def name():
    """A name that no environment has yet."""
    return f"save-{next(_numbers)}"


def _files(store):
    """Return the paths of all objects of a store."""
    return [f"{place}/{entry}" for place, _, names in os.walk(store) for entry in names]


def _objects(store):
    """Return every object of a store, with its size and time; without start packs, which earlier runs may yet send."""
    found = {}
    for path in _files(store):
        if not path.startswith(f"{store}/starts/"):
            status = os.stat(path)
            found[path] = (status.st_size, status.st_mtime_ns)
    return found


def _plain(store):
    """Return all that a store holds, unpacked: bytes by object."""
    found = {}
    for path in _files(store):
        with open(path, "rb") as file:
            data = file.read()
        if data.startswith((b"\x28\xb5\x2f\xfd", b"\x5e\x2a\x4d\x18")):
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as frames:
                data = frames.read()
        found[path] = data
    return found


def _versions(envkit, name):
    """Return the numbers of an environment's versions, none where there is none."""
    outcome = envkit("log", name, "--json")
    return [row["version"] for row in json.loads(outcome.stdout)] if outcome.code == 0 else []


# Versions


def test_versions_are_numbered_and_an_unchanged_save_makes_none(envkit, name):
    with envkit.session(name, script="echo one >/opt/x"):
        outcome = envkit("save", name, "-m", "the first")
        assert outcome.ok() == f"lab/{name}@1"
        assert outcome.stderr.startswith(f"saved lab/{name}@1: ")
        before = _objects(f"{envkit.root}/store")
        again = envkit("save", name)
        assert (again.code, again.out) == (0, b"")
        assert again.stderr == f"nothing changed since lab/{name}@1\n"
        assert envkit.json("save", name)["unchanged"] is True
        assert _objects(f"{envkit.root}/store") == before
        envkit.inside(name, "echo two >/opt/x; touch /opt/y").ok()
        saved = envkit.json("save", name, "-m", "the second")
        assert (saved["version"], saved["unchanged"]) == (f"lab/{name}@2", False)
    history = envkit.json("log", name)
    assert [(row["version"], row["message"], row["author"]) for row in history] == [
        (2, "the second", "lab"),
        (1, "the first", "lab"),
    ]
    assert {row["base"] for row in history} == {row["parent"] for row in history} == {"base/tiny@1"}
    assert envkit.sh(f"{name}@1", "cat /opt/*").ok() == "one"
    assert envkit.sh(f"{name}@2", "cat /opt/*; ls /opt").ok() == "two\nx\ny"
    assert envkit.sh(name, "cat /opt/x").ok() == envkit.sh(f"{name}@latest", "cat /opt/x").ok() == "two"
    (listed,) = [row for row in envkit.json("list") if row["environment"] == f"lab/{name}"]
    assert (listed["version"], len(listed["layers"])) == (2, 2)


def test_save_can_close_the_session(envkit, name):
    envkit("create", name, "--base", "tiny", "--", "touch", "/opt/x").ok()
    envkit("save", name, "--close").ok()
    assert envkit.json("status") == []
    assert envkit.sh(name, "ls /opt").ok() == "x"


def test_a_session_without_changes_can_be_saved(envkit, name):
    with envkit.session(name):
        envkit("save", name).ok()
    assert envkit.sh(name, "cat /usr/share/old").ok() == "from the base"


def test_going_on_with_a_name_adds_a_layer_and_another_name_starts_at_one(envkit, name):
    with envkit.session(name, script="echo 1 >/opt/first; echo 1 >/opt/both"):
        envkit("save", name).ok()
    with envkit.session(name, origin=name, script="echo 2 >/opt/second; echo 2 >/opt/both; rm /usr/share/old"):
        envkit("save", name).ok()
    with envkit.session(f"{name}-copy", origin=f"{name}@1", script="echo 3 >/opt/third"):
        envkit("save", f"{name}-copy").ok()
    one, two, copy = (envkit.json("info", ref) for ref in (f"{name}@1", f"{name}@2", f"{name}-copy"))
    assert two["layers"][:2] == one["layers"] == copy["layers"][:2]
    assert [len(version["layers"]) for version in (one, two, copy)] == [2, 3, 3]
    assert (two["parent"], copy["parent"], copy["version"]) == (f"lab/{name}@1", f"lab/{name}@1", 1)
    assert one["base"] == two["base"] == copy["base"] == "base/tiny@1"
    assert envkit.sh(f"{name}@1", "ls /opt; cat /opt/both; ls /usr/share").ok().split() == [
        "both",
        "first",
        "1",
        "doc",
        "old",
    ]
    assert envkit.sh(f"{name}@2", "ls /opt; cat /opt/both; ls /usr/share").ok().split() == [
        "both",
        "first",
        "second",
        "2",
        "doc",
    ]
    assert envkit.sh(f"{name}-copy", "ls /opt").ok().split() == ["both", "first", "third"]


def test_deleted_versions_are_gone_for_runs_and_their_numbers_stay_taken(envkit, name):
    with envkit.session(name):
        for number in (1, 2, 3):
            envkit.inside(name, f"echo {number} >/opt/x").ok()
            envkit("save", name).ok()
    envkit("delete", f"{name}@2", "--yes").ok()
    envkit.sh(f"{name}@2", "true").fails(125, f"lab/{name}@2 was deleted: there are 1, 3")
    assert envkit.sh(name, "cat /opt/x").ok() == "3"
    assert envkit("delete", name, input=b"n\n").code != 0
    assert envkit("delete", name, input=b"y\n").code == 0
    envkit.sh(name, "true").fails(125, f"no environment lab/{name}", "all its versions were deleted")
    with envkit.session(name):
        assert envkit("save", name).ok().split("@")[1] not in ("1", "2", "3")


def test_an_environment_outlives_its_base(envkit, tiny_root, name):
    envkit("base", "import", "mortal", tiny_root).ok()
    envkit.saved(name, "echo x >/opt/x", base="mortal")
    envkit("base", "delete", "mortal", "--yes").ok()
    envkit("create", "other", "--base", "mortal").fails(3, "no base mortal")
    subprocess.run(["rm", "-rf", f"{envkit.root}/cache/layers"], check=True)
    assert envkit.sh(name, "cat /opt/x /usr/share/old").ok() == "x\nfrom the base"


def test_a_base_can_come_from_an_archive(envkit, tiny_root, tmp_path):
    for suffix, option in ((".tar", "-c"), (".tar.gz", "-cz")):
        archive = tmp_path / f"root{suffix}"
        subprocess.run(["tar", option, "-f", archive, "-C", tiny_root, "."], check=True)
        number = envkit("base", "import", "archived", str(archive), "-d", "from tar").ok()
    assert number == "base/archived@2"
    assert (
        envkit.sh("base/archived", "cat /usr/share/old; ls -ld /tmp | cut -c1-10").ok() == "from the base\ndrwxrwxrwt"
    )
    first, second = (envkit.json("info", f"base/archived@{number}") for number in (1, 2))
    assert first["layers"][0]["tree"] == second["layers"][0]["tree"]
    rows = {row["environment"]: row["message"] for row in envkit.json("base", "list")}
    assert rows["base/archived"] == "from tar"
    envkit("base", "delete", "archived", "--yes").ok()


# Consistent


def test_what_runs_in_the_session_stands_still_while_it_is_saved(envkit, name):
    """Two files are written in turns; a save that is not one moment would see them apart."""
    script = "n=0; while :; do n=$((n+1)); echo $n >>/opt/a; echo $n >>/opt/b; done"
    filler = "mkdir /opt/many; for n in $(seq 2000); do echo $n >/opt/many/$n; done"
    with envkit.session(name, script=filler):
        # What was started in a session outlives the terminal it was started from, and keeps its descriptors.
        writer = envkit.start(
            "exec", name, "--", "sh", "-c", script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            upper = f"{envkit.directory(name)}/upper/opt"
            wait_until(lambda: os.path.exists(f"{upper}/b"), "the writer has begun")
            for _ in range(2):
                envkit("save", name).ok()
                size = os.stat(f"{upper}/a").st_size
                wait_until(lambda before=size: os.stat(f"{upper}/a").st_size > before, "the writer goes on", patience=5)
        finally:
            writer.kill()
            writer.wait()
    for number in (1, 2):
        a, b = envkit.sh(f"{name}@{number}", "wc -l </opt/a; wc -l </opt/b").ok().split()
        assert 0 <= int(a) - int(b) <= 1
        assert envkit.sh(f"{name}@{number}", "ls /opt/many | wc -l; seq $(wc -l </opt/a) | cmp - /opt/a").ok() == "2000"


def test_everything_that_a_file_system_holds_survives(envkit, name):
    make = r"""set -e
        rm /usr/share/old; rm -r /usr/share/doc; mkdir /usr/share/doc; echo new >/usr/share/doc/c
        mkdir /opt/empty /opt/bits; chmod 3711 /opt/bits; chown 12:34 /opt/bits
        echo linked >/opt/link1; ln /opt/link1 /opt/link2; ln /opt/link1 /opt/empty/link3
        printf end | dd of=/opt/sparse bs=1 seek=5368709120 2>/dev/null; truncate -s 6G /opt/hole
        mkfifo -m 640 /opt/fifo; ln -s /no/where /opt/dangling; ln -s . /opt/self; : >/opt/zero
        cp /bin/busybox /opt/suid; chown 7:8 /opt/suid; chmod 6755 /opt/suid
        touch "$(printf '/opt/line\nbreak')" "$(printf '/opt/\377\376')" "/opt/ space" /opt/-rf /opt/.wh.x
        touch "/opt/$(printf '%0255d' 0)" '/opt/quo"te'"'s"; echo x >/opt/ro; chmod 000 /opt/ro
        touch -d '1999-12-31 23:59:59' /opt/zero; touch -h -d '2001-02-03 04:05:06' /opt/dangling
        head -c 3000000 /dev/urandom >/opt/random; cd /opt; p=deep; for n in $(seq 100); do p=$p/directory-$n; done
        mkdir -p $p; echo bottom >$p/file"""
    look = r"""cd /; ls /usr/share /usr/share/doc; find /opt | sort | od -c | sha256sum
        find /opt ! -path '*/sparse' ! -path '*/hole' -type f ! -path /opt/ro -exec sha256sum {} + | sort
        for f in $(find /opt -maxdepth 1 -name '[a-z]*'); do stat -c '%n %f %u %g %Y %h %N' $f; done | sort
        tail -c 3 /opt/sparse; od -An -c -N 4 /opt/hole; cat /opt/ro; stat -c '%i' /opt/link1 /opt/link2 /opt/empty/link3 | uniq | wc -l
        find /opt -name file -exec cat {} +"""
    with envkit.session(name, script=make):
        inside = envkit.inside(name, look).ok()
        envkit("save", name).ok()
        stored = envkit.json("info", name)["layers"][-1]
    assert "bottom" in inside
    assert envkit.sh(name, look).ok() == inside
    assert stored["size"] > 11 * 1024**3
    assert stored["stored"] < 8_000_000
    # A hard link is still one file after a change through another of its names.
    assert envkit.sh(name, "echo more >>/opt/link1; stat -c %h /opt/link2; cat /opt/empty/link3").ok().split()[0] == "3"
    # And once more, over a layer that lies below.
    with envkit.session(name, origin=name, script="rm /opt/link2; echo changed >/opt/ro; rm -r /opt/deep"):
        envkit("save", name).ok()
    script = "cat /opt/ro /opt/link1; ls /opt/deep /opt/link2 2>&1 | grep -c 'No such'; stat -c %s /opt/sparse"
    assert envkit.sh(name, script).ok().split() == ["changed", "linked", "2", "5368709123"]


# Left out


_SECRETS = {
    "/root/.ssh/id_ed25519": "R002",
    "/root/.ssh/authorized_keys": "R002",
    "/etc/ssh/ssh_host_rsa_key": "R001",
    "/root/.aws/credentials": "R003",
    "/home/bob/.aws/credentials": "R003",
    "/root/.docker/config.json": "R004",
    "/root/.git-credentials": "R005",
    "/root/.cache/huggingface/token": "R006",
    "/root/.pgpass": "R008",
    "/root/.gnupg/private-keys-v1.d/key": "R009",
    "/etc/munge/munge.key": "R010",
    "/etc/apt/auth.conf.d/mirror.conf": "R011",
    "/etc/shadow-": "R014",
    "/tmp/scratch": "R019",
    "/var/tmp/scratch": "R019",
    "/root/.bash_history": "R103",
    "/home/bob/.python_history": "R103",
    "/var/log/app.log": "R106",
    "/var/lib/apt/lists/index": "R201",
    "/root/.cache/pip/http": "R202",
}


def _plant(canary):
    """Return a script that puts a canary into everything that must not leave, and one into a file that may."""
    lines = ["echo 'bob:x:1234:1234::/home/bob:/bin/sh' >>/etc/passwd", "set -e", "mkdir -p /run/secret /dev/shm"]
    for path in (*_SECRETS, "/run/secret/file", "/dev/shm/file"):
        lines.append(f"mkdir -p $(dirname {path}); echo SECRET-{canary} >{path}")
    lines.append("mkdir -p /opt/repo/.git")
    lines.append(f"printf '[remote \"o\"]\\n\\turl = https://u:SECRET-{canary}@host/x\\n' >/opt/repo/.git/config")
    lines.append(f"echo PUBLIC-{canary} >/opt/kept; mkdir -p /opt/etc/ssh; echo fine >/opt/etc/ssh/ssh_host_rsa_key")
    return "\n".join(lines)


def test_no_secret_reaches_the_store_in_any_form(envkit, name):
    canary = os.urandom(8).hex()
    with envkit.session(name, script=_plant(canary)):
        host_id = envkit.inside(name, "cat /etc/machine-id").ok()
        before = _objects(f"{envkit.root}/store")
        outcome = envkit("save", name, "--plan")
        assert "would store" in outcome.stderr
        plan = envkit.json("save", name, "--plan")
        assert _objects(f"{envkit.root}/store") == before, "a plan stored something"
        envkit("save", name).ok()
        assert envkit.inside(name, f"grep -rl SECRET-{canary} /root /etc /home | wc -l").ok() >= "10"
    stored = _plain(f"{envkit.root}/store")
    assert [path for path, data in stored.items() if f"SECRET-{canary}".encode() in data] == []
    assert len([path for path, data in stored.items() if f"PUBLIC-{canary}".encode() in data]) == 1
    assert [path for path, data in stored.items() if host_id.encode() in data] == []
    report = envkit.json("info", name)["report"]
    rules = {finding["path"]: finding["rule"] for finding in report["findings"]}
    for path, rule in _SECRETS.items():
        places = [path, *(parent for parent in _parents(path) if parent in rules)]
        assert any(rules.get(place) == rule for place in places), f"{path}: {[rules.get(place) for place in places]}"
    assert report["findings"] == plan["findings"]
    files = {row["path"]: row for row in envkit.json("files", name, "--changed")}
    assert "/opt/etc/ssh/ssh_host_rsa_key" in files
    assert files["/etc/machine-id"]["size"] == 0
    script = "cat /opt/kept /opt/repo/.git/config; ls -A /root/.ssh /root/.aws /tmp 2>/dev/null | wc -l; wc -c </etc/machine-id"
    text = envkit.sh(name, script).ok()
    assert f"PUBLIC-{canary}" in text
    assert "https://" in text
    assert text.splitlines()[-1] == "33", "each run has a machine id of its own"


def _parents(path):
    while path != "/":
        path = os.path.dirname(path)
        yield path


def test_the_identity_of_a_run_is_its_own(envkit, name):
    env = envkit.saved(name, "true")
    first, second = (envkit.sh(env, "cat /etc/machine-id; hostname; cat /etc/hostname").ok().split() for _ in "ab")
    assert first[0] != second[0]
    assert len(first[0]) == 32
    assert first[1:] == [name, name]


def test_allow_keeps_what_a_rule_would_take_and_is_recorded(envkit, name):
    history = "/root/.bash_history"
    with envkit.session(name, script=f"echo 'make install' >{history}; echo other >/root/.python_history"):
        envkit("save", name, "--allow", f"R103:{history}").ok()
    assert envkit.sh(name, "cat ~/.bash_history; ls -A ~").ok() == "make install\n.bash_history"
    findings = envkit.json("info", name)["report"]["findings"]
    actions = {finding["path"]: finding["action"] for finding in findings if finding["rule"] == "R103"}
    assert actions[history] == "allowed"
    assert actions["/root/.python_history"] == "drop"


def test_an_allow_that_cannot_be_is_refused_and_one_that_matches_nothing_is_told(envkit, name):
    with envkit.session(name, script="touch /opt/x"):
        envkit("save", name, "--allow", "R999:/root/x").fails(2, "R999")
        envkit("save", name, "--allow", "nonsense").fails(2, "nonsense")
        assert _versions(envkit, name) == []
        outcome = envkit("save", name, "--allow", "R103:/root/.zsh_history")
        assert outcome.code == 0
        assert "--allow R103:/root/.zsh_history matched nothing" in outcome.stderr


# Races and crashes


def test_of_two_sessions_on_one_name_one_wins_and_the_other_keeps_everything(envkit, new_root, tiny, name):
    elsewhere = new_root(store=f"{envkit.root}/store")
    with envkit.session(name, script="echo here >/opt/x"), elsewhere.session(name, script="echo there >/opt/x"):
        outcomes = {}

        def save(who):
            outcomes[who] = who("save", name, "-m", "mine")

        threads = [threading.Thread(target=save, args=(who,)) for who in (envkit, elsewhere)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loser, winner = sorted((envkit, elsewhere), key=lambda who: outcomes[who].code == 0)
        assert outcomes[winner].ok() == f"lab/{name}@1"
        outcomes[loser].fails(4, f"lab/{name}@1 was saved meanwhile", "its message: mine", "nothing of yours is lost")
        text = {envkit: "here", elsewhere: "there"}
        assert envkit.sh(name, "cat /opt/x").ok() == text[winner]
        assert elsewhere.sh(name, "cat /opt/x").ok() == text[winner]
        assert loser.inside(name, "cat /opt/x").ok() == text[loser]
        (state,) = loser.json("status", name)
        assert (state["running"], state["unsaved"], state["saved"]) == (True, True, None)
        loser("save", name).fails(4, "was saved meanwhile")
        winner.inside(name, "echo more >>/opt/x").ok()
        assert winner("save", name).ok() == f"lab/{name}@2"
    elsewhere("close", name, "--discard")


def test_a_killed_save_leaves_the_old_state_or_the_new_and_the_next_one_works(envkit, name):
    with envkit.session(name, script="echo 0 >/opt/round"):
        envkit("save", name).ok()
        known = [1]
        seen = set()
        for step in range(5):
            script = f"echo {step} >/opt/round; head -c 60000000 /dev/urandom >/opt/blob; sha256sum /opt/blob >/opt/sum"
            envkit.inside(name, script).ok()
            with envkit.start("save", name) as process:
                time.sleep(0.1 + 0.1 * step)
                process.kill()
            seen.add(process.returncode)
            versions = _versions(envkit, name)
            assert versions in (known, [known[0] + 1, *known])
            assert envkit.sh(name, "cd /; test ! -e /opt/sum || sha256sum -c /opt/sum").code == 0
            if step % 2:
                assert envkit("exec", name, "--", "true", patience=10).code == 0, "the session stayed frozen"
            outcome = envkit("save", name)
            assert outcome.code == 0, outcome.stderr
            known = _versions(envkit, name)
            assert envkit.sh(name, "cat /opt/round; cd /; sha256sum -c /opt/sum").ok() == f"{step}\n/opt/blob: OK"
        assert -9 in seen, "no save was ever killed"
        assert known == sorted(known, reverse=True)
        assert envkit.json("status", name)[0]["unsaved"] is False


def test_a_save_killed_right_after_its_version_was_made_is_known_as_the_sessions_own(envkit, name):
    """No kill from outside hits this moment: it is made by hand, from the two states before and after it."""
    with envkit.session(name, script="echo 1 >/opt/x"):
        record = f"{envkit.directory(name)}/session.json"
        with open(record, encoding="utf-8") as file:
            before = json.load(file)
        envkit("save", name).ok()
        with open(record, encoding="utf-8") as file:
            after = json.load(file)
        tree = envkit.json("info", name)["layers"][-1]["tree"]
        with open(record, "w", encoding="utf-8") as file:
            json.dump(before | {"pending": [1, tree, after["saved"][1]]}, file)
        assert envkit("save", name).stderr == f"nothing changed since lab/{name}@1\n"
        with open(record, "w", encoding="utf-8") as file:
            json.dump(before | {"pending": [1, tree, after["saved"][1]]}, file)
        envkit.inside(name, "echo 2 >/opt/x").ok()
        assert envkit("save", name).ok() == f"lab/{name}@2"
        with open(record, "w", encoding="utf-8") as file:
            json.dump(before | {"pending": [1, "0" * 64, after["saved"][1]]}, file)
        envkit("save", name).fails(4, "was saved meanwhile")


def test_a_save_that_is_interrupted_by_ctrl_c_thaws_the_session(envkit, name):
    with envkit.session(name, script="head -c 40000000 /dev/urandom >/opt/blob"):
        for number in ("INT", "TERM"):
            with envkit.start("save", name) as process:
                time.sleep(0.45)
                with contextlib.suppress(ProcessLookupError):
                    subprocess.run(["kill", f"-{number}", str(process.pid)], check=False)
                process.wait(30)
                assert "Traceback" not in process.stderr.read().decode()
            assert envkit("exec", name, "--", "true", patience=10).code == 0
        envkit("save", name).ok()


def test_saving_again_stores_only_what_is_new(envkit, name):
    blob = "head -c 8000000 /dev/urandom >/opt/blob"
    with envkit.session(name, script=blob):
        first = envkit.json("save", name)
        envkit.inside(name, "echo small >/opt/small; cp /opt/blob /opt/twin").ok()
        second = envkit.json("save", name)
    assert first["stored"] > 8_000_000
    assert second["stored"] < 300_000
    with envkit.session(f"{name}-twin"):
        pipe = envkit.start("run", "-e", name, "--", "cat", "/opt/blob")
        data = pipe.communicate()[0]
        envkit("exec", f"{name}-twin", "--", "sh", "-c", "cat >/opt/same", input=data).ok()
        third = envkit.json("save", f"{name}-twin")
    assert third["stored"] < 300_000
    got = envkit("run", "-e", f"{name}-twin", "--", "sha256sum", "/opt/same", user=ALICE).ok().split()[0]
    assert got == hashlib.sha256(data).hexdigest()
