"""Every row of the rule table, against every state that a path can be in. New rows are tested without a new test."""

import re

import pytest
from sanitize_support import GIT_CONFIG, Layer, directory, file, outcomes, whiteout

from envkit.sanitize import RULE_IDS, RULES, Rule, Verb
from envkit.sanitize.match import expand_braces

# What a verb comes to: only in the upper, changed from the lower, in an opaque directory over the lower.
EXPECTED = {
    Verb.REMOVE: ("drop", "whiteout", "drop"),
    Verb.RESTORE: ("drop", "restore", "drop"),
    Verb.EMPTY: ("empty", "empty", "empty"),
    Verb.EMPTY_OR_REMOVE: ("drop", "empty", "drop"),
    Verb.EDIT: ("edit", "edit", "edit"),
}
ROWS = list(enumerate(RULES))
ROW_NAMES = [f"{rule.id}-{rule.title}" for rule in RULES]
HOMES = {"root": "root", "in /home": "home/u", "in passwd": "data/svc", "by what it holds": "srv/unknown"}


def samples(pattern: str, home: str = "root") -> list[str]:
    """Return a path for each alternative of a pattern."""
    return [_sample(text.decode(), home) for text in expand_braces(pattern.encode())]


def _sample(glob: str, home: str) -> str:
    names = glob.split("/")
    names = [home, *names[1:]] if names[0] == "~" else names[1:] if names[0] == "" else names
    return "/".join("some/deep" if name == "**" else name.replace("*", "x1") for name in names)


def row_samples(rule: Rule, home: str = "root") -> list[str]:
    return sorted({path for pattern in rule.patterns for path in samples(pattern, home)})


def check_row(row: int, rules: tuple[Rule, ...], case: str) -> None:
    """Assert that all paths of a row are treated as its verb says, under a table of rules."""
    rule = RULES[row]
    for batch in _batches(row_samples(rule)):
        files = [file(path) for path in batch]
        contents = {path.encode(): GIT_CONFIG.ljust(10) for path in batch}
        parents = [directory(path.rpartition("/")[0]) for path in batch]
        upper_only, changed, hidden = EXPECTED[rule.verb]
        if case == "only in the upper":
            layer, expected = Layer.of(*files, below=parents, contents=contents), upper_only
        elif case == "changed from the lower":
            layer, expected = Layer.of(*files, below=files, contents=contents), changed
        elif case == "lower hidden by an opaque directory":
            opaque = [directory(parent.path, opaque=True) for parent in parents]
            layer, expected = Layer.of(*opaque, *files, below=files, contents=contents), hidden
        elif case == "only in the lower":
            layer, expected = Layer.of(*parents, below=files), None
        else:
            layer, expected = Layer.of(*(whiteout(path) for path in batch), below=files), None
        plan = layer.plan(rules=rules)
        directories = {action.path.decode() for action in plan.actions if action.directory}
        assert not directories or case == "lower hidden by an opaque directory"
        found = {path: done for path, done in outcomes(plan).items() if path not in directories}
        assert found == ({} if expected is None else dict.fromkeys(batch, (rule.id, expected)))


def _batches(found: list[str]) -> list[list[str]]:
    """Split paths so that none is above another of its batch."""
    batches: list[list[str]] = []
    for path in found:
        for batch in batches:
            if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in batch):
                batch.append(path)
                break
        else:
            batches.append([path])
    return batches


@pytest.mark.parametrize("row", range(len(RULES)), ids=ROW_NAMES)
@pytest.mark.parametrize(
    "case",
    [
        "only in the upper",
        "changed from the lower",
        "only in the lower",
        "lower hidden by an opaque directory",
        "deleted by the user",
    ],
)
def test_every_path_of_a_row_is_treated_as_its_verb_says(row: int, case: str) -> None:
    check_row(row, RULES, case)


@pytest.mark.parametrize("row", range(len(RULES)), ids=ROW_NAMES)
def test_the_check_of_a_row_fails_without_the_row(row: int) -> None:
    with pytest.raises(AssertionError):
        check_row(row, RULES[:row] + RULES[row + 1 :], "changed from the lower")


@pytest.mark.parametrize("home", HOMES.values(), ids=HOMES)
def test_rows_for_homes_hold_in_every_kind_of_home(home: str) -> None:
    for rule in RULES:
        patterns = [pattern for pattern in rule.patterns if pattern.startswith("~")]
        for batch in _batches(sorted({path for pattern in patterns for path in samples(pattern, home)})):
            files = [file(path) for path in (*batch, "srv/unknown/.netrc")]
            layer = Layer.of(*files, contents={path.encode(): GIT_CONFIG for path in batch})
            found = outcomes(layer.plan())
            assert {path: found[path][0] for path in batch if path in found} == dict.fromkeys(batch, rule.id)


@pytest.mark.parametrize("row", range(len(RULES)), ids=ROW_NAMES)
def test_rows_are_well_formed(row: int) -> None:
    rule = RULES[row]
    assert re.fullmatch(r"R\d{3}", rule.id)
    assert re.fullmatch(r"[A-Za-z].{2,70}[^.]", rule.title)
    assert rule.patterns
    assert (rule.edit is not None) == (rule.verb is Verb.EDIT)
    assert not (rule.drop_directories and rule.verb not in (Verb.REMOVE, Verb.RESTORE))


@pytest.mark.parametrize("row", [row for row, rule in ROWS if rule.keep], ids=lambda row: RULES[row].id)
def test_exceptions_of_a_row_stay_and_only_because_they_are_exceptions(row: int) -> None:
    rule = RULES[row]
    kept = sorted({path for pattern in rule.keep for path in samples(pattern)})
    layer = Layer.of(*(file(path) for path in kept))
    assert outcomes(layer.plan()) == {}
    without = Rule(id=rule.id, title=rule.title, verb=rule.verb, patterns=rule.patterns)
    assert outcomes(layer.plan(rules=[without])) == dict.fromkeys(kept, (rule.id, "drop"))


def test_rows_that_edit_come_last_because_what_they_edit_stays() -> None:
    edits = [rule.verb is Verb.EDIT for rule in RULES]
    assert edits == sorted(edits)


def test_rule_ids_are_listed_once_in_order() -> None:
    assert list(RULE_IDS) == sorted({rule.id for rule in RULES})
    expected = [*range(1, 13), 14, 19, 101, 102, 103, 105, 106, 107, 201, 202, 206]
    assert [int(rule[1:]) for rule in RULE_IDS] == expected


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("tmp/krb5cc_0", "R010"),
        ("tmp/x509up_u0", "R007"),
        ("run/user/0/containers/auth.json", "R004"),
        ("run/secrets/token", "R003"),
        ("run/utmp", "R019"),
        ("var/log/journal/0123/system.journal", "R106"),
        ("etc/ssl/private/ssl-cert-snakeoil.key", "R011"),
        ("tmp/clone/.git/config", "R019"),
        ("root/.ssh/backup/.git/config", "R002"),
        ("var/cache/debconf/passwords.dat", "R206"),
        ("opt/conda/pkgs/numpy-1.26-0.conda", "R202"),
        ("boot/random-seed", "R012"),
    ],
)
def test_a_path_that_several_rules_match_goes_under_the_strictest(path: str, rule: str) -> None:
    found = outcomes(Layer.of(file(path), contents={path.encode(): GIT_CONFIG}).plan())
    assert found[path][0] == rule
    assert found[path][1] != "edit"
