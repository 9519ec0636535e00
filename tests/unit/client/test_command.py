"""Finding envkit's command line, and what becomes of its errors."""

import os
import sys

import pytest

import envkit
from envkit.client import command as module
from envkit.client.command import ask, command, failure
from envkit.client.options import Options
from envkit.errors import Conflict, InvalidInput, Unavailable


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A function that puts an `envkit` into a directory of the system's or of the caller's PATH."""
    monkeypatch.delenv("ENVKIT_COMMAND", raising=False)
    monkeypatch.setattr(module, "_SYSTEM_PATH", str(tmp_path / "system"))
    monkeypatch.setenv("PATH", str(tmp_path / "own"))

    def put(place):
        path = tmp_path / place / "envkit"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return put


def test_the_machines_own_comes_first(places, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command() == [sys.executable, "-m", "envkit"]
    own = places("own")
    assert command() == [own]
    system = places("system")
    assert command() == [system]
    monkeypatch.setenv("ENVKIT_COMMAND", "ssh -T 'head node' envkit")
    assert command() == ["ssh", "-T", "head node", "envkit"]


def test_who_is_not_root_needs_sudo(places, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system = places("system")
    assert command() == ["sudo", "-n", system]
    monkeypatch.setenv("ENVKIT_COMMAND", "/opt/envkit/bin/envkit")
    assert command() == ["/opt/envkit/bin/envkit"]


@pytest.mark.parametrize(
    ("code", "text", "kind", "brief", "hint"),
    [
        (2, b"error: no\nhint: do that\n", InvalidInput, "no", "do that"),
        (4, b'{"event": "progress"}\n{"event": "error", "message": "taken"}\n', Conflict, "taken", None),
        (9, b'{"event": "error", "message": "x", "hint": "y"}', envkit.EnvkitError, "x", "y"),
        (3, b"what a script printed\n", envkit.EnvkitError, "what a script printed", None),
        (1, b"Traceback ...\nKeyError: 1\n", envkit.EnvkitError, "KeyError: 1", None),
        (137, b"", envkit.EnvkitError, "envkit ended with exit code 137", None),
        (
            1,
            b"sudo: a password is required\n",
            Unavailable,
            "envkit cannot be started: sudo: a password",
            "it needs root",
        ),
        (1, b"\xff\n", envkit.EnvkitError, "\ufffd", None),
    ],
)
def test_what_a_failure_says(code, text, kind, brief, hint):
    error = failure(code, text)
    assert type(error) is kind
    assert error.brief.startswith(brief)
    assert (error.resolution or "").startswith(hint or "")
    assert bool(getattr(error, "__notes__", [])) == bool(hint)


def test_a_command_that_prints_no_json(monkeypatch):
    monkeypatch.setenv("ENVKIT_COMMAND", "echo")
    with pytest.raises(envkit.EnvkitError, match="envkit info printed no JSON: b'info sci"):
        ask("info", "sci")


def test_options_as_words():
    given = {
        "env": "sci",
        "cores": 2,
        "gpus": 0,
        "nodes": None,
        "volumes": "/data",
        "variables": {"A": 1, "B": "x y"},
        "depends_on": "12",
        "python": "/opt/py",
    }
    options = Options(given)
    words = [
        "-e",
        "sci",
        "-c",
        "2",
        "--gpus",
        "0",
        "--depends-on",
        "12",
        "-v",
        "/data",
        "--env",
        "A=1",
        "--env",
        "B=x y",
    ]
    assert options.words() == words
    assert options.python == "/opt/py"
