"""What a layer needs of the CPU and of MPI: programs of packages are believed to choose, those compiled here are not."""

import itertools
import os

import pytest
from machine_support import CODE, PLAIN, program

from envkit.model.needs import NOTHING, Needs
from envkit.model.tree import Entry, Kind
from envkit.services.building import layer_needs

_numbers = itertools.count()
FAST = program(PLAIN * 50 + CODE["avx512f"] * 20)


class Layer:
    """Files of a layer, and how often each was read."""

    def __init__(self, directory, files, *, mode=0o755):
        self.files = files
        self.mode = mode
        self.notes = f"{directory}/needs-{next(_numbers)}"
        self.reads = []
        self.stamps = dict.fromkeys(files, (1, 1))

    def needs(self):
        entries = [
            Entry(path=path, kind=Kind.FILE, mode=self.mode, size=len(data))
            for path, data in sorted(self.files.items())
        ]
        return layer_needs(entries, self._read, self.stamps.get, notes=self.notes)

    def _read(self, entry, most):
        self.reads.append(entry.path)
        return self.files[entry.path][:most]


@pytest.fixture
def layer(tmp_path):
    return lambda files, **options: Layer(tmp_path, files, **options)


def test_a_program_that_was_compiled_here_binds_the_environment(layer):
    assert layer({b"opt/solve": FAST}).needs() == Needs(cpu=("avx512f",), cpu_file="/opt/solve")


def test_libraries_need_not_be_executable(layer):
    assert layer({b"opt/lib/libfast.so.1": FAST}, mode=0o644).needs().cpu == ("avx512f",)
    assert layer({b"opt/notes.txt": FAST}, mode=0o644).needs() == NOTHING


def test_programs_of_debian_packages_choose_for_themselves(layer):
    files = {b"usr/bin/solve": FAST, b"usr/lib/libfast.so": FAST}
    listed = {b"var/lib/dpkg/info/fast.list": b"/.\n/usr\n/usr/bin/solve\n/lib/libfast.so\n"}
    assert layer(files | listed).needs() == NOTHING
    assert layer(files | {b"var/lib/dpkg/info/fast.list": b"/usr/bin/other\n"}).needs().cpu


@pytest.mark.parametrize(
    ("tag", "bound"),
    [
        ("cp311-cp311-manylinux_2_17_x86_64", False),
        ("cp311-cp311-musllinux_1_1_x86_64", False),
        ("cp311-cp311-linux_x86_64", True),
    ],
)
def test_wheels_are_believed_if_they_were_made_to_travel(layer, tag, bound):
    place = b"usr/lib/python3/dist-packages/"
    files = {
        place + b"fast/core.so": FAST,
        place + b"fast-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(),
        place + b"fast-1.0.dist-info/RECORD": b"fast/core.so,sha256=x,100\n",
    }
    assert bool(layer(files).needs().cpu) is bound


def test_packages_of_conda_are_believed(layer):
    files = {b"opt/conda/lib/libfast.so": FAST, b"opt/conda/conda-meta/fast-1-0.json": b'{"files": ["lib/libfast.so"]}'}
    assert layer(files).needs() == NOTHING


def test_families_of_mpi_are_found(layer):
    assert layer({b"usr/lib/libmpi.so.40.30.4": b"x" * 100}).needs().mpi == ("openmpi",)
    assert layer({b"usr/lib/libmpich.so.12": b"x" * 100}).needs().mpi == ("mpich",)
    assert layer({b"usr/lib/libmpi.so.12": b"x" * 100}).needs().mpi == ("mpich",)


def test_a_program_is_read_once_until_it_changes(layer):
    made = layer({b"opt/solve": FAST, b"opt/script": b"#!/bin/sh\n" * 20})
    first = made.needs()
    made.reads.clear()
    assert made.needs() == first
    assert made.reads == []
    made.stamps[b"opt/solve"] = (1, 2)
    made.files[b"opt/solve"] = program(PLAIN * 100)
    assert made.needs() == NOTHING
    assert set(made.reads) == {b"opt/solve"}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"opt/solve": [1, 1, 7]}', b"\xff", None])
def test_damaged_notes_cost_only_time(layer, damage):
    made = layer({b"opt/solve": FAST})
    first = made.needs()
    if damage is None:
        os.unlink(made.notes)
    else:
        with open(made.notes, "wb") as file:
            file.write(damage)
    found = made.needs()
    assert found == first or damage == b'{"opt/solve": [1, 1, 7]}'
