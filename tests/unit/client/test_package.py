"""`import envkit` as users and the command line see it: everything is there, and nobody pays for what they do not use."""

import subprocess
import sys

import pytest
from commandline import CHECKOUT

import envkit

OF_THE_COMMAND_LINE = {"click", "msgspec", "obstore", "pyfastcdc", "pyroute2", "rich", "zstandard"}


def imported(program):
    """Return the modules that a program has imported in the end."""
    program += "\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", envkit.__all__)
def test_everything_is_there(name):
    assert getattr(envkit, name).__name__ == name
    assert name in dir(envkit)


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        envkit.nothing  # noqa: B018


def test_importing_it_imports_nothing_else():
    assert {name for name in imported("import envkit") if name.startswith("envkit.")} == set()


def test_a_client_needs_cloudpickle_alone():
    used = imported("import envkit\nfor name in envkit.__all__: getattr(envkit, name)")
    assert "cloudpickle" in used
    assert {name.partition(".")[0] for name in used} & OF_THE_COMMAND_LINE == set()
    parts = {name.split(".")[1] for name in used if name.startswith("envkit.")}
    assert parts == {"client", "errors", "model"}
