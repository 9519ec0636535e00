"""What must not leave the machine with a save: rules as data, and the plan they make."""

from envkit.sanitize.allow import Allow
from envkit.sanitize.apply import Cleaned, apply_plan
from envkit.sanitize.plan import Action, Outcome, Plan, Waived
from envkit.sanitize.planner import make_plan
from envkit.sanitize.report import report
from envkit.sanitize.rule import Rule, Verb
from envkit.sanitize.rules import RULE_IDS, RULES, RULESET

__all__ = [
    "RULES",
    "RULESET",
    "RULE_IDS",
    "Action",
    "Allow",
    "Cleaned",
    "Outcome",
    "Plan",
    "Rule",
    "Verb",
    "Waived",
    "apply_plan",
    "make_plan",
    "report",
]
