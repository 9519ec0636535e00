from sanitize_support import GIT_CONFIG, Layer, directory, file, hard_link

from envkit.model.ids import EnvName
from envkit.model.version import MAX_VERSION_BYTES, LayerRef, Version, VersionKind, version_to_json
from envkit.sanitize import RULESET, report
from envkit.sanitize.report import MAX_FINDINGS, MAX_LISTED


def lines(layer: Layer, **options: object) -> list[str]:
    """Return a report as `RULE action path` lines."""
    found = report(layer.plan(**options)).findings  # type: ignore[arg-type]
    return [f"{finding.rule} {finding.action} {finding.path}" for finding in found]


def test_findings_name_rule_action_and_path_by_rule() -> None:
    below = [file("root/.netrc"), file("etc/hosts"), file("var/log/apt/term.log")]
    layer = Layer.of(
        *below, file("root/.cache/uv/a/b"), file("root/.bash_history"), file("etc/ssh/ssh_host_rsa_key"), below=below
    )
    assert lines(layer, allow=["R103:/root/.bash_history"]) == [
        "R001 drop /etc/ssh/ssh_host_rsa_key",
        "R005 whiteout /root/.netrc",
        "R102 restore /etc/hosts",
        "R103 allowed /root/.bash_history",
        "R106 empty /var/log/apt/term.log",
        "R202 drop /root/.cache/uv/a/b",
    ]
    assert report(layer.plan()).ruleset == RULESET


def test_a_directory_whose_content_goes_is_one_line() -> None:
    many = [file(f"var/cache/apt/archives/{number}.deb") for number in range(1234)]
    few = [file(f"var/lib/apt/lists/{number}") for number in range(MAX_LISTED)]
    assert lines(Layer.of(*many, *few)) == [
        *(f"R201 drop /var/lib/apt/lists/{number}" for number in range(MAX_LISTED))
    ][:0] + ["R201 drop /var/cache/apt/ (1,234 files)"] + [
        f"R201 drop /var/lib/apt/lists/{number}" for number in range(MAX_LISTED)
    ]


def test_one_directory_is_one_line_for_each_thing_that_happens_in_it() -> None:
    new = [file(f"var/log/new{number}") for number in range(6)]
    old = [file(f"var/log/old{number}") for number in range(7)]
    assert lines(Layer.of(*new, *old, below=old)) == ["R106 drop /var/log/ (6 files)", "R106 empty /var/log/ (7 files)"]


def test_directories_that_were_empty_before_are_told() -> None:
    layer = Layer.of(directory("tmp/a/b"), directory("root/.npm/_cacache"))
    assert lines(layer) == ["R019 drop /tmp/ (2 empty directories)", "R202 drop /root/.npm/_cacache/"]


def test_another_name_of_a_secret_is_told_with_the_name_that_gave_it_away() -> None:
    layer = Layer.of(file("opt/innocent"), hard_link("root/.netrc", "opt/innocent"))
    assert lines(layer) == ["R005 drop /opt/innocent (hard link to /root/.netrc)", "R005 drop /root/.netrc"]


def test_a_report_holds_no_content() -> None:
    layer = Layer.of(file("srv/.git/config", size=len(GIT_CONFIG)), contents={b"srv/.git/config": GIT_CONFIG})
    assert lines(layer) == ["R005 edit /srv/.git/config"]


def test_names_that_are_no_text_are_escaped() -> None:
    assert lines(Layer.of(file(b"root/.ssh/\xff\n\x1b[31m"))) == [r"R002 drop /root/.ssh/\xff\n\x1b[31m"]


def test_the_number_of_findings_is_limited_and_the_rest_counted() -> None:
    layer = Layer.of(*(file(f"srv/{number:04}/.netrc") for number in range(MAX_FINDINGS + 234)))
    found = lines(layer)
    assert len(found) == MAX_FINDINGS + 1
    assert found[0] == "R005 drop /srv/0000/.netrc"
    assert found[-1] == "* not listed 234 more"


def test_a_report_of_hostile_names_still_fits_into_a_version() -> None:
    deep = b"/".join([b"\xf0\x9f\x92\xa9" * 63] * 15)
    layer = Layer.of(*(file(b"srv/%04d/" % number + deep + b"/.netrc") for number in range(300)))
    found = report(layer.plan())
    assert 10 < len(found.findings) < 300
    version = Version(
        env=EnvName(owner="u", name="n"),
        number=1,
        kind=VersionKind.ENVIRONMENT,
        layers=(LayerRef(tree="0" * 64, entries=1, size=1, stored=1),),
        report=found,
    )
    assert len(version_to_json(version)) < MAX_VERSION_BYTES // 2


def test_nothing_done_is_nothing_reported() -> None:
    assert report(Layer.of(file("opt/x")).plan()).findings == ()
