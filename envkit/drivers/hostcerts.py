"""Owns which certificate authorities a session borrows from its host: those that the host's own programs trust.

Nothing is borrowed where the host has no authorities of its own (as for a proxy that inspects TLS): then the
environment's are as good.
"""

import os
import re
from collections.abc import Iterable, Mapping

VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
    "JULIA_SSL_CA_ROOTS_PATH",
)
"""Variables by which programs find a file of authorities."""

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_LOCAL = (
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/pki/trust/anchors",
    "/etc/ca-certificates/trust-source/anchors",
)
_MAX_BYTES = 8 * 1024 * 1024
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def bundle(environ: Mapping[str, str], *, more: Iterable[str] = (), root: str = "") -> bytes | None:
    """Return the PEM certificates that the host's programs trust, each once; None where the host has none of its own.

    :param more: further files that the host's configuration names.
    :param root: in front of every path that is read.
    """
    named = [environ[name] for name in VARIABLES if environ.get(name, "").startswith("/")]
    named += [path for path in more if path.startswith("/")]
    if not named and not any(_has_files(root + path) for path in _LOCAL):
        return None
    system = next((path for path in _BUNDLES if os.path.isfile(root + path)), None)
    paths = dict.fromkeys([*([system] if system else []), *named])
    found = dict.fromkeys(block for path in paths for block in certificates(_read(root + path)))
    return b"".join(block + b"\n" for block in found) or None


def certificates(data: bytes) -> list[bytes]:
    """Return the PEM certificates in a file and nothing else of it: a private key beside them stays on the host."""
    return [block.replace(b"\r", b"") for block in _CERTIFICATE.findall(data)]


def _has_files(directory: str) -> bool:
    try:
        return any(name.endswith((".crt", ".pem")) for name in os.listdir(directory))
    except OSError:
        return False


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""
