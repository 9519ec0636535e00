"""Owns the recipe: what a base is built from. `config.recipe` reads recipes, `drivers.bootstrap` follows them."""

from envkit.model.record import Record


class RecipeFile(Record):
    """A file that a recipe adds: absolute path, content, permission bits; owned by root."""

    path: str
    content: bytes
    mode: int = 0o644


class Recipe(Record):
    """A base's name, one line on it, and what it consists of.

    `suite` is the release's codename, as `bookworm`; `variant` the set of packages to start from, in mmdebstrap's
    words; `packages` come on top, with what they depend on.
    """

    name: str
    description: str
    distribution: str
    suite: str
    variant: str = "minbase"
    packages: tuple[str, ...] = ()
    files: tuple[RecipeFile, ...] = ()
