import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers import hostapt
from envkit.drivers.process import Result

DUMP = """\
APT "";
APT::Architecture "amd64";
APT::Sandbox::User "_apt";
APT::Update::Post-Invoke:: "rm -rf /";
Dir::Etc::sourcelist "sources.list";
Acquire "";
Acquire::http "";
Acquire::http::Proxy "http://user:secret@proxy.example:3128";
Acquire::http::Proxy::mirror.example "DIRECT";
Acquire::HTTP::Proxy-Auto-Detect "/usr/local/bin/detect";
Acquire::https::Proxy "http://127.0.0.1:3128";
Acquire::https::CaInfo "/etc/ssl/own.pem";
Acquire::https::SslKey "/etc/ssl/private/key.pem";
Acquire::https::mirror.example::Verify-Peer "false";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
Acquire::Retries "5";
Acquire::ForceIPv4 "true";
Acquire::AllowInsecureRepositories "true";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages:: "none";
DPkg::Pre-Invoke:: "evil";
"""


def test_only_settings_of_how_archives_are_reached_are_taken():
    assert hostapt.acquire_settings(DUMP) == (
        ("Acquire::http::Proxy", "http://user:secret@proxy.example:3128"),
        ("Acquire::http::Proxy::mirror.example", "DIRECT"),
        ("Acquire::https::mirror.example::Verify-Peer", "false"),
        ("Acquire::Check-Valid-Until", "false"),
        ("Acquire::Check-Date", "false"),
        ("Acquire::Retries", "5"),
        ("Acquire::ForceIPv4", "true"),
    )


def test_a_proxy_on_loopback_is_kept_for_builds_on_the_host():
    assert ("Acquire::https::Proxy", "http://127.0.0.1:3128") in hostapt.acquire_settings(DUMP, loopback=True)


def test_the_hosts_own_authorities_are_found():
    assert hostapt.ca_file(DUMP) == "/etc/ssl/own.pem"
    assert hostapt.ca_file("") is None
    assert hostapt.ca_file('Acquire::https::CaInfo "relative.pem";\n') is None


def test_the_file_for_the_container_is_in_apts_format():
    settings = [("Acquire::Retries", "5"), ("Acquire::http::Proxy", "http://proxy.example:3128")]
    assert hostapt.render(settings, ca="/run/envkit/ca-certificates.crt") == (
        b'Acquire::Retries "5";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        b'Acquire::https::CaInfo "/run/envkit/ca-certificates.crt";\n'
    )
    assert hostapt.render([]) is None


@pytest.mark.parametrize(
    "line",
    [
        'Acquire::http::Proxy "http://a"; DPkg::Pre-Invoke { "evil"; };',
        'Acquire::http::Proxy "http://a b";',
        'Acquire::http::Proxy "";',
        'Acquire::http::Proxy "http://a";;',
        "Acquire::Retries 5;",
        'Acquire::Retries "5"',
        'XAcquire::Retries "5";',
        'Acquire::Retries::x "5";',
    ],
)
def test_lines_of_another_form_are_passed_over(line):
    assert hostapt.acquire_settings(line) == ()


@given(st.text())
def test_any_value_either_stays_one_value_or_is_dropped(value):
    for _, kept in hostapt.acquire_settings(f'Acquire::http::Proxy "{value}";'):
        assert kept == value
        assert not set(value) & set('";\n\\{}')


def test_what_is_rendered_is_read_back_the_same():
    settings = hostapt.acquire_settings(DUMP)
    assert hostapt.acquire_settings(hostapt.render(settings).decode()) == settings


def test_a_host_without_apt_has_no_settings(monkeypatch):
    monkeypatch.setattr(hostapt, "find_program", lambda name: None)
    assert hostapt.dump({}) == ""


def test_the_callers_own_configuration_file_counts(monkeypatch):
    calls = []

    def run(argv, **options):
        calls.append((argv, options["env"]))
        return Result(argv=("apt-config",), code=100, stdout=b"\xff", stderr=b"E: broken")

    monkeypatch.setattr(hostapt, "find_program", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(hostapt, "run", run)
    assert hostapt.acquire_settings(hostapt.dump({"APT_CONFIG": "/etc/own.conf", "HOME": "/root"})) == ()
    assert calls == [(["apt-config", "dump"], {"APT_CONFIG": "/etc/own.conf"})]
