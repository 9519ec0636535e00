import os

import pytest

from envkit.drivers import bootstrap
from envkit.drivers.aptsources import Source
from envkit.drivers.process import Result
from envkit.errors import Conflict, Unavailable
from envkit.model.recipe import Recipe

RECIPE = Recipe(name="sci", description="x", distribution="debian", suite="trixie", packages=("less", "usr-is-merged"))
SOURCE = Source(
    uri="https://user:secret@a.example/debian", suite="trixie", components=("main",), signed_by="debian-archive"
)


class Build:
    """Stands for mmdebstrap: notes how it was called, and writes a log."""

    def __init__(self, *, code=0, log=""):
        self.code = code
        self.log = log
        self.argv = []
        self.files = {}
        self.env = {}

    def __call__(self, argv, *, env, timeout, check):
        self.argv, self.env = argv, env
        log = next(word.partition("=")[2] for word in argv if word.startswith("--logfile="))
        for name in os.listdir(os.path.dirname(log)):
            with open(f"{os.path.dirname(log)}/{name}") as file:
                self.files[name] = file.read()
        with open(log, "a") as file:
            file.write(self.log)
        return Result(argv=tuple(argv), code=self.code, stdout=b"", stderr=b"")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A host that has mmdebstrap, Debian's keys, and a proxy on loopback."""
    (tmp_path / "keyring").write_text("")
    monkeypatch.setattr(bootstrap.aptsources, "KEYRING", str(tmp_path / "keyring"))
    monkeypatch.setattr(bootstrap, "find_program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap.hostapt, "dump", lambda environ: 'Acquire::http::Proxy "http://127.0.0.1:3142";\n')
    monkeypatch.setattr(bootstrap.newroot, "finish", lambda *args, **options: None)


def build(monkeypatch, tmp_path, fake, progress=None, environ=None):
    monkeypatch.setattr(bootstrap, "run", fake)
    bootstrap.build_root(RECIPE, str(tmp_path / "root"), progress, environ=environ or {}, sources=[SOURCE])


def test_a_missing_mmdebstrap_is_told_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "find_program", lambda name: None)
    with pytest.raises(Unavailable) as caught:
        bootstrap.build_root(RECIPE, str(tmp_path / "root"))
    assert caught.value.brief == "the program mmdebstrap is not installed"
    assert caught.value.resolution == "run `apt install mmdebstrap`"


def test_missing_keys_of_debian_are_told_with_their_package(monkeypatch, tmp_path, installed):
    (tmp_path / "keyring").unlink()
    with pytest.raises(Unavailable) as caught:
        bootstrap.build_root(RECIPE, str(tmp_path / "root"))
    assert caught.value.resolution == "run `apt install debian-archive-keyring`"


@pytest.mark.parametrize("kind", ["full", "file", "link"])
def test_a_target_with_something_in_it_is_refused(tmp_path, installed, kind):
    target = tmp_path / "root"
    if kind == "full":
        (target / "x").mkdir(parents=True)
    elif kind == "file":
        target.write_text("")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict, match=r"it is not an empty directory"):
        bootstrap.build_root(RECIPE, str(target))


def test_the_command_line_is_that_of_a_build_that_dies_with_its_caller():
    assert bootstrap.argv(RECIPE, "/new", "/scratch") == [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", "--include=less,usr-is-merged"),
        *("--aptopt=/scratch/apt.conf", "--dpkgopt=force-unsafe-io", "--logfile=/scratch/log"),
        "--hook-directory=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        *("--", "trixie", "/new", "/scratch/archives.list"),
    ]


def test_a_recipe_without_packages_includes_none():
    argv = bootstrap.argv(RECIPE.replace(packages=(), variant="apt"), "/new", "/scratch")
    assert not any(word.startswith(("--include", "--hook")) for word in argv)


def test_passwords_are_in_files_and_never_in_the_command_line(monkeypatch, tmp_path, installed):
    fake = Build()
    build(monkeypatch, tmp_path, fake, environ={"https_proxy": "http://user:secret@proxy.example"})
    assert "secret" not in " ".join(fake.argv)
    assert "https://user:secret@a.example/debian trixie main" in fake.files["archives.list"]
    assert fake.files["apt.conf"] == 'Acquire::http::Proxy "http://127.0.0.1:3142";\n'
    assert fake.env["https_proxy"] == "http://user:secret@proxy.example"
    assert not os.path.exists(os.path.dirname(next(w for w in fake.argv if w.startswith("--aptopt"))[9:]))


def test_progress_hears_each_step_once(monkeypatch, tmp_path, installed):
    steps = []
    log = "I: running apt-get update...\nreading\nI: installing essential packages...\nW: no\nI: cut off"
    build(monkeypatch, tmp_path, Build(log=log), steps.append)
    assert steps == ["running apt-get update", "installing essential packages"]


def test_a_failed_build_shows_the_last_lines_without_passwords(monkeypatch, tmp_path, installed):
    log = "\n".join([*(f"line {n}" for n in range(40)), "E: cannot fetch https://user:secret@a.example/debian"])
    with pytest.raises(bootstrap.BuildFailed) as caught:
        build(monkeypatch, tmp_path, Build(code=100, log=log))
    assert caught.value.brief == "building the base sci: mmdebstrap failed with exit code 100"
    lines = caught.value.details.splitlines()
    assert len(lines) == 12
    assert lines[-1] == "E: cannot fetch https://a.example/debian"


def test_a_build_that_is_killed_names_the_signal(monkeypatch, tmp_path, installed):
    with pytest.raises(bootstrap.BuildFailed, match=r"mmdebstrap was ended by signal 9"):
        build(monkeypatch, tmp_path, Build(code=-9))
