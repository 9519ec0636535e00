"""Owns what a session borrows from its host so that installers reach the network, without its ever being saved.

Files go to a tmpfs inside the container and variables point there: trusted authorities, package indexes, APT's
network settings, proxies. They may hold passwords that the host's administrator put into URLs. Everything is chosen
by allow-lists; the rest of the host's configuration stays on the host.
"""

from collections.abc import Mapping

from envkit.drivers import hostapt, hostcerts, hostpip
from envkit.drivers.urls import is_loopback
from envkit.model.record import Record

DIRECTORY = "/run/envkit"
"""Where the files are inside a container."""

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CA_BUNDLE, _PIP, _APT, _WGET = "ca-certificates.crt", "pip.conf", "apt.conf", "wgetrc"


class Borrowed(Record):
    """Files for `DIRECTORY` by name (mode 0644, directory 0755), variables, and sentences for the user.

    The text form holds names only: files and variables may hold passwords.
    """

    files: Mapping[str, bytes]
    variables: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Borrowed(files={sorted(self.files)}, variables={sorted(self.variables)}, warnings={self.warnings!r})"


def borrow(
    environ: Mapping[str, str], *, home: str, loopback: bool = False, root: str = "", apt_dump: str | None = None
) -> Borrowed:
    """Collect what a session gets; a file that is missing, unreadable or odd counts as one that says nothing.

    :param environ: the environment of whoever opens the session, and `home` their home directory.
    :param loopback: the container shares the host's network, so that servers on loopback can be reached.
    :param root: in front of every path that is read.
    :param apt_dump: what `apt-config dump` printed; None asks it.
    """
    dump = hostapt.dump(environ) if apt_dump is None else apt_dump
    pip_settings = hostpip.read_settings(environ, home=home, root=root)
    more = [path for path in (pip_settings.get("cert"), hostapt.ca_file(dump)) if path]
    bundle = hostcerts.bundle(environ, more=more, root=root)
    ca_path = f"{DIRECTORY}/{_CA_BUNDLE}" if bundle is not None else None

    files: dict[str, bytes] = {}
    variables, warnings = proxy_variables(environ, loopback=loopback)
    if bundle is not None and ca_path is not None:
        files[_CA_BUNDLE] = bundle
        variables |= dict.fromkeys(hostcerts.VARIABLES, ca_path)
        # Debian's wget knows no variable for authorities, only one for its whole configuration.
        files[_WGET] = f"ca_certificate = {ca_path}\n".encode()
        variables["WGETRC"] = f"{DIRECTORY}/{_WGET}"
    pip_conf = hostpip.render(hostpip.select(pip_settings, loopback=loopback), cert=ca_path)
    if pip_conf is not None:
        files[_PIP] = pip_conf
        variables["PIP_CONFIG_FILE"] = f"{DIRECTORY}/{_PIP}"
    apt_conf = hostapt.render(hostapt.acquire_settings(dump, loopback=loopback), ca=ca_path)
    if apt_conf is not None:
        files[_APT] = apt_conf
        variables["APT_CONFIG"] = f"{DIRECTORY}/{_APT}"
    return Borrowed(files=files, variables=variables, warnings=warnings)


def proxy_variables(environ: Mapping[str, str], *, loopback: bool = False) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the proxy variables in both spellings, as programs do not agree, and sentences on those left out."""
    variables: dict[str, str] = {}
    warnings: list[str] = []
    for name in _PROXIES:
        value = environ.get(name) or environ.get(name.upper()) or ""
        if not value or not value.isprintable():
            continue
        if name != "no_proxy" and not loopback and is_loopback(value):
            warnings.append(
                f"{name} leads to this machine's loopback, which a session cannot reach: it is not set there"
            )
            continue
        variables[name] = variables[name.upper()] = value
    return variables, tuple(warnings)
