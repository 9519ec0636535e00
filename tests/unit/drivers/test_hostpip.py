import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers import hostpip

INDEX = "https://user:secret@pypi.example/simple"


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def settings(root, environ=None):
    return hostpip.read_settings(environ or {}, home="/root", root=str(root))


def test_the_users_file_wins_over_the_systems_and_variables_over_both(tmp_path):
    write(tmp_path, "etc/pip.conf", "[global]\nindex-url = https://system.example/simple\ntimeout = 5\nretries = 1\n")
    write(tmp_path, "root/.pip/pip.conf", "[global]\nindex-url = https://old.example/simple\n")
    write(tmp_path, "root/.config/pip/pip.conf", "[global]\nindex-url = https://user.example/simple\ntimeout = 6\n")
    found = settings(tmp_path, {"PIP_TIMEOUT": "7"})
    assert found["index-url"] == "https://user.example/simple"
    assert found["timeout"] == "7"
    assert found["retries"] == "1"


def test_a_configuration_file_of_a_variable_counts_least_and_hides_the_users(tmp_path):
    write(tmp_path, "etc/pip.conf", "[global]\ntimeout = 5\n")
    write(tmp_path, "site.conf", "[global]\ntimeout = 4\nretries = 9\n")
    write(tmp_path, "root/.config/pip/pip.conf", "[global]\ntimeout = 6\n")
    found = settings(tmp_path, {"PIP_CONFIG_FILE": "/site.conf"})
    assert (found["timeout"], found["retries"]) == ("5", "9")
    assert "timeout" not in settings(tmp_path, {"PIP_CONFIG_FILE": "/dev/null"})


def test_the_section_for_install_wins_over_the_global_one():
    text = (
        "[install]\nindex_url = https://install.example/simple\n[global]\nindex-url = https://global.example/simple\n"
    )
    assert hostpip.parse(text) == {"index-url": "https://install.example/simple"}


def test_the_long_names_of_variables_are_known(tmp_path):
    assert settings(tmp_path, {"PIP_DEFAULT_TIMEOUT": "180", "PIP_EXTRA_INDEX_URL": INDEX}) == {
        "timeout": "180",
        "extra-index-url": INDEX,
    }


def test_only_what_a_container_can_use_is_selected():
    found = hostpip.select(
        {
            "index-url": INDEX,
            "extra-index-url": "file:///opt/simple https://b.example/simple\n http://localhost:8080/simple",
            "trusted-host": "b.example localhost",
            "proxy": "127.0.0.1:3128",
            "timeout": "180",
            "retries": "many",
            "find-links": "/opt/wheels",
            "cert": "/etc/ssl/own.pem",
            "client-cert": "/root/key.pem",
            "no-index": "true",
            "target": "/opt",
        }
    )
    assert found == {
        "index-url": (INDEX,),
        "extra-index-url": ("https://b.example/simple",),
        "trusted-host": ("b.example",),
        "timeout": ("180",),
    }


def test_servers_on_loopback_stay_where_the_container_shares_the_hosts_network():
    found = hostpip.select({"index-url": "http://localhost:3141/simple", "proxy": "127.0.0.1:3128"}, loopback=True)
    assert found == {"index-url": ("http://localhost:3141/simple",), "proxy": ("127.0.0.1:3128",)}


def test_the_file_for_the_container_has_one_section():
    chosen = {"extra-index-url": ("https://a.example", "https://b.example"), "timeout": ("5",)}
    assert hostpip.render(chosen, cert="/run/envkit/ca-certificates.crt") == (
        b"[global]\nextra-index-url = https://a.example\n    https://b.example\ntimeout = 5\n"
        b"cert = /run/envkit/ca-certificates.crt\n"
    )


def test_no_settings_need_no_file():
    assert hostpip.render({}) is None


def test_what_is_rendered_is_read_back_the_same():
    chosen = hostpip.select({"index-url": INDEX, "extra-index-url": "https://a.example https://b.example"})
    assert hostpip.select(hostpip.parse(hostpip.render(chosen).decode())) == chosen


@pytest.mark.parametrize(
    "text", ["index-url = x", "[global", "[global]\n  =\n", "[global]\nindex-url\n", "\0", "[DEFAULT]\na = b\n"]
)
def test_what_pip_could_not_read_gives_no_settings(text):
    assert "index-url" not in hostpip.parse(text)


@given(st.text(), st.text())
def test_any_file_gives_only_plain_values_of_known_options(text, value):
    found = hostpip.select(hostpip.parse(f"[global]\nindex-url = {value}\n{text}"))
    assert set(found) <= set(hostpip._NAMES)
    for values in found.values():
        assert all(item.isprintable() and " " not in item for item in values)


def test_a_directory_or_a_device_in_place_of_a_file_is_passed_over(tmp_path):
    (tmp_path / "etc/pip.conf").mkdir(parents=True)
    assert settings(tmp_path) == {}
