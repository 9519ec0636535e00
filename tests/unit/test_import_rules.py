"""The architecture, executed: who may import whom, what a warm run may import, how large a module may grow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "envkit"

LAYERS = {
    "errors": set(),
    "model": {"errors"},
    "config": {"drivers", "model", "errors"},
    "drivers": {"model", "errors"},
    "overlay": {"drivers", "model", "errors"},
    "sanitize": {"drivers", "model", "errors"},
    "content": {"drivers", "model", "errors"},
    "store": {"drivers", "model", "errors"},
    "image": {"drivers", "model", "errors"},
    "node": {"drivers", "model", "errors"},
    "cache": {"drivers", "model", "errors"},
    "queues": {"drivers", "model", "errors"},
}
LAYERS["ondemand"] = {*LAYERS}
LAYERS["services"] = {*LAYERS}
LAYERS["client"] = {"model", "errors"}
LAYERS["cli"] = {"services", "config", "model", "errors"}

HOMES = {
    "click": ("cli",),
    "rich": ("cli",),
    "pyroute2": ("drivers/network.py", "drivers/routing.py"),
    "subprocess": ("drivers/process.py", "client"),
    "cloudpickle": ("client",),
    "ctypes": ("drivers",),
    "sqlite3": ("store", "queues"),
    "obstore": ("store/bucket.py", "store/connect.py", "store/credentials.py"),
    "boto3": ("store/credentials.py",),
    "pyfastcdc": ("content",),
    "zstandard": ("content",),
    "iced_x86": ("content/machinecode.py",),
}

# What `envkit run` of a cached environment imports, besides envkit: each of the others costs 4 to 60 ms.
TOO_SLOW_FOR_RUN = {
    "argparse", "asyncio", "click", "dataclasses", "hashlib", "inspect", "logging", "msgspec", "pathlib", "pyroute2",
    "random", "rich", "secrets", "shlex", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "threading",
    "tomllib", "typing", "zstandard",
}  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_violations(relative: str, names: set[str]) -> list[str]:
    own = relative.split("/")[0].removesuffix(".py")
    if own in ("__main__", "__init__"):
        return []
    allowed = LAYERS[own] | {own}
    used = {name.split(".")[1] for name in names if name.startswith("envkit.")}
    return sorted(layer for layer in used if layer in LAYERS and layer not in allowed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    assert layer_violations(relative, imports_of(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_homes(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    for name in imports_of(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or relative.startswith(homes), f"{relative} imports {name}"


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Return modules that import one another in a circle, in its order; none if there is no circle."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for name in sorted(imported[path[-1]] & imported.keys() - done - {path[-1]}):
            found = path[path.index(name) :] if name in path else follow([*path, name])
            if found:
                return found
        done.add(path[-1])
        return []

    return next(filter(None, (follow([name]) for name in sorted(imported))), [])


def test_modules_do_not_import_one_another_in_a_circle_not_even_late() -> None:
    names = {".".join(("envkit", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}
    assert circle({name.removesuffix(".__init__"): imports_of(path) for name, path in names.items()}) == []


def test_a_circle_is_noticed() -> None:
    assert circle({"a": {"b", "os"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_rule_notices_a_violation() -> None:
    assert layer_violations("store/base.py", {"envkit.content.pack"}) == ["content"]
    assert layer_violations("drivers/lxc.py", {"envkit.services.run", "envkit.model.ids"}) == ["services"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_one_concept_long_and_say_which(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it owns"


def test_a_warm_run_imports_nothing_slow() -> None:
    """Everything that a run of a cached environment imports, short of mounting."""
    code = (
        "import sys; import envkit.__main__, envkit.cli.argv, envkit.cli.boundary, envkit.cli.job, envkit.config.load,"
        " envkit.services.run, envkit.services.layers, envkit.store.open; print('\\n'.join(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert TOO_SLOW_FOR_RUN & set(result.stdout.split()) == set()


def test_a_task_imports_nothing_slow() -> None:
    """Everything that a task of a job imports, on a node with a settings file."""
    code = (
        "import sys; import envkit.__main__, envkit.cli.argv, envkit.cli.called, envkit.config.file,"
        " envkit.services.jobs.tasks, envkit.services.layers, envkit.services.sweeping, envkit.store.open;"
        " print('\\n'.join(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    slow = (TOO_SLOW_FOR_RUN | {"traceback"}) - {"hashlib", "threading"}  # of which it makes use
    assert slow & set(result.stdout.split()) == set()
