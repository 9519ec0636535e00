"""A small `envkit` behind the Python API, see `tests/fake_envkit.py`."""

import json
import os
import sys

import pytest

FAKE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "fake_envkit.py")


class Fake:
    """What the small `envkit` has been asked for."""

    def __init__(self, place):
        self.place = place

    @property
    def submitted(self):
        """The words of each job, with the name and the number of its tasks at the end."""
        path = self.place / "submitted"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def kills(self):
        return (self.place / "kills").read_text().split()

    def fail(self, *codes):
        """Let `follow` fail so often, with these exit codes."""
        (self.place / "broken").write_text("".join(f"{code}\n" for code in codes))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    place = tmp_path / "jobs"
    place.mkdir()
    monkeypatch.setenv("FAKE_ENVKIT", str(place))
    monkeypatch.setenv("ENVKIT_COMMAND", f"{sys.executable} {FAKE}")
    # Every test its own: the child of the last one looks for jobs in another directory.
    from envkit.client import follower

    monkeypatch.setattr(follower, "_follower", follower.Follower())
    monkeypatch.setattr(follower, "_FIRST_PAUSE", 0.05)
    return Fake(place)
