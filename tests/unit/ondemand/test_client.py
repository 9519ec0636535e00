"""Who connects to the image server starts it, and does not pile up processes where they are slow to begin."""

import pytest

from envkit.model.paths import Paths
from envkit.ondemand import client, holder
from envkit.ondemand.messages import ServerFailed


@pytest.fixture
def paths(tmp_path):
    return Paths(root=str(tmp_path / "root"), run=str(tmp_path / "run"))


def test_a_server_that_does_not_come_is_started_again_ever_more_seldom(paths, monkeypatch):
    monkeypatch.setattr(holder, "_PROGRAM", "")
    monkeypatch.setattr(client, "_STARTING", 4.0)
    start, starts = holder.start, []

    def counted(paths):
        starts.append(paths)
        start(paths)

    monkeypatch.setattr(holder, "start", counted)
    with pytest.raises(ServerFailed, match="did not start"):
        client.Client.connect(paths)
    assert 1 <= len(starts) <= 4, "at 0, 0.5, 1.5 and 3.5 s"
