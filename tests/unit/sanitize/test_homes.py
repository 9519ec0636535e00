import pytest
from sanitize_support import Layer, directory, file, outcomes, samples_of, symlink, whiteout, with_parents

from envkit.model.tree import Entry
from envkit.sanitize.homes import MARKERS, MAX_PASSWD_LINES, find_homes, passwd_homes


def line(home: bytes) -> bytes:
    return b"u:x:1000:1000:A User,,,:" + home + b":/bin/sh\n"


def homes_of(*entries: Entry, passwd: bytes = b"") -> frozenset[bytes]:
    return find_homes(with_parents(entries), passwd=passwd)


def test_root_and_every_directory_in_home_are_homes_without_passwd() -> None:
    entries = (directory("home/a"), directory(b"home/\xff"), file("home/notes"), directory("home/a/b"))
    assert homes_of(*entries) == {b"root", b"home/a", b"home/\xff"}


@pytest.mark.parametrize(
    ("home", "expected"),
    [
        (b"/data/u", b"data/u"),
        (b"/data/u/", b"data/u"),
        (b"//data//u", b"data/u"),
        (b"/opt/svc", b"opt/svc"),
        (b"/var/lib/postgresql", b"var/lib/postgresql"),
        (b"/app", b"app"),
        (b"/data/\xe9\xff", b"data/\xe9\xff"),
    ],
)
def test_passwd_names_homes(home: bytes, expected: bytes) -> None:
    assert passwd_homes(line(home)) == [expected]


@pytest.mark.parametrize(
    "home",
    [
        b"", b"/", b"//", b"relative/path", b"~", b"/data/../etc", b"/./data", b"/..", b"/usr", b"/usr/", b"/etc",
        b"/var", b"/usr/sbin", b"/nonexistent", b"/home", b"/opt", b"/proc", b"/a\0b", b"/" + b"x" * 5000,
    ],
)  # fmt: skip
def test_passwd_cannot_make_a_home_of_everything(home: bytes) -> None:
    assert passwd_homes(line(home)) == []


@pytest.mark.parametrize("junk", [b"", b"\n\n", b"u:x:1", b"::::", b"\xff\0\xfe", b"u:x:1:1:g:/data/u"[:-9]])
def test_broken_lines_of_passwd_are_passed_over(junk: bytes) -> None:
    assert passwd_homes(junk + b"\n" + line(b"/data/u") + junk) == [b"data/u"]


def test_passwd_without_a_shell_field_or_final_newline_counts() -> None:
    assert passwd_homes(b"u:x:1:1:g:/data/u") == [b"data/u"]


def test_lines_and_bytes_of_passwd_are_limited() -> None:
    assert len(passwd_homes(line(b"/data/u") * (MAX_PASSWD_LINES + 5))) == MAX_PASSWD_LINES
    assert passwd_homes(b"#" * (2 << 20) + b"\n" + line(b"/data/u")) == []


def test_homes_behind_symlinks_are_found_where_they_lie() -> None:
    below = [symlink("home", b"data/home"), symlink("root", b"/var/roothome")]
    layer = Layer.of(
        file("data/home/u/.wget-hsts"),
        file("var/roothome/.wget-hsts"),
        file("vol/1/svc/.wget-hsts"),
        symlink("srv/svc", b"../vol/1/svc"),
        below=below,
        passwd=line(b"/srv/svc"),
    )
    assert sorted(outcomes(layer.plan())) == [
        "data/home/u/.wget-hsts",
        "var/roothome/.wget-hsts",
        "vol/1/svc/.wget-hsts",
    ]


def test_symlinks_that_turn_in_circles_or_climb_out_are_harmless() -> None:
    layer = Layer.of(
        symlink("srv/a", b"b"),
        symlink("srv/b", b"a"),
        symlink("srv/up", b"../../../../etc"),
        file("etc/.wget-hsts"),
        passwd=line(b"/srv/a") + line(b"/srv/up"),
    )
    assert outcomes(layer.plan()) == {}


@pytest.mark.parametrize("marker", samples_of(MARKERS))
def test_a_known_credential_makes_its_directory_a_home_and_goes_itself(marker: str) -> None:
    layer = Layer.of(file(f"mnt/disk/someone/{marker}"), file("mnt/disk/someone/.wget-hsts"))
    assert sorted(outcomes(layer.plan())) == sorted([f"mnt/disk/someone/{marker}", "mnt/disk/someone/.wget-hsts"])


def test_the_root_directory_is_a_home_if_it_holds_a_credential() -> None:
    assert b"" in homes_of(file(".netrc"))
    assert b"" not in homes_of(file("etc/passwd"))
    assert outcomes(Layer.of(file(".wget-hsts"), file(".cache/pip/x")).plan()) == {}
    layer = Layer.of(file(".netrc"), file(".cache/pip/x"), file("etc/x/.netrc.py"))
    assert sorted(outcomes(layer.plan())) == [".cache/pip/x", ".netrc"]


def test_directories_and_whiteouts_of_such_names_make_no_home() -> None:
    assert homes_of(directory("srv/a/.netrc"), file("srv/b/.netrc/x"), whiteout("srv/c/.netrc")) == {b"root"}


@pytest.mark.parametrize(
    "tree",
    [
        "opt/venv/lib/python3.11/site-packages/pkg/tests",
        "usr/lib/python3/dist-packages/pkg",
        "srv/app/node_modules/pkg",
        "usr/share/doc/pkg",
        "usr/lib/ruby/gems/pkg",
        "nix/store/0a-pkg",
    ],
)
def test_what_package_managers_own_is_no_home_for_its_test_data(tree: str) -> None:
    assert homes_of(file(f"{tree}/.ssh/id_rsa"), file(f"{tree}/.netrc")) == {b"root"}


def test_a_home_that_passwd_names_counts_even_where_packages_live() -> None:
    layer = Layer.of(file("usr/share/svc/.netrc"), passwd=line(b"/usr/share/svc"))
    assert outcomes(layer.plan()) == {"usr/share/svc/.netrc": ("R005", "drop")}
