"""Images: which of them is up to date, and which may go."""

import os

import pytest
from vm import image, releases
from vm.image import CannotBuild, Image
from vm.releases import RELEASES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; what is built is a file with a number, so that two builds differ."""
    numbers = iter(range(100))

    def build(_, work, say):
        say("built")
        os.mkdir(f"{work}/image")
        with open(f"{work}/image/disk", "w", encoding="ascii") as file:
            file.write(str(next(numbers)))

    monkeypatch.setenv("ENVKIT_VM_DIR", str(tmp_path))
    monkeypatch.setattr(image, "build", build)
    monkeypatch.setattr(image, "require_programs", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def made(*, number="12", again=False):
    """Return the image and whether it was built for this."""
    said = []
    found = image.image(RELEASES[number], say=said.append, again=again)
    return found, said == ["built"]


def content(found):
    with open(found.disk, encoding="ascii") as file:
        return file.read()


def test_an_image_is_built_once_and_one_for_each_release(cache):
    first, built = made()
    assert built
    assert made() == (first, False)
    assert made(number="13")[1]
    assert made(number="12") == (first, False)


def test_one_that_is_out_of_date_gives_way_unless_a_machine_runs_with_it(cache, monkeypatch):
    unused, _ = made(number="13")
    used, _ = made()
    descriptor = used.in_use()
    monkeypatch.setattr(releases, "SYSTEM", (*releases.SYSTEM, "vim"))
    newer, built = made()
    assert built and newer != used
    made(number="13")
    assert (os.path.isdir(used.directory), os.path.isdir(unused.directory)) == (True, False)
    os.close(descriptor)
    made(again=True)
    assert not os.path.isdir(used.directory)


def test_one_that_a_machine_runs_with_is_not_made_again(cache):
    used, _ = made()
    descriptor = used.in_use()
    with pytest.raises(CannotBuild, match="in use"):
        made(again=True)
    assert content(used) == "0"
    os.close(descriptor)
    assert content(made(again=True)[0]) == "2"
    assert "new" not in os.listdir(cache)


def test_an_image_depends_on_what_it_is_made_of_and_on_nothing_else(monkeypatch, tmp_path):
    twelve = image.digest(RELEASES["12"])
    assert twelve == image.digest(RELEASES["12"])
    assert twelve != image.digest(RELEASES["13"])
    monkeypatch.setattr(releases, "CHECKOUT", str(tmp_path))
    (tmp_path / "scripts").mkdir()
    project = '[build-system]\nrequires = []\n[project]\ndependencies = ["{0}"]\noptional-dependencies.test = []\n'
    digests = []
    for packages, requirement in (("lxc", "click"), ("lxc vim", "click"), ("lxc", "click>8"), ("lxc munge", "click")):
        (tmp_path / "scripts/provision").write_text(f"packages=({packages})\ntest_packages=()\n")
        (tmp_path / "pyproject.toml").write_text(project.format(requirement))
        digests.append(image.digest(RELEASES["12"]))
    assert len(set(digests)) == 3
    assert digests[3] == digests[0], "what is left out counts"
    assert Image(str(tmp_path)).disk == f"{tmp_path}/disk"
