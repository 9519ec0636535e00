"""Owns the little that envkit reads in addresses of proxies, package indexes and mirrors."""


def is_loopback(url: str) -> bool:
    """Tell whether a URL, or a proxy's `host:port`, leads to the machine itself; one that cannot be read does not."""
    host = _host(url)
    return host == "localhost" or host.endswith(".localhost") or host.startswith("127.") or host in ("::1", "0.0.0.0")


def is_plain(value: str) -> bool:
    """Tell whether a value can stand in a configuration file or variable as it is, without any quoting."""
    return 0 < len(value) <= 2048 and value.isascii() and value.isprintable() and not set(value) & set(" \"'\\;{}#")


def is_web(url: str) -> bool:
    """Tell whether a URL is http or https and names a host."""
    return url.lower().startswith(("http://", "https://")) and bool(_host(url))


def without_credentials(url: str) -> str:
    """Return a URL without the `user:password@` that it may have."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def _host(url: str) -> str:
    from urllib.parse import urlsplit  # late: 10 ms

    try:
        return (urlsplit(url if "://" in url else f"http://{url}").hostname or "").lower()
    except ValueError:
        return ""
