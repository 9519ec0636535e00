"""Owns what a bucket's URL means, and which client of obstore, with whose keys, it becomes.

Google's and Azure's keys are found by obstore, in the variables that their tools use. TLS is left out only where the
endpoint itself says http.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from envkit.errors import InvalidInput
from envkit.store.base import is_key
from envkit.store.bucket import BucketStore, Connect, Patience
from envkit.store.credentials import find_access
from envkit.store.errors import UnusableCredentials
from envkit.store.faults import Place
from envkit.store.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, S3Credential

    from envkit.store.credentials import Provider

_URL = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(.*))?")
_NO_RETRIES: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
_GOOGLE_FILE = ".config/gcloud/application_default_credentials.json"
_GOOGLE_VARIABLES = (
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


def open_bucket(
    url: str,
    settings: StoreSettings,
    *,
    environment: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> BucketStore:
    """Return the store at a URL; nothing is asked of its server yet.

    :raises InvalidInput: the URL or the endpoint cannot be one.
    :raises UnusableCredentials: the keys cannot be found or used.
    """
    environment = os.environ if environment is None else environment
    scheme, bucket, path = _parts(url)
    prefix = f"{path}/" if path else ""
    shown = f"{scheme}://{bucket}/{path}".rstrip("/")
    if scheme == "s3":
        place, connect = _s3(shown, bucket, settings, environment)
    elif scheme == "gs":
        place, connect = _google(shown, bucket, settings, environment)
    else:
        place, connect = _azure(shown, bucket, settings, environment)
    return BucketStore(place, connect, prefix, patience)


def _parts(url: str) -> tuple[str, str, str]:
    if "@" in url:  # and without the URL, which may have a secret in it
        raise InvalidInput("the URL of a store has no user name or key in it", resolution="see docs/operating.md")
    found = _URL.fullmatch(url)
    path = (found[3] or "").strip("/") if found else ""
    if found is None or (path and not is_key(path)):
        raise InvalidInput(
            f"invalid store URL {url!r:.200}",
            resolution="write it as s3://BUCKET or s3://BUCKET/PREFIX, of letters, digits and . _ -",
        )
    return found[1], found[2], path


def _s3(url: str, bucket: str, settings: StoreSettings, environment: Mapping[str, str]) -> tuple[Place, Connect]:
    access = find_access(settings, environment)
    endpoint = _checked_endpoint(access.endpoint)
    server = endpoint or f"https://s3.{access.region}.amazonaws.com"

    def connect(options: "ClientConfig") -> "ObjectStore":
        from obstore.store import S3Store

        config: dict[str, Any] = {"region": access.region, "endpoint": server, "disable_bulk_delete": True}
        if access.credential is not None:
            config |= _credential(access.credential)
        return S3Store(bucket, client_options=options, retry_config=_NO_RETRIES, **config)

    return Place(url=url, bucket=bucket, server=server, keys=access.keys), connect


def _credential(credential: "S3Credential | Provider") -> dict[str, Any]:
    """Return a credential as obstore's settings; a function only where it has to be one: asking it costs imports."""
    if callable(credential):
        return {"credential_provider": credential}
    if credential.get("token") is None and os.environ.get("AWS_SESSION_TOKEN"):
        return {"credential_provider": lambda: credential}  # else obstore would add that token, of another key
    keys = {"access_key_id": credential["access_key_id"], "secret_access_key": credential["secret_access_key"]}
    return keys | ({"session_token": credential["token"]} if credential.get("token") else {})


def _google(url: str, bucket: str, settings: StoreSettings, environment: Mapping[str, str]) -> tuple[Place, Connect]:
    config: dict[str, Any] = {}
    if settings.endpoint:
        config["base_url"] = _checked_endpoint(settings.endpoint)
    home = settings.caller.home if settings.caller is not None else ""
    own = f"{home}/{_GOOGLE_FILE}"
    if home and not any(environment.get(name) for name in _GOOGLE_VARIABLES) and os.path.isfile(own):
        config["application_credentials"] = own

    def connect(options: "ClientConfig") -> "ObjectStore":
        from obstore.store import GCSStore

        return GCSStore(bucket, client_options=options, retry_config=_NO_RETRIES, **config)

    server = settings.endpoint or "https://storage.googleapis.com"
    return Place(url=url, bucket=bucket, server=server, keys="the key of Google Cloud"), connect


def _azure(url: str, container: str, settings: StoreSettings, environment: Mapping[str, str]) -> tuple[Place, Connect]:
    account = environment.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    config: dict[str, Any] = {"account_name": account} if account else {}
    if settings.endpoint:
        config["endpoint"] = _checked_endpoint(settings.endpoint)
    if not account and "AZURE_STORAGE_USE_EMULATOR" not in environment:
        raise UnusableCredentials(
            f"cannot open {url}: it does not say whose container that is",
            resolution="set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or another of Azure's variables",
        )

    def connect(options: "ClientConfig") -> "ObjectStore":
        from obstore.store import AzureStore

        return AzureStore(container, client_options=options, retry_config=_NO_RETRIES, **config)

    server = settings.endpoint or f"https://{account}.blob.core.windows.net"
    return Place(url=url, bucket=container, server=server, keys=f"the key of the account {account}"), connect


def _checked_endpoint(endpoint: str) -> str:
    """Return an endpoint without a slash at its end; obstore ends the process on some that are none."""
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid, parts = False, urlsplit("")
    if parts.username or parts.password or "@" in endpoint:
        raise InvalidInput("the endpoint of a store has no user name or key in it", resolution="see docs/operating.md")
    plain = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    if not valid or not plain or parts.query or parts.fragment:
        raise InvalidInput(
            f"invalid endpoint {endpoint!r:.200}", resolution="write it as https://HOST or http://HOST:PORT"
        )
    return endpoint.rstrip("/")
