"""Owns the list of what a scan left out or changed, kept short however often the same thing happens."""

from bisect import insort

from envkit.model.tree import display_path
from envkit.model.version import Finding

SHOWN = 10
_GROUPS = 200


class Findings:
    """Collects findings; of those with equal rule and action the first `SHOWN` by path are kept, the others counted."""

    def __init__(self) -> None:
        self._paths: dict[tuple[str, str], list[bytes]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, rule: str, path: bytes, action: str) -> None:
        """Add one."""
        group = (rule, action)
        if group not in self._counts and len(self._counts) >= _GROUPS:
            group = (rule, "more of other kinds")
        self._counts[group] = self._counts.get(group, 0) + 1
        paths = self._paths.setdefault(group, [])
        # The first by name, not the first found: directories list their entries in another order on each machine.
        if len(paths) < SHOWN or path < paths[-1]:
            insort(paths, path)
            del paths[SHOWN:]

    def summary(self) -> list[Finding]:
        """Return them by rule and action; the last path that is shown of a group stands for the rest too."""
        result = []
        for group in sorted(self._counts):
            rule, action = group
            paths = self._paths[group]
            rest = self._counts[group] - len(paths)
            actions = [action] * len(paths)
            if rest:
                actions[-1] = f"{action} (and {rest:,} more)"
            result += [
                Finding(rule=rule, path=display_path(path), action=text)
                for path, text in zip(paths, actions, strict=True)
            ]
        return result
