import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers import aptsources
from envkit.drivers.aptsources import Source, deb822, debian_sources, one_line, parse_deb822, parse_one_line, read_host

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = f"""\
# the archive
Types: deb deb-src
URIs: https://mirror.example/debian/
Suites: bookworm bookworm-updates bookworm-backports
Components: main non-free-firmware
Signed-By: {KEYRING}

Types: deb
URIs: https://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: {KEYRING}

Types: deb
Enabled: no
URIs: https://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: https://source.example/debian
Suites: bookworm
Components: main
"""
OTHERS = """\
deb https://download.docker.example/linux/debian bookworm stable
deb [signed-by=/etc/apt/keyrings/ms.gpg arch=amd64] https://packages.example/debian/12/prod bookworm main
deb https://apt.postgresql.example/pub/repos/apt bookworm-pgdg main
deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main
deb file:///srv/debian bookworm main
"""


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def places(sources):
    return [(source.uri, source.suite) for source in sources]


def test_one_line_entries_are_read_with_their_options():
    text = (
        "# comment\ndeb [arch=amd64 Signed-By=/k.gpg trusted=yes] http://a.example/debian bookworm main contrib # x\n"
    )
    assert parse_one_line(text) == [
        Source(
            uri="http://a.example/debian",
            suite="bookworm",
            components=("main", "contrib"),
            signed_by="/k.gpg",
            trusted=True,
        )
    ]


@pytest.mark.parametrize(
    "line", ["deb-src http://a.example/debian bookworm main", "deb http://a.example ./", "debx a b c", ""]
)
def test_source_entries_flat_archives_and_nonsense_are_passed_over(line):
    assert parse_one_line(line) == []


def test_deb822_gives_one_source_for_each_uri_and_suite():
    found = parse_deb822(DEB822)
    assert places(found) == [
        ("https://mirror.example/debian/", "bookworm"),
        ("https://mirror.example/debian/", "bookworm-updates"),
        ("https://mirror.example/debian/", "bookworm-backports"),
        ("https://mirror.example/debian-security", "bookworm-security"),
    ]
    assert found[0].components == ("main", "non-free-firmware")


def test_a_key_inside_the_file_is_no_field():
    text = "Types: deb\nURIs: https://a.example/debian\nSuites: stable\nComponents: main\nSigned-By:\n -----BEGIN\n .\n URIs: x\n"
    (found,) = parse_deb822(text)
    assert found.signed_by == "-----BEGIN\n.\nURIs: x"


def test_the_hosts_files_are_read_as_apt_does(tmp_path):
    write(tmp_path, "etc/apt/sources.list", "deb http://a.example/debian bookworm main\n")
    write(tmp_path, "etc/apt/sources.list.d/debian.sources", DEB822)
    write(tmp_path, "etc/apt/sources.list.d/b.list.disabled", "deb http://b.example/debian bookworm main\n")
    write(tmp_path, "etc/apt/sources.list.d/c.list", "deb http://c.example/debian bookworm main\n")
    uris = [source.uri for source in read_host(root=str(tmp_path))]
    assert uris[:2] == ["http://a.example/debian", "http://c.example/debian"]
    assert "http://b.example/debian" not in uris
    assert read_host(root=str(tmp_path / "none")) == []


def test_another_release_comes_from_the_same_mirrors():
    found = debian_sources([*parse_one_line(OTHERS), *parse_deb822(DEB822)], "trixie")
    assert places(found) == [
        ("https://mirror.example/debian", "trixie"),
        ("https://mirror.example/debian", "trixie-updates"),
        ("https://mirror.example/debian-security", "trixie-security"),
    ]
    assert found[0].components == ("main", "non-free-firmware")


def test_aliases_of_releases_and_the_old_name_of_security_are_known():
    host = parse_one_line(
        "deb http://a.example/debian stable main\ndeb http://a.example/debian-security buster/updates main\n"
        "deb http://a.example/debian stable-updates main\ndeb http://a.example/debian stable-proposed-updates main\n"
    )
    assert places(debian_sources(host, "bookworm")) == [
        ("http://a.example/debian", "bookworm"),
        ("http://a.example/debian", "bookworm-updates"),
        ("http://a.example/debian-security", "bookworm-security"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        OTHERS,
        "deb http://localhost:3142/deb.debian.example/debian bookworm main\n",
        "deb http://archive.ubuntu.example/ubuntu noble main universe\n",
        "deb http://a.example/debian bookworm contrib\n",
        "deb http://a.example/debian bookworm-updates main\n",
    ],
)
def test_a_host_without_a_usable_debian_archive_gets_debians_own(text):
    assert places(debian_sources(parse_one_line(text), "trixie")) == [
        ("http://deb.debian.org/debian", "trixie"),
        ("http://deb.debian.org/debian", "trixie-updates"),
        ("http://deb.debian.org/debian-security", "trixie-security"),
    ]


def test_a_site_that_mirrors_no_updates_is_not_sent_elsewhere_for_them():
    host = parse_one_line("deb http://a.example/debian bookworm main\n")
    assert places(debian_sources(host, "bookworm")) == [("http://a.example/debian", "bookworm")]


def test_a_host_that_follows_unstable_gets_updates_and_security_for_a_release():
    host = parse_one_line("deb http://a.example/debian sid main\n")
    assert places(debian_sources(host, "bookworm")) == [
        ("http://a.example/debian", "bookworm"),
        ("http://a.example/debian", "bookworm-updates"),
        ("http://deb.debian.org/debian-security", "bookworm-security"),
    ]


@pytest.mark.parametrize(
    ("origin", "expected"), [("Debian", "http://a.example/pub"), ("Yarn", "http://deb.debian.org/debian")]
)
def test_the_origin_that_apt_fetched_decides_where_no_key_is_named(tmp_path, origin, expected):
    write(
        tmp_path, "var/lib/apt/lists/a.example_pub_dists_stable_InRelease", f"-----BEGIN\nOrigin: {origin}\nLabel: x\n"
    )
    host = parse_one_line("deb http://a.example/pub stable main\n")
    assert debian_sources(host, "bookworm", root=str(tmp_path))[0].uri == expected


def test_passwords_are_used_for_building_and_not_stored():
    host = parse_one_line("deb [trusted=yes] https://user:secret@a.example/debian bookworm main\n")
    sources = debian_sources(host, "bookworm")
    assert one_line(sources) == (
        f"deb [signed-by={KEYRING} trusted=yes] https://user:secret@a.example/debian bookworm main\n"
    )
    assert deb822(sources) == (
        "Types: deb\nURIs: https://a.example/debian\nSuites: bookworm\nComponents: main\n"
        f"Signed-By: {KEYRING}\nTrusted: yes\n"
    )


def test_what_is_stored_names_the_same_archives():
    sources = debian_sources(parse_deb822(DEB822), "bookworm")
    assert tuple(parse_deb822(deb822(sources))) == sources
    assert debian_sources(parse_one_line(one_line(sources)), "bookworm") == sources


@given(st.text())
def test_any_text_gives_archives_that_can_be_rendered(text):
    host = [*parse_one_line(text), *parse_deb822(text)]
    assert one_line(debian_sources(host, "bookworm")).startswith("deb [")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Types", "URIs", "Suites", "Components", "Enabled", "Signed-By", " x", "#"]), st.text()
        )
    )
)
def test_odd_stanzas_never_break_a_stored_file(fields):
    text = "\n".join(f"{name}: {value}" for name, value in fields)
    for source in debian_sources(parse_deb822(text), "bookworm"):
        assert aptsources.is_plain(source.uri)
