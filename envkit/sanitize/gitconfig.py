"""Owns how credentials are taken out of a git configuration without breaking the rest of it."""

import re

# The schemes' length is bounded so that a long line without one costs linear time.
_USERINFO = re.compile(rb'(?i)([a-z][a-z0-9+.-]{0,30}://)([^\s/?#"]*)@')
_TOKEN_SCHEMES = (b"http://", b"https://", b"ftp://", b"ftps://")
# A value goes on over line ends that a backslash precedes. A key may follow its section's header on the same line.
_SECRET_KEY = re.compile(
    rb"(?im)^[ \t]*(?:(\[[^\n]*\])[ \t]*)?(?:extraheader|smtppass)[ \t]*=(?:[^\\\n]|\\\r?\n|\\[^\n])*\\?(?:\n|\Z)"
)


def without_credentials(config: bytes) -> bytes:
    """Return a git configuration without passwords and tokens in URLs and without authorization headers.

    `https://TOKEN@host/` and `https://user:password@host/` lose all before the host, because a token may stand in the
    place of the user; other schemes keep the user, who is part of the address in `ssh://git@host/`.
    """
    return _USERINFO.sub(_address, _SECRET_KEY.sub(_header, config))


def _address(match: re.Match[bytes]) -> bytes:
    scheme, userinfo = match.groups()
    user, colon, _password = userinfo.partition(b":")
    if scheme.lower().endswith(_TOKEN_SCHEMES):
        return bytes(scheme)
    return bytes(scheme + user + b"@") if colon else match.group()


def _header(match: re.Match[bytes]) -> bytes:
    section = match.group(1)
    return section + b"\n" if section else b""
