"""`envkit diff` and the sizes of `envkit info`, through the real command line."""

import random
import shutil

import pytest
from commandline import Envkit
from stored_support import GONE, HardLink, Lab, Link

SITE = "usr/local/lib/python3.11/dist-packages"


def stanza(name, version, architecture="amd64"):
    return f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nVersion: {version}\n\n"


def status(**packages):
    return "".join(stanza(name, version) for name, version in packages.items()).encode()


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def envkit(lab):
    return Envkit(lab.root, store=lab.store_path)


@pytest.fixture
def sci(lab):
    """A base and two versions on it, with packages of all managers."""
    base = lab.save(
        "base/tiny",
        {
            "var/lib/dpkg/status": status(bash="5.2-1", libc6="2.36-9", nano="7.2-1"),
            "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
            "usr/bin/nano": b"an editor",
        },
    )
    first = lab.save(
        "sci",
        {
            "var/lib/dpkg/status": status(bash="5.2-2", libc6="2.36-9", gcc="12.2"),
            "usr/bin/nano": GONE,
            f"{SITE}/numpy-1.26.4.dist-info/METADATA": b"Name: numpy\nVersion: 1.26.4\n",
            f"{SITE}/numpy/core.py": b"x" * 5000,
            "opt/conda/conda-meta/zlib-1.2-h1_0.json": b"{}",
            "srv/node_modules/left-pad/package.json": b'{"name": "left-pad", "version": "1.3.0"}',
        },
        below=base,
        message="one",
    )
    lab.save(
        "sci",
        {
            "var/lib/dpkg/status": status(bash="5.2-1", libc6="2.36-9", gcc="12.2"),
            f"{SITE}/numpy-1.26.4.dist-info": GONE,
            f"{SITE}/numpy-2.0.0.dist-info/METADATA": b"Name: numpy\nVersion: 2.0.0\n",
            "opt/conda/conda-meta/zlib-1.2-h1_0.json": GONE,
            "srv/node_modules/left-pad/package.json": b'{"name": "left-pad", "version": "1.2.0"}',
            "etc/link": Link("passwd"),
            "etc/passwd-": HardLink("etc/passwd"),
            "etc/passwd": b"root:x:0:0::/root:/bin/bash\n",
        },
        below=first,
        message="two",
    )
    return "sci"


def test_a_version_shows_what_it_changed(envkit, sci):
    assert envkit("diff", f"{sci}@1").ok().splitlines() == [
        "base/tiny@1 -> lab/sci@1",
        "packages: 4 added, 1 removed, 1 upgraded",
        "  + zlib 1.2=h1_0 (conda in /opt/conda)",
        "  ~ bash 5.2-1 -> 5.2-2 upgraded (dpkg)",
        "  + gcc 12.2 (dpkg)",
        "  - nano 7.2-1 (dpkg)",
        "  + left-pad 1.3.0 (npm in /srv/node_modules)",
        f"  + numpy 1.26.4 (pip in /{SITE})",
        "files: 16 added, 1 removed, 1 changed, +5.1 kB",
        "  + /opt/",
        "  + /opt/conda/",
        "  + /opt/conda/conda-meta/",
        "  + /opt/conda/conda-meta/zlib-1.2-h1_0.json  2 B",
        "  + /srv/",
        "  + /srv/node_modules/",
        "  + /srv/node_modules/left-pad/",
        "  + /srv/node_modules/left-pad/package.json  40 B",
        "  - /usr/bin/nano  9 B",
        "  + /usr/local/",
        "  + /usr/local/lib/",
        "  + /usr/local/lib/python3.11/",
        f"  + /{SITE}/",
        f"  + /{SITE}/numpy/",
        f"  + /{SITE}/numpy/core.py  5.0 kB",
        f"  + /{SITE}/numpy-1.26.4.dist-info/",
        f"  + /{SITE}/numpy-1.26.4.dist-info/METADATA  28 B",
        "  ~ /var/lib/dpkg/status  content 239 B -> 237 B",
    ]


def test_packages_go_up_and_down(envkit, sci):
    assert envkit("diff", f"{sci}@1", f"{sci}@2", "--packages").ok().splitlines() == [
        "lab/sci@1 -> lab/sci@2",
        "packages: 1 removed, 1 upgraded, 2 downgraded",
        "  - zlib 1.2=h1_0 (conda in /opt/conda)",
        "  ~ bash 5.2-2 -> 5.2-1 downgraded (dpkg)",
        "  ~ left-pad 1.3.0 -> 1.2.0 downgraded (npm in /srv/node_modules)",
        f"  ~ numpy 1.26.4 -> 2.0.0 upgraded (pip in /{SITE})",
    ]


def test_files_alone_and_json(envkit, sci):
    text = envkit("diff", sci, "--files").ok()
    assert "packages:" not in text
    assert "  ~ /etc/passwd  content 26 B -> 28 B" in text
    found = envkit.json("diff", sci)
    assert (found["from"], found["to"]) == ("lab/sci@1", "lab/sci@2")
    (passwd,) = [row for row in found["files"] if row["path"] == "/etc/passwd"]
    assert passwd["what"] == ["content"]
    assert (passwd["from"]["size"], passwd["to"]["size"]) == (26, 28)
    (numpy,) = [row for row in found["packages"] if row["name"] == "numpy"]
    assert (numpy["change"], numpy["from"], numpy["to"]) == ("upgraded", ["1.26.4"], ["2.0.0"])
    assert "files" not in envkit.json("diff", sci, "--packages")


def test_the_exit_code_tells_of_differences_only_when_asked(envkit, sci):
    assert envkit("diff", sci).code == 0
    assert envkit("diff", sci, "--exit-code").code == 1
    assert envkit("diff", f"{sci}@1", f"{sci}@1", "--exit-code").code == 0
    assert envkit("diff", f"{sci}@1", f"{sci}@1").ok().splitlines()[1:] == [
        "packages: none differ",
        "files: none differ, +0 B",
    ]
    envkit("diff", "nothing").fails(3, "no environment lab/nothing")
    envkit("diff", sci, f"{sci}@9", "--exit-code").fails(3, "has no version 9")


def test_thousands_of_files_are_summed_up_until_all_are_asked_for(envkit, lab):
    files = {f"opt/many/{n % 30:02}/{n}": b"12" for n in range(3000)}
    base = lab.save("base/tiny", {"etc/x": b"x"})
    lab.save("sci", files | {"etc/x": b"y"}, below=base)
    lines = envkit("diff", "sci").ok().splitlines()
    assert lines[2:] == [
        "files: 3032 added, 1 changed, +6.0 kB",
        "  /*  1 added, +0 B",
        "  /etc/  1 changed, +0 B",
        "  /opt/*  1 added, +0 B",
        "  /opt/many/  3030 added, +6.0 kB",
        "  (--files shows every path)",
    ]
    assert len(envkit("diff", "sci", "--files").ok().splitlines()) == 3035


def test_hostile_names_do_not_drive_the_terminal(envkit, lab):
    lab.save("base/tiny", {"etc/x": b"x"})
    evil = "\033[2J\033]0;owned\007"
    lab.save("sci", {f"opt/{evil}": Link(evil), "var/lib/dpkg/status": stanza(evil, evil).encode()})
    lab.save("sci", {f"opt/{evil}": Link("x"), "var/lib/dpkg/status": stanza(evil, "2").encode()})
    for words in (["sci@1", "sci@2"], ["sci@1"]):
        text = envkit("diff", *words).ok()
        assert "\033" not in text
        assert "\007" not in text


def test_garbage_in_place_of_notes_is_no_package(envkit, lab):
    garbage = random.Random(3).randbytes(3000)
    lab.save("base/tiny", {"etc/x": b"x"})
    lab.save(
        "sci",
        {
            "var/lib/dpkg/status": garbage,
            f"{SITE}/x.egg-info/PKG-INFO": garbage,
            "srv/node_modules/x/package.json": b"[" * 50_000,
            "opt/conda/conda-meta/y.json": garbage,
            "opt/conda/conda-meta/y-1-0.json": garbage,
            f"{SITE}/-.dist-info": garbage,
        },
    )
    rows = [(p["manager"], p["name"]) for p in envkit.json("diff", "base/tiny", "sci")["packages"]]
    assert rows == [("conda", "y")]
    assert envkit.json("info", "sci")["sizes"]["packages"] == [{"name": "(no package)", "size": 65_000, "files": 6}]


# Sizes


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def test_info_tells_what_only_this_environment_needs(envkit, lab):
    shared, own = {"usr/a": noise(1, 700_000)}, {"opt/b": noise(2, 400_000), "opt/c": HardLink("opt/b")}
    base = lab.save("base/tiny", shared)
    lab.save("sci", own, below=base, message="one")
    gone = lab.save("other", own, below=base)
    before = envkit.json("info", "sci")["sizes"]
    assert (before["logical"], before["files"]) == (1_100_000, 2)
    assert before["unique"] == 0
    assert before["shared"] == before["stored"] > 1_100_000
    lab.delete(gone)
    after = envkit.json("info", "sci")["sizes"]
    assert after["stored"] == before["stored"]
    assert 400_000 < after["unique"] < 402_000
    assert [row["unique"] > 0 for row in after["layers"]] == [False, True]
    text = envkit("info", "sci").ok()
    assert "size:         1.1 MB in 2 files" in text
    assert "unique:       400 kB, shared 700 kB" in text


def test_info_shows_where_the_bytes_are(envkit, lab):
    lab.save(
        "sci",
        {
            "usr/lib/x86_64-linux-gnu/libc.so.6": noise(1, 30_000),
            "lib": Link("usr/lib"),
            "usr/bin/python": noise(2, 20_000),
            "usr/README": b"1234",
            "etc/passwd": b"12",
            "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib\n/lib/x86_64-linux-gnu/libc.so.6\n/etc/missing\n",
            f"{SITE}/numpy-1.0.dist-info/RECORD": b"numpy/core.py,sha256=x,3000\n../../../../bin/python,,\n",
            f"{SITE}/numpy/core.py": b"y" * 3000,
            "opt/conda/conda-meta/zlib-1.2-h1_0.json": b'{"files": ["lib/libz.so"]}',
            "opt/conda/lib/libz.so": b"z" * 1000,
            "opt/venv/site-packages/numpy-2.0.dist-info/RECORD": b"core.py,,\n",
            "opt/venv/site-packages/core.py": b"v" * 2000,
            "opt/all": b"1",
        },
    )
    text = envkit("info", "sci", "--by-directory", "--by-package").ok()
    tables = text.split("\n\n")
    assert [line.split()[0] for line in tables[2].splitlines()] == [
        "DIRECTORY", "/usr/lib", "/usr/bin", "/usr/local", "/opt", "/var", "/usr/*", "/etc",
    ]  # fmt: skip
    assert [" ".join(line.split()) for line in tables[3].splitlines()] == [
        "PACKAGE SIZE FILES",
        "libc6:amd64 (dpkg) 30.0 kB 1",
        f"numpy 1.0 (pip in /{SITE}) 23.0 kB 2",
        "numpy 2.0 (pip in /opt/venv/site-packages) 2.0 kB 1",
        "zlib 1.2=h1_0 (conda) 1.0 kB 1",
        "(no package) 149 B 7",
    ]


def test_info_says_what_could_not_be_read(envkit, lab):
    base = lab.save("base/tiny", {"a": noise(1, 1000)})
    lab.save("sci", {"b": noise(2, 1000)}, below=base)
    other = lab.save("other", {"c": noise(3, 1000)})
    digest = other.layers[0].tree
    lab.store.delete(f"trees/{digest[:2]}/{digest}")
    shutil.rmtree(lab.context.paths.trees)
    outcome = envkit("info", "sci")
    outcome.ok()
    assert "not looked at, so that unique may be too much" in outcome.stderr
    assert digest in outcome.stderr
    broken = envkit("info", "other")
    assert "lab/other@1" in broken.ok()
    assert "sizes are unknown" in broken.stderr
    assert envkit.json("info", "other")["sizes"] is None
