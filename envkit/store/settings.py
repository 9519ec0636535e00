"""Owns what may be said about a store in a bucket beside its URL; the rest is left to the variables of its tools."""

from collections.abc import Mapping

from envkit.drivers.caller import Caller
from envkit.model.record import Record

BUCKETS = ("s3", "gs", "az")
"""Kinds of stores that are buckets on a server, as the schemes of their URLs."""

_KEY_VARIABLES = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"),
        *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE"),
        "AWS_SHARED_CREDENTIALS_FILE",
    ),
    "gs": (
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    "az": (
        *("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_KEY", "AZURE_CLIENT_ID"),
        *("AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"),
    ),
}


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


def key_variables(url: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say how a bucket is reached, and with which keys; none for a directory."""
    names = _KEY_VARIABLES.get(url.partition("://")[0], ()) if is_bucket(url) else ()
    return {name: environment[name] for name in names if environment.get(name)}


def is_bucket(url: str) -> bool:
    """Tell whether a URL names a bucket on a server."""
    return url.partition("://")[0] in BUCKETS and "://" in url
