"""Owns the report: a plan in few lines for people, kept with the version. Paths only, never what a file contained."""

import json
from collections.abc import Iterable

from envkit.model.tree import display_path
from envkit.model.version import Finding, Report
from envkit.sanitize.plan import Action, Plan, Waived
from envkit.sanitize.rules import RULESET

MAX_LISTED = 5
"""A directory whose content goes is one line if it holds more files than this."""

MAX_FINDINGS = 1000
MAX_REPORT_BYTES = 1 << 20
"""Of JSON, so that hostile path names cannot make a version's record too large to be read."""

ALLOWED = "allowed"


def report(plan: Plan) -> Report:
    """Return what a plan does and lets pass, by rule and path; a last finding counts what is not listed."""
    findings = sorted(_findings(plan), key=lambda finding: (finding.rule, finding.path, finding.action))
    listed: list[Finding] = []
    room = MAX_REPORT_BYTES
    for finding in findings[:MAX_FINDINGS]:
        room -= len(json.dumps([finding.rule, finding.path, finding.action], indent=1)) + 8
        if room < 0:
            break
        listed.append(finding)
    if len(listed) < len(findings):
        listed.append(Finding(rule="*", path=f"{len(findings) - len(listed):,} more", action="not listed"))
    return Report(ruleset=RULESET, findings=tuple(listed))


def _findings(plan: Plan) -> Iterable[Finding]:
    groups: dict[tuple[str, bytes, str], list[Action | Waived]] = {}
    directories: dict[tuple[str, bytes], list[bytes]] = {}
    scopes = set()
    for action in plan.actions:
        if action.directory:
            directories.setdefault((action.rule, action.scope), []).append(action.path)
        else:
            groups.setdefault((action.rule, action.scope, action.outcome.value), []).append(action)
            scopes.add((action.rule, action.scope))
    for waived in plan.waived:
        groups.setdefault((waived.rule, waived.scope, ALLOWED), []).append(waived)
    for (rule, scope, outcome), members in groups.items():
        if len(members) > MAX_LISTED:
            yield Finding(rule=rule, path=f"{_as_directory(scope)} ({len(members):,} files)", action=outcome)
        else:
            yield from (Finding(rule=rule, path=_shown(member), action=outcome) for member in members)
    # Directories that go along with files are not worth a line; those that were empty before are.
    for (rule, scope), paths in directories.items():
        if (rule, scope) not in scopes:
            many = f" ({len(paths):,} empty directories)" if len(paths) > 1 else ""
            yield Finding(rule=rule, path=_as_directory(scope if many else paths[0]) + many, action="drop")


def _as_directory(path: bytes) -> str:
    return display_path(path).rstrip("/") + "/"


def _shown(member: Action | Waived) -> str:
    link = member.link if isinstance(member, Action) else b""
    return display_path(member.path) + (f" (hard link to {display_path(link)})" if link else "")
