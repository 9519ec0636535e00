"""Notes of package managers: where they are, and that nothing in them does harm."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.model.packages import (
    Note,
    Package,
    conda_files,
    dpkg_files,
    note_at,
    packages_in,
    pip_files,
)

SITE = b"usr/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        (SITE + b"/numpy-1.26.4.dist-info", "numpy", "1.26.4"),
        (b"opt/venv/lib/python3.11/site-packages/ruamel.yaml-0.17.dist-info", "ruamel-yaml", "0.17"),
        (b"usr/lib/python3/dist-packages/PyYAML-6.0.egg-info", "pyyaml", "6.0"),
        (b"usr/lib/python3/dist-packages/zope.interface-5.5.2-py3.11.egg-info", "zope-interface", "5.5.2"),
        (SITE + b"/typing_extensions-4.9.0+local.dist-info", "typing-extensions", "4.9.0+local"),
    ],
)
def test_names_of_python_packages_say_it_all(path, name, version):
    place = "/" + path.rpartition(b"/")[0].decode()
    assert note_at(path) == Note("pip", path.rpartition(b"/")[0], Package("pip", place, name, version))


def test_a_python_package_whose_name_says_nothing_is_read():
    path = SITE + b"/legacy.egg-info"
    assert note_at(path) is None
    note = note_at(path + b"/PKG-INFO")
    assert note == Note("pip", SITE)
    data = b"Metadata-Version: 2.1\r\nName: Legacy_Thing\r\nVersion: 2.0\r\nSummary: x\r\n y\r\n\r\nName: no\n"
    assert packages_in(note, data) == [Package("pip", "/" + SITE.decode(), "legacy-thing", "2.0")]
    assert note_at(SITE + b"/numpy-1.0.dist-info/METADATA") is None, "would be counted twice"


def test_conda_packages_are_known_by_the_names_of_their_files():
    note = note_at(b"opt/conda/conda-meta/numpy-base-1.26.4-py311_0.json")
    assert note.whole == Package("conda", "/opt/conda", "numpy-base", "1.26.4=py311_0")
    assert note_at(b"opt/conda/conda-meta/history") is None
    assert note_at(b"opt/conda/conda-meta/odd.json") is None


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"srv/app/node_modules/left-pad/package.json", b"srv/app/node_modules"),
        (b"srv/app/node_modules/@scope/pad/package.json", b"srv/app/node_modules"),
        (b"usr/lib/node_modules/npm/package.json", b"usr/lib/node_modules"),
        (b"srv/app/node_modules/a/node_modules/b/package.json", None),
        (b"srv/app/node_modules/a/dist/package.json", None),
        (b"srv/app/node_modules/@scope/package.json", None),
        (b"srv/app/node_modules/package.json", None),
        (b"srv/app/package.json", None),
        (b"package.json", None),
    ],
)
def test_npm_packages_count_at_the_top_of_a_project(path, place):
    assert note_at(path) == (None if place is None else Note("npm", place))


def test_npm_packages_are_read():
    note = Note("npm", b"srv/node_modules")
    assert packages_in(note, b'{"name": "@a/b", "version": "1.2.3"}') == [
        Package("npm", "/srv/node_modules", "@a/b", "1.2.3")
    ]
    for garbage in (b"", b"[]", b"{", b'{"name": 1, "version": "1"}', b"[" * 100_000, b"\xff\xfe", b'{"name": "x"}'):
        assert packages_in(note, garbage) == []


STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Version: 2.36-9
Description: C library
 Version: 9.9

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-9

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2024a

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: broken
Status: install ok installed
"""


def test_the_status_of_dpkg_names_what_is_installed():
    note = note_at(b"var/lib/dpkg/status")
    found = {package.name: package.version for package in packages_in(note, STATUS)}
    assert found == {"libc6": "2.36-9", "libc6:i386": "2.36-9", "tzdata": "2024a", "bash": "5.2"}


def test_single_files_of_images_without_dpkg_have_no_status():
    note = note_at(b"var/lib/dpkg/status.d/base")
    assert packages_in(note, b"Package: base\nVersion: 1\nArchitecture: amd64\n") == [Package("dpkg", "", "base", "1")]
    assert note_at(b"var/lib/dpkg/status.d/base.md5sums") is None
    assert note_at(b"var/lib/dpkg/status-old") is None


def test_lists_of_files_are_read():
    assert list(dpkg_files(b"/.\n/usr\n/usr/bin/ls\nodd\n\n/x")) == [b".", b"usr", b"usr/bin/ls", b"x"]
    record = b'numpy/__init__.py,sha256=x,12\r\n"a,b/c.py",,\n../../bin/f2py,,\n\n,\n'
    assert list(pip_files(record)) == [b"numpy/__init__.py", b"a,b/c.py", b"../../bin/f2py"]
    assert list(conda_files(json.dumps({"files": ["bin/x", 3, "lib/y"]}).encode())) == [b"bin/x", b"lib/y"]


def test_lists_of_files_that_are_none_give_what_can_be_read():
    huge = b'"' + b"x" * 200_000 + b'",,\nnext,,\n'
    assert list(pip_files(huge)) == [b"next"]
    assert list(pip_files(b"a\0b,,\n\xff,,\n"))[-1] == b"\xff"
    for garbage in (b"", b"{}", b'{"files": 3}', b"[" * 100_000, b"\xff"):
        assert list(conda_files(garbage)) == []


paths = st.lists(
    st.sampled_from(
        (b"", b"a", b"-", b"@s", b"node_modules", b"package.json", b"conda-meta", b"x-1-0.json", b"-.json", b"--.json",
         b"site-packages", b"-1.dist-info", b"x-1.dist-info", b"x.egg-info", b"METADATA", b"PKG-INFO", b"\xff-1.dist-info",
         b"var", b"lib", b"dpkg", b"status", b"status.d")
    ),
    max_size=7,
).map(b"/".join)  # fmt: skip
lines = st.lists(
    st.sampled_from(
        (b"Package: a", b"Version:", b"Version: 1", b"Status: installed", b"Status:", b" cont", b":", b"", b"Name: \xff",
         b'{"name": "a"', b',"version": "2"}', b'"', b",,", b"\0", b"/x", b"Architecture: \x1b[2J")
    ),
    max_size=9,
).map(b"\n".join)  # fmt: skip


@given(paths, st.one_of(lines, st.binary(max_size=200)))
@settings(max_examples=400, deadline=None)
def test_nothing_raises(path, data):
    note = note_at(path)
    for manager in ("dpkg", "pip", "npm", "conda"):
        packages_in(note or Note(manager, path), data)
        packages_in(Note(manager, path), data)
    for read in (dpkg_files, pip_files, conda_files):
        list(read(data))


def test_what_is_shown_is_bounded():
    name = b"x" * 10_000
    assert len(packages_in(Note("dpkg", b""), b"Package: " + name + b"\nVersion: " + name)[0].name) == 256
    note = note_at(SITE + b"/" + b"x" * 200 + b"-1.dist-info")
    assert note is not None
    assert sys.getsizeof(note.whole.name) < 1000
