"""Owns what may be said about a store in a bucket beside its URL; the rest is left to the variables of its tools."""

from envkit.drivers.caller import Caller
from envkit.model.record import Record

BUCKETS = ("s3", "gs", "az")
"""Kinds of stores that are buckets on a server, as the schemes of their URLs."""


class StoreSettings(Record):
    """`endpoint`, `region` and `profile` (of AWS) win over variables and files; "" leaves them to those.

    `caller` is whose files are read, None for nobody's. Copies of version records are kept below `copies`, "" keeps
    none.
    """

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    caller: Caller | None = None
    copies: str = ""


def is_bucket(url: str) -> bool:
    """Tell whether a URL names a bucket on a server."""
    return url.partition("://")[0] in BUCKETS and "://" in url
