from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers.hostcerts import bundle, certificates


def pem(content, kind="CERTIFICATE"):
    return f"-----BEGIN {kind}-----\n{content}\n-----END {kind}-----"


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_host_without_authorities_of_its_own_lends_none(tmp_path):
    write(tmp_path, "etc/ssl/certs/ca-certificates.crt", pem("AAAA"))
    (tmp_path / "usr/local/share/ca-certificates").mkdir(parents=True)
    assert bundle({}, root=str(tmp_path)) is None


def test_a_local_authority_makes_the_hosts_bundle_count(tmp_path):
    write(tmp_path, "etc/ssl/certs/ca-certificates.crt", pem("AAAA") + "\n" + pem("BBBB") + "\n")
    write(tmp_path, "usr/local/share/ca-certificates/proxy.crt", pem("BBBB"))
    assert bundle({}, root=str(tmp_path)) == f"{pem('AAAA')}\n{pem('BBBB')}\n".encode()


def test_files_that_variables_and_configurations_name_are_added_once_each(tmp_path):
    write(tmp_path, "etc/ssl/certs/ca-certificates.crt", pem("AAAA"))
    write(tmp_path, "own.pem", pem("AAAA") + pem("CCCC"))
    write(tmp_path, "pip.pem", pem("DDDD"))
    found = bundle({"REQUESTS_CA_BUNDLE": "/own.pem"}, more=["/pip.pem", "relative.pem"], root=str(tmp_path))
    assert found == f"{pem('AAAA')}\n{pem('CCCC')}\n{pem('DDDD')}\n".encode()


def test_a_private_key_beside_a_certificate_stays_on_the_host(tmp_path):
    write(tmp_path, "own.pem", pem("KKKK", "PRIVATE KEY") + "\n# comment\n" + pem("AAAA"))
    assert bundle({"SSL_CERT_FILE": "/own.pem"}, root=str(tmp_path)) == f"{pem('AAAA')}\n".encode()


def test_a_variable_that_leads_nowhere_lends_nothing(tmp_path):
    (tmp_path / "certs").mkdir()
    assert bundle({"SSL_CERT_FILE": "/missing.pem", "CURL_CA_BUNDLE": "/certs"}, root=str(tmp_path)) is None


def test_line_ends_of_other_systems_are_put_right():
    assert certificates(pem("AAAA\nBBBB").replace("\n", "\r\n").encode()) == [pem("AAAA\nBBBB").encode()]


@given(st.binary(max_size=2000))
def test_any_bytes_give_whole_certificates_or_none(data):
    content = data + pem("AAAA").encode() + data
    for block in certificates(content):
        assert block.startswith(b"-----BEGIN CERTIFICATE-----")
        assert block.endswith(b"-----END CERTIFICATE-----")
        assert b"PRIVATE" not in block
