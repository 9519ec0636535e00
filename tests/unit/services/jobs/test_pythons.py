"""Finding an environment's Python in its trees: through symlinks, across layers, and never by guessing."""

import pytest
from stored_support import GONE, HardLink, Lab, Link

from envkit.errors import InvalidInput, NotFound
from envkit.model.tree import Entry, Kind
from envkit.services.jobs.pythons import Stack, python_of, pythons

PROGRAM = (Entry(b"", Kind.FILE, 0o755), b"\x7fELF")
PLAIN = (Entry(b"", Kind.FILE, 0o644), b"\x7fELF")
DEBIAN = {"usr/bin/python3.11": PROGRAM, "usr/bin/python3": Link("python3.11"), "bin": Link("usr/bin")}


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def find(lab):
    """A function that finds the Python of an environment of these layers."""

    def found(*layers, wanted=None):
        return python_of(lab.context, lab.save("sci", *layers), wanted)

    return found


def test_debian(find):
    assert find(DEBIAN) == ("/usr/bin/python3", (3, 11))


def test_what_is_built_by_hand_comes_first_as_in_the_path(find):
    own = {"usr/local/bin/python3": Link("/opt/py/bin/python3.13"), "opt/py/bin/python3.13": PROGRAM}
    assert find(DEBIAN, own) == ("/usr/local/bin/python3", (3, 13))
    assert find(DEBIAN, own, wanted="/usr/bin/python3") == ("/usr/bin/python3", (3, 11))


def test_a_path_that_is_wanted_stays_as_it_is(find):
    """A virtual environment is known by the path through which its Python was started."""
    venv = {
        "opt/venv/bin/python": Link("python3"),
        "opt/venv/bin/python3": Link("/usr/bin/python3"),
        "opt/venv/pyvenv.cfg": b"home = /usr/bin\nversion = 3.11.2\n",
    }
    assert find(DEBIAN, venv, wanted="/opt/venv/bin/python") == ("/opt/venv/bin/python", (3, 11))


def test_conda(find):
    conda = {"opt/conda/bin/python3.12": PROGRAM, "opt/conda/bin/python": Link("python3.12")}
    assert find(DEBIAN, conda, wanted="/opt/conda/bin/python") == ("/opt/conda/bin/python", (3, 12))


@pytest.mark.parametrize("line", ["version = 3.12.1", "version_info = 3.12.1.final.0", "home = /x\nversion=3.12"])
def test_a_virtual_environment_of_copies(find, line):
    venv = {"v/bin/python3": PROGRAM, "v/pyvenv.cfg": f"{line}\n".encode()}
    assert find(DEBIAN, venv, wanted="/v/bin/python3") == ("/v/bin/python3", (3, 12))


def test_a_python_whose_library_says_its_version(find):
    assert find({"usr/bin/python3": PROGRAM, "usr/lib/python3.9/os.py": b""}) == ("/usr/bin/python3", (3, 9))
    with pytest.raises(InvalidInput, match="cannot tell which version of Python /usr/bin/python3 is in lab/sci@"):
        find({"usr/bin/python3": PROGRAM, "usr/lib/python3.9/os.py": b"", "usr/lib/python3.8/os.py": b""})
    with pytest.raises(InvalidInput, match="cannot tell"):
        find({"usr/bin/python3": PROGRAM})


def test_another_name_of_a_file(find):
    linked = {"opt/python3.10": PROGRAM, "usr/bin/python3.10": HardLink("opt/python3.10")}
    assert find(linked | {"usr/bin/python3": Link("python3.10")}) == ("/usr/bin/python3", (3, 10))


def test_links_over_directories_that_are_links(find):
    assert find({**DEBIAN, "usr/sbin": Link("bin")}, wanted="/bin/../sbin/./python3") == (
        "/bin/../sbin/./python3",
        (3, 11),
    )


@pytest.mark.parametrize(
    "above",
    [
        {"usr/bin/python3.11": GONE},
        {"usr/bin/python3": GONE},
        {"usr/bin": GONE},
        {"usr/bin": Entry(b"", Kind.DIRECTORY, 0o755, opaque=True)},
        {"usr/bin": b"a file now"},
        {"usr/bin/python3": Link("python3")},
        {"usr/bin/python3": Link("nowhere")},
        {"usr/bin/python3.11": PLAIN},
        {"usr/bin/python3.11": None},
    ],
)
def test_what_a_higher_layer_takes_away_is_gone(find, above):
    with pytest.raises(NotFound, match="has no python3 in"):
        find(DEBIAN, above)


def test_what_comes_back_above_is_there(find):
    back = {"usr/bin/python3": Link("python3.12"), "usr/bin/python3.12": PROGRAM}
    assert find(DEBIAN, {"usr/bin": GONE}, back) == ("/usr/bin/python3", (3, 12))


def test_others_are_named_where_the_usual_one_is_missing(find):
    with pytest.raises(NotFound) as caught:
        find({"opt/conda/bin/python3.12": PROGRAM})
    assert caught.value.resolution == "ask for another one: /opt/conda/bin/python3.12"


@pytest.mark.parametrize("wanted", ["/usr/bin/python4", "/usr/bin", "/usr/bin/\udcff", "/"])
def test_a_program_that_is_not_there(find, wanted):
    with pytest.raises(NotFound, match="has no program"):
        find(DEBIAN, wanted=wanted)


def test_a_path_that_is_not_absolute(find):
    with pytest.raises(InvalidInput, match="no absolute path"):
        find(DEBIAN, wanted="python3")


def test_all_pythons_with_a_version_in_their_name(lab):
    more = {"usr/bin/python3.13": PROGRAM, "usr/bin/python3.13-config": PROGRAM, "usr/bin/python3.8": PLAIN}
    version = lab.save("sci", DEBIAN, more)
    found = list(pythons(Stack(lab.context, version)))
    assert found == [("/usr/bin/python3.11", (3, 11)), ("/usr/bin/python3.13", (3, 13))]
