"""Owns reading recipes: TOML files that say what a base is built from, envkit's own and the administrator's.

The form is described for people in images/README.md.
"""

import os
import re
from collections.abc import Iterable

from envkit.errors import InvalidInput, NotFound
from envkit.model.ids import check_name
from envkit.model.recipe import Recipe, RecipeFile

SYSTEM_DIRECTORY = "/etc/envkit/images"
# In a checkout this is a link to images/ beside the package; an installed package has the files themselves.
BUILTIN_DIRECTORY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "images")
DIRECTORIES = (SYSTEM_DIRECTORY, BUILTIN_DIRECTORY)
"""Where recipes are looked for; of two with one name the first counts."""

VARIANTS = ("essential", "apt", "minbase", "important", "standard")

_KEYS = ("description", "distribution", "suite", "variant", "packages", "files")
_FILE_KEYS = ("content", "mode")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_MAX_BYTES = 4 * 1024 * 1024


def recipe_names(directories: Iterable[str] = DIRECTORIES) -> tuple[str, ...]:
    """Return the names of all recipes, sorted."""
    names: set[str] = set()
    for directory in directories:
        try:
            names.update(name.removesuffix(".toml") for name in os.listdir(directory) if name.endswith(".toml"))
        except OSError:
            continue
    return tuple(sorted(names))


def load_recipe(name: str, directories: Iterable[str] = DIRECTORIES) -> Recipe:
    """Return the recipe of a base.

    :raises InvalidInput: the name breaks the rule of names, or the recipe is wrong: says which file, which key.
    :raises NotFound: there is none.
    """
    check_name(name)
    directories = tuple(directories)
    for directory in directories:
        path = f"{directory}/{name}.toml"
        if os.path.exists(path):
            return read_recipe(path)
    known = ", ".join(recipe_names(directories))
    raise NotFound(
        f"there is no recipe for a base {name!r}",
        resolution=f"use one of {known}" if known else f"write {SYSTEM_DIRECTORY}/{name}.toml",
    )


def read_recipe(path: str) -> Recipe:
    """Return the recipe in a file, whose name less `.toml` is the base's.

    :raises InvalidInput: it cannot be read, a key is missing or unknown, or has an impossible value.
    """
    import tomllib  # late: only building needs it

    try:
        with open(path, "rb") as file:
            document = tomllib.loads(file.read(_MAX_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"cannot read the recipe {path}: {error}") from error
    _refuse_unknown(document, _KEYS, path, "")
    distribution = _text(document, "distribution", path)
    if distribution != "debian":
        raise InvalidInput(
            f"{path}: distribution {distribution!r:.40} cannot be built",
            resolution="use debian, or import a root filesystem with `envkit base import`",
        )
    suite = _text(document, "suite", path)
    if not _SUITE.fullmatch(suite):
        raise InvalidInput(f"{path}: suite {suite!r:.40} is no codename", resolution="use one such as bookworm")
    variant = _text(document, "variant", path, default="minbase")
    if variant not in VARIANTS:
        raise InvalidInput(f"{path}: unknown variant {variant!r:.40}", resolution=f"use one of {', '.join(VARIANTS)}")
    return Recipe(
        name=check_name(os.path.basename(path).removesuffix(".toml")),
        description=_text(document, "description", path),
        distribution=distribution,
        suite=suite,
        variant=variant,
        packages=_packages(document, path),
        files=_files(document, path),
    )


def _packages(document: dict[str, object], path: str) -> tuple[str, ...]:
    packages = document.get("packages", [])
    if not isinstance(packages, list):
        raise InvalidInput(f"{path}: packages must be a list of names")
    for package in packages:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            raise InvalidInput(f"{path}: packages has {package!r:.60}, which is no package's name")
    return tuple(packages)


def _files(document: dict[str, object], path: str) -> tuple[RecipeFile, ...]:
    files = document.get("files", {})
    if not isinstance(files, dict):
        raise InvalidInput(f"{path}: files must be a table of paths")
    return tuple(_file(target, table, path) for target, table in files.items())


def _file(target: str, table: object, path: str) -> RecipeFile:
    if not target.startswith("/") or target != os.path.normpath(target) or target == "/" or not target.isprintable():
        raise InvalidInput(f"{path}: files has {target!r:.80}, which is no absolute path")
    if not isinstance(table, dict):
        raise InvalidInput(f"{path}: the file {target} must be a table with content and mode")
    _refuse_unknown(table, _FILE_KEYS, path, f"files.{target}.")
    mode = table.get("mode", 0o644)
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= 0o777:
        raise InvalidInput(f"{path}: mode of {target} must be between 0o000 and 0o777")
    return RecipeFile(path=target, content=_text(table, "content", path, where=f"files.{target}.").encode(), mode=mode)


def _text(table: dict[str, object], key: str, path: str, *, default: str | None = None, where: str = "") -> str:
    value = table.get(key, default)
    if value is None:
        raise InvalidInput(f"{path}: the key {where}{key} is missing")
    if not isinstance(value, str):
        raise InvalidInput(f"{path}: {where}{key} must be a string")
    return value


def _refuse_unknown(table: dict[str, object], known: tuple[str, ...], path: str, where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(f"{path}: unknown key {where + key!r}", resolution=f"known keys: {', '.join(known)}")
