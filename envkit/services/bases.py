"""Owns the use cases of bases: build from a recipe, import a directory or an archive, list, delete."""

import os
import platform
from collections.abc import Callable

from envkit.config import recipe as recipes
from envkit.drivers import bootstrap, process
from envkit.drivers.files import make_directory, remove_tree
from envkit.errors import InvalidInput
from envkit.model.ids import BASE_OWNER, EnvName, EnvRef
from envkit.model.tree import Entry, Kind
from envkit.model.version import Newest, Version, VersionKind
from envkit.overlay.scan import scan_directory
from envkit.services import environments
from envkit.services.context import Context, counting, require_root
from envkit.services.environments import Doomed, now
from envkit.services.publishing import writing
from envkit.services.storing import store_layer
from envkit.store import versions


def recipe_names() -> list[str]:
    """Return the recipes that bases can be built from."""
    return list(recipes.recipe_names())


def build(context: Context, recipe: str, *, name: str | None, say: Callable[[str], None]) -> Version:
    """Build a base from a recipe and store it as the next version of that name."""
    require_root("building a base")
    plan = recipes.load_recipe(recipe)
    env = EnvName(owner=BASE_OWNER, name=name or plan.name)
    work = _workspace(context)
    try:
        say(f"building {env.name}: {plan.description}")
        with context.progress.step("installing packages", unit="steps") as step:
            bootstrap.build_root(plan, f"{work}/root", progress=lambda _text: step.advance(1))
        return _store_directory(context, env, f"{work}/root", message=plan.description)
    finally:
        remove_tree(work)


def import_base(context: Context, name: str, source: str, *, message: str) -> Version:
    """Store a root file system, a directory or a tar archive of one, as the next version of a base.

    :raises InvalidInput: the source holds no root file system.
    """
    require_root("importing a base")
    env = EnvName(owner=BASE_OWNER, name=name)
    if os.path.isdir(source):
        _check_root(source)
        return _store_directory(context, env, os.path.abspath(source), message=message)
    work = _workspace(context)
    try:
        root = f"{work}/root"
        os.mkdir(root)
        # GNU tar refuses absolute names and `..`, and makes links last; the directory is root's alone.
        options = ["--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*", "--acls"]
        with context.progress.step("unpacking", unit="steps"):
            process.run(["tar", "-x", "-f", os.path.abspath(source), "-C", root, *options])
        _check_root(root)
        return _store_directory(context, env, root, message=message)
    finally:
        remove_tree(work)


def newest(context: Context) -> list[Newest]:
    """Return the newest version of every base."""
    return environments.newest(context, bases=True)


def to_delete(context: Context, text: str) -> Doomed:
    """Return what deleting a base, or one version of it, takes."""
    return environments.doomed(context, EnvRef.parse(text, owner=BASE_OWNER))


def _workspace(context: Context) -> str:
    """Return a new directory for a root file system in the making; those of killed builds are removed first."""
    parent = f"{context.paths.root}/tmp"
    make_directory(parent)
    for name in os.listdir(parent):
        pid, _, started = name.partition("-")
        if not (pid.isdigit() and started.isdigit() and process.is_alive(int(pid), int(started))):
            remove_tree(f"{parent}/{name}")
    work = f"{parent}/{os.getpid()}-{process.start_time(os.getpid())}"
    make_directory(work)
    return work


def _check_root(directory: str) -> None:
    if not os.path.lexists(f"{directory}/usr") and not os.path.lexists(f"{directory}/bin"):
        raise InvalidInput(f"{directory} holds no root file system: it has neither /usr nor /bin")


def _store_directory(context: Context, env: EnvName, directory: str, *, message: str) -> Version:
    with counting(context, "scanning") as advance:
        scan = scan_directory(directory, advance)
    with scan, writing(context) as writer:
        expected = versions.next_number(context.store, env)
        layer = store_layer(context, writer, _as_base(scan.entries), scan.open)
        draft = Version(
            env=env,
            number=expected,
            kind=VersionKind.BASE,
            layers=(layer,),
            message=message,
            description=message,
            author=context.owner,
            created=now(),
            arch=platform.machine(),
        )
        return writer.publish(draft, expected=expected)


def _as_base(entries: list[Entry]) -> list[Entry]:
    """Leave out what lies in directories that every container gets anew; the directories stay."""
    volatile = (b"proc/", b"sys/", b"dev/", b"run/")
    return [entry for entry in entries if entry.kind is not Kind.WHITEOUT and not entry.path.startswith(volatile)]
