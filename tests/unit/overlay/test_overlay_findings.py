"""The list of findings."""

from envkit.overlay.findings import SHOWN, Findings


def test_what_happens_often_is_shown_a_few_times_and_counted():
    findings = Findings()
    for number in reversed(range(SHOWN + 1234)):
        findings.add("R306", b"f%05d" % number, "security.selinux not stored")
    findings.add("R018", b"dev/\xff\n", "character device not stored")
    summary = findings.summary()
    assert [finding.rule for finding in summary] == ["R018"] + ["R306"] * SHOWN
    assert summary[0].path == "/dev/\\xff\\n"
    assert [finding.path for finding in summary[1:]] == [f"/f{number:05}" for number in range(SHOWN)]
    assert summary[1].action == "security.selinux not stored"
    assert summary[-1].action == "security.selinux not stored (and 1,234 more)"


def test_kinds_without_end_do_not_make_a_list_without_end():
    findings = Findings()
    for number in range(10_000):
        findings.add("R306", b"f", f"trusted.{number} not stored")
    summary = findings.summary()
    assert len(summary) == 200 + SHOWN
    assert any(finding.action.startswith("more of other kinds (and 9,7") for finding in summary)
