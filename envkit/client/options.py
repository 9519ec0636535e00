"""Owns how the API's keyword options become words of the command line; they are those of `envkit submit`."""

from collections.abc import Iterable, Mapping
from typing import Any

from envkit.client.future import Future

Words = list[str]

_FLAGS = {
    "env": "-e",
    "cores": "-c",
    "memory": "--memory",
    "gpus": "--gpus",
    "time": "--time",
    "label": "-l",
    "partition": "-p",
    "nodes": "-N",
    "net": "--net",
    "workdir": "-w",
    "priority": "--priority",
    "depends_on": "--depends-on",
}
_OTHERS = ("volumes", "variables", "python")
OPTIONS = (*_FLAGS, *_OTHERS)


class Options:
    """What a job asks for, by name: `env`, `cores`, `memory`, `volumes` and so on; None where nothing is asked."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Take options by name.

        :raises TypeError: there is no such option, or the environment is missing.
        """
        unknown = [name for name in given if name not in OPTIONS]
        if unknown:
            raise TypeError(f"there is no option {unknown[0]!r}: they are {', '.join(OPTIONS)}")
        if not given.get("env"):
            raise TypeError('an environment is missing: name it, as in _env="sci" or Executor("sci")')
        self._given = {name: value for name, value in given.items() if value is not None}

    @property
    def python(self) -> str | None:
        """The Python of the environment that is to run the call, None for its usual one."""
        return None if "python" not in self._given else str(self._given["python"])

    def words(self) -> Words:
        """Return the words for `envkit submit`."""
        words = []
        for name, flag in _FLAGS.items():
            if name in self._given:
                words += [flag, _text(self._given[name])]
        volumes = self._given.get("volumes", ())
        for volume in [volumes] if isinstance(volumes, str) else volumes:
            words += ["-v", str(volume)]
        for name, value in dict(self._given.get("variables", {})).items():
            words += ["--env", f"{name}={value}"]
        return words


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Return the keyword arguments of a function, and the options among them: those that begin with `_`.

    :raises TypeError: an option is unknown.
    """
    own = {name: value for name, value in given.items() if not name.startswith("_")}
    return own, Options({name[1:]: value for name, value in given.items() if name.startswith("_")})


def _text(value: Any) -> str:
    """Return the text of an option; several jobs with commas, and for a future its job."""
    if not isinstance(value, str) and isinstance(value, Iterable):
        return ",".join(dict.fromkeys(map(_text, value)))
    if not isinstance(value, Future):
        return str(value)
    if value.id is None:
        raise ValueError("a future that is not submitted yet cannot be depended on")
    return value.id.partition("_")[0]
