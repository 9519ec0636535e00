"""The page for users shows the same rules as the code."""

from pathlib import Path

import pytest

from envkit.sanitize import RULE_IDS, RULES, Outcome, Rule, Verb

PAGE = (Path(__file__).parents[3] / "docs" / "sanitizing.md").read_text()


def table_line(rule: Rule) -> str:
    """Return a row as the page's table has it."""
    patterns = " ".join(f"`{pattern}`" for pattern in rule.patterns)
    keep = " except " + " ".join(f"`{pattern}`" for pattern in rule.keep) if rule.keep else ""
    return f"| {rule.id} | {rule.title} | {rule.verb.value} | {patterns}{keep} |"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.id}-{rule.title}")
def test_the_page_has_every_row_of_the_table(rule: Rule) -> None:
    assert table_line(rule) in PAGE.splitlines()


def test_the_page_has_no_rows_that_the_table_lacks() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| R")]
    assert sorted(lines) == sorted(map(table_line, RULES))
    assert {line[2:6] for line in lines} == set(RULE_IDS)


@pytest.mark.parametrize("word", [*(verb.value for verb in Verb), *(outcome.value for outcome in Outcome), "allowed"])
def test_the_page_explains_every_word_of_a_report(word: str) -> None:
    assert f"**{word}**" in PAGE
