"""Owns new versions that are made of layers that others have: clone and rollback. No data moves."""

import os

from envkit.errors import Conflict, InvalidInput
from envkit.model.ids import BASE_OWNER, EnvName
from envkit.model.version import Version, VersionKind
from envkit.services.context import Context
from envkit.services.environments import now
from envkit.services.publishing import writing
from envkit.store import versions


def clone(context: Context, text: str, name: str, *, description: str = "") -> Version:
    """Make an environment whose first version has the layers of another environment's, or of a base's.

    :raises Conflict: there is an environment of that name.
    """
    env = new_name(context, name)
    if env.is_base:
        raise InvalidInput(f"the owner {BASE_OWNER!r} is for bases", resolution="give a name without an owner")
    ref = context.ref(text)
    with writing(context) as writer:
        expected = versions.next_number(context.store, env)
        source = versions.resolve(context.store, ref)
        if versions.latest(context.store, env) is not None:
            raise Conflict(f"the environment {env} exists", resolution="choose another name")
        draft = source.replace(
            env=env,
            number=expected,
            kind=VersionKind.ENVIRONMENT,
            base=str(source) if source.kind is VersionKind.BASE else source.base,
            parent=str(source),
            origin=str(source),
            message=f"clone of {source}",
            description=description or versions.read_history(context.store, source.env).description,
            author=context.owner,
            created=now(),
        )
        return writer.publish(draft, expected=expected)


def rollback(context: Context, text: str, *, message: str = "") -> Version:
    """Make a new version with the layers of an earlier one; the versions between them stay.

    :raises Conflict: that is what the latest version is already, or somebody saved meanwhile.
    """
    ref = context.ref(text)
    if ref.is_whole:
        raise InvalidInput(f"{text!r} does not say where to go back to", resolution=f"as in {ref.env.name}@1")
    with writing(context) as writer:
        expected = versions.next_number(context.store, ref.env)
        target = versions.resolve(context.store, ref)
        latest = versions.latest(context.store, ref.env)
        if latest is not None and latest.layers == target.layers:
            same = "is the latest version" if latest == target else f"is what the latest version, {latest}, is"
            raise Conflict(f"{target} {same} already: there is nothing to roll back")
        draft = target.replace(
            number=expected,
            parent=str(target),
            origin=None,
            message=message or f"rollback to @{target.number}",
            description="",
            author=context.owner,
            created=now(),
        )
        return writer.publish(draft, expected=expected)


def new_name(context: Context, text: str) -> EnvName:
    """Return the name of an environment that is to be made.

    :raises InvalidInput: it names a version.
    """
    ref = context.ref(text)
    if not ref.is_whole:
        raise InvalidInput(f"invalid name {text!r}", resolution="give a name without a version")
    return ref.env


def open_session_note(context: Context, env: EnvName) -> str | None:
    """Return a warning where a session of this machine builds on what is no longer the latest version."""
    if not os.path.isdir(context.paths.session(env)):
        return None
    return f"the open session on {env} builds on an earlier version: it cannot be saved under this name any more"
