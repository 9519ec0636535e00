"""Owns what a command tells the image server of its store: how to open it as the command does, keys included."""

from collections.abc import Mapping

from envkit.store.settings import StoreSettings, is_bucket

Given = Mapping[str, str]
"""What a client says: `url`, and for a bucket `endpoint`, `region`, and the variables of its tools."""

PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")
"""How the variables of clouds' tools begin."""


def describe(url: str, settings: StoreSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the image server has to know to open a store as this process does; may hold keys."""
    if not is_bucket(url):
        return {"url": url}
    given = {name: value for name, value in environment.items() if name.startswith(PREFIXES)}
    given |= {"url": url, "endpoint": settings.endpoint, "region": settings.region}
    if url.startswith("s3://"):
        from envkit.store.credentials import find_access

        # Resolved here, with the caller's rights: the server is for everybody and reads nobody's files.
        access = find_access(settings, environment)
        given = {"url": url, "endpoint": access.endpoint, "region": access.region}
        if (keys := access.current()) is not None:
            given["AWS_ACCESS_KEY_ID"] = str(keys["access_key_id"])
            given["AWS_SECRET_ACCESS_KEY"] = str(keys["secret_access_key"])
            if keys.get("token"):
                given["AWS_SESSION_TOKEN"] = str(keys["token"])
    return given
