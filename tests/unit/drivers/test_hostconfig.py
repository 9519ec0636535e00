import pytest

from envkit.drivers import hostcerts
from envkit.drivers.hostconfig import borrow, proxy_variables

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PROXY = "http://user:secret@proxy.example:3128"


def borrowed(root, environ=None, *, apt_dump="", **options):
    return borrow(environ or {}, home="/root", root=str(root), apt_dump=apt_dump, **options)


def test_a_plain_host_lends_nothing(tmp_path):
    found = borrowed(tmp_path)
    assert (found.files, found.variables, found.warnings) == ({}, {}, ())


def test_each_file_has_the_variable_that_leads_to_it(tmp_path):
    (tmp_path / "own.pem").write_text(CERTIFICATE)
    environ = {"SSL_CERT_FILE": "/own.pem", "PIP_INDEX_URL": "https://pypi.example/simple"}
    found = borrowed(tmp_path, environ, apt_dump='Acquire::Retries "5";\n')
    assert set(found.files) == {"ca-certificates.crt", "pip.conf", "apt.conf", "wgetrc"}
    assert found.files["ca-certificates.crt"] == CERTIFICATE.encode()
    for name in hostcerts.VARIABLES:
        assert found.variables[name] == "/run/envkit/ca-certificates.crt"
    assert found.variables["PIP_CONFIG_FILE"] == "/run/envkit/pip.conf"
    assert found.variables["APT_CONFIG"] == "/run/envkit/apt.conf"
    assert found.variables["WGETRC"] == "/run/envkit/wgetrc"
    assert found.files["wgetrc"] == b"ca_certificate = /run/envkit/ca-certificates.crt\n"
    assert found.files["pip.conf"] == (
        b"[global]\nindex-url = https://pypi.example/simple\ncert = /run/envkit/ca-certificates.crt\n"
    )
    assert found.files["apt.conf"] == (
        b'Acquire::Retries "5";\nAcquire::https::CaInfo "/run/envkit/ca-certificates.crt";\n'
    )


def test_authorities_that_only_pip_or_apt_know_are_lent_too(tmp_path):
    (tmp_path / "pip.pem").write_text(CERTIFICATE)
    (tmp_path / "apt.pem").write_text(CERTIFICATE.replace("AAAA", "BBBB"))
    found = borrowed(tmp_path, {"PIP_CERT": "/pip.pem"}, apt_dump='Acquire::https::CaInfo "/apt.pem";\n')
    assert found.files["ca-certificates.crt"] == (CERTIFICATE + CERTIFICATE.replace("AAAA", "BBBB")).encode()


def test_without_authorities_the_files_name_none(tmp_path):
    found = borrowed(tmp_path, {"PIP_TIMEOUT": "9"}, apt_dump='Acquire::Retries "5";\n')
    assert found.files == {"pip.conf": b"[global]\ntimeout = 9\n", "apt.conf": b'Acquire::Retries "5";\n'}
    assert set(found.variables) == {"PIP_CONFIG_FILE", "APT_CONFIG"}


def test_passwords_are_in_no_text_form_of_what_is_borrowed(tmp_path):
    found = borrowed(tmp_path, {"http_proxy": PROXY, "PIP_INDEX_URL": "https://user:secret@pypi.example/simple"})
    assert b"user:secret@" in found.files["pip.conf"]
    assert found.variables["http_proxy"] == PROXY
    assert "secret" not in f"{found} {found!r}"
    assert repr(found).startswith("Borrowed(files=['pip.conf'], variables=['HTTP_PROXY', 'PIP_CONFIG_FILE',")


def test_proxies_are_set_in_both_spellings():
    variables, warnings = proxy_variables({"HTTPS_PROXY": PROXY, "no_proxy": "localhost,.example"})
    assert variables == {
        "https_proxy": PROXY,
        "HTTPS_PROXY": PROXY,
        "no_proxy": "localhost,.example",
        "NO_PROXY": "localhost,.example",
    }
    assert warnings == ()


def test_the_lower_case_spelling_wins_as_in_curl():
    variables, _ = proxy_variables({"http_proxy": "http://a.example", "HTTP_PROXY": "http://b.example"})
    assert set(variables.values()) == {"http://a.example"}


def test_a_proxy_on_loopback_is_left_out_with_a_word_on_it():
    variables, warnings = proxy_variables({"http_proxy": "http://user:secret@127.0.0.1:3128"})
    assert variables == {}
    assert warnings == (
        "http_proxy leads to this machine's loopback, which a session cannot reach: it is not set there",
    )
    variables, warnings = proxy_variables({"http_proxy": "http://127.0.0.1:3128"}, loopback=True)
    assert variables["HTTP_PROXY"] == "http://127.0.0.1:3128"
    assert warnings == ()


@pytest.mark.parametrize("value", ["", "http://a\nLD_PRELOAD=x", "http://\0"])
def test_a_value_that_is_no_single_line_is_left_out(value):
    assert proxy_variables({"http_proxy": value}) == ({}, ())


def test_nothing_else_of_the_callers_environment_is_passed_on(tmp_path):
    found = borrowed(tmp_path, {"AWS_SECRET_ACCESS_KEY": "x", "SSH_AUTH_SOCK": "/x", "PIP_FIND_LINKS": "/opt/wheels"})
    assert found.variables == {}
    assert found.files == {}
