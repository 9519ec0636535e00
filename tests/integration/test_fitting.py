"""Environments whose programs were compiled for a CPU run only where it is; real saves, the real CPU."""

import pytest
from machine_support import CODE, PLAIN, program

from envkit.drivers import cpu

pytestmark = [pytest.mark.root, pytest.mark.lxc]


def test_an_environment_does_not_run_where_its_instructions_are_missing(envkit, tmp_path):
    here = cpu.flags()
    missing = next((flag for flag in CODE if flag not in here), None)
    there = next(flag for flag in CODE if flag in here)
    for flag in filter(None, (there, missing)):
        built = tmp_path / flag
        built.write_bytes(program(PLAIN * 50 + CODE[flag] * 20))
        built.chmod(0o755)
        name = f"built-{flag.replace('_', '-')}"
        envkit("create", name, "--base", "tiny", "--no-shell").ok()
        try:
            envkit("cp", str(built), f"{name}:/opt/solve").ok()
            envkit("save", name).ok()
        finally:
            envkit("close", name, "--discard").ok()
        assert flag in envkit.json("info", name)["needs"]["cpu"]
        if flag == there:
            assert envkit.sh(name, "echo fine").ok() == "fine"
        else:
            envkit.sh(name, "true").fails(125, f"needs a CPU with {flag}", "/opt/solve")


def test_what_was_built_below_binds_what_is_built_on_it(envkit, tmp_path):
    flag = next(flag for flag in CODE if flag in cpu.flags())
    built = tmp_path / "solve"
    built.write_bytes(program(PLAIN * 50 + CODE[flag] * 20))
    built.chmod(0o755)
    envkit("create", "below", "--base", "tiny", "--no-shell").ok()
    try:
        envkit("cp", str(built), "below:/opt/solve").ok()
        envkit("save", "below").ok()
    finally:
        envkit("close", "below", "--discard").ok()
    envkit("create", "above", "--from", "below", "--no-shell").ok()
    try:
        envkit("exec", "above", "--", "touch", "/opt/more").ok()
        envkit("save", "above").ok()
    finally:
        envkit("close", "above", "--discard").ok()
    assert flag in envkit.json("info", "above")["needs"]["cpu"]
