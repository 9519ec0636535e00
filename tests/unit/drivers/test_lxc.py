import pytest

from envkit.drivers.lxc import ContainerConfig, Limits, Veth, config_text, execute_argv
from envkit.drivers.seccomp import profile
from envkit.errors import InvalidInput
from envkit.model.idmap import for_user, shifted

JOB = ContainerConfig(
    name="envkit-x",
    hostname="sci",
    rootfs="/run/envkit/mnt/root",
    ids=for_user(100_000, 1000, (1000,)),
    uid=1000,
    gid=1000,
)


def lines(config, *, unified=True, apparmor=False):
    return config_text(config, filter_path="/x/seccomp", unified=unified, apparmor=apparmor).splitlines()


def test_a_job_has_no_capabilities_no_network_and_its_own_uid():
    text = lines(JOB)
    assert "lxc.cap.keep = none" in text
    assert "lxc.no_new_privs = 1" in text
    assert "lxc.net.0.type = empty" in text
    assert "lxc.idmap = u 1000 1000 1" in text
    assert "lxc.init.uid = 1000" in text
    assert "lxc.seccomp.profile = /x/seccomp" in text
    assert "lxc.console.path = none" in text


def test_the_jobs_root_can_do_nothing_to_the_system():
    text = lines(JOB.replace(uid=0, gid=0, ids=shifted(100_000)))
    kept = next(line for line in text if line.startswith("lxc.cap.keep")).split()
    assert not {"sys_admin", "net_admin", "sys_ptrace", "mknod", "setfcap", "none"} & set(kept)


def test_a_session_may_set_capabilities_but_not_administer():
    kept = next(line for line in lines(JOB.replace(session=True)) if line.startswith("lxc.cap.keep")).split()
    assert {"setfcap", "chown", "setuid"} <= set(kept)
    assert not {"sys_admin", "net_admin", "sys_module", "sys_ptrace"} & set(kept)


def test_limits_speak_the_machines_cgroup_version():
    config = JOB.replace(limits=Limits(memory=1 << 20, cpus=2))
    assert {"lxc.cgroup2.memory.max = 1048576", "lxc.cgroup2.memory.swap.max = 0"} <= set(lines(config))
    assert "lxc.cgroup2.cpu.max = 200000 100000" in lines(config)
    old = lines(config, unified=False)
    assert {"lxc.cgroup.memory.limit_in_bytes = 1048576", "lxc.cgroup.cpu.cfs_quota_us = 200000"} <= set(old)
    assert not any("cgroup2" in line for line in old)


def test_networks():
    veth = Veth(
        bridge="envkit0", pair="ek2", hardware_address="0a:00", address="10.1.2.3/24", gateway="10.1.2.1", mtu=1400
    )
    text = lines(JOB.replace(network=veth))
    assert {"lxc.net.0.type = veth", "lxc.net.0.link = envkit0", "lxc.net.0.veth.pair = ek2"} <= set(text)
    assert "lxc.net.0.ipv4.address = 10.1.2.3/24" in text
    assert "lxc.net.0.type = none" in lines(JOB.replace(network="host"))


def test_values_of_variables_arrive_as_they_are():
    text = lines(JOB.replace(environment=(("A", " 'x' \"y\" # = \\ "),)))
    assert 'lxc.environment = "A= \'x\' "y" # = \\ "' in text


@pytest.mark.parametrize("value", ["a\nlxc.hook.pre-start = /bin/x", "a\r", "a\0b"])
def test_a_line_break_in_a_value_cannot_become_a_key(value):
    with pytest.raises(InvalidInput, match="the value of variable A holds a line break"):
        lines(JOB.replace(environment=(("A", value),)))


@pytest.mark.parametrize("name", ["", "A=B", "A B", "A\n"])
def test_names_of_variables_are_checked(name):
    with pytest.raises(InvalidInput, match="invalid variable name"):
        lines(JOB.replace(environment=((name, "x"),)))


@pytest.mark.parametrize("field", ["directory", "hostname", "rootfs"])
@pytest.mark.parametrize("value", ["/a\nlxc.hook.start = x", "", " /a", '"/a"'])
def test_no_other_value_can_leave_its_line(field, value):
    with pytest.raises(InvalidInput, match="cannot be passed"):
        lines(JOB.replace(**{field: value}))


def test_apparmor_confines_where_the_kernel_can():
    assert "lxc.apparmor.profile = generated" in lines(JOB, apparmor=True)
    assert not any("apparmor" in line for line in lines(JOB))


def test_the_filter_denies_what_kernels_were_attacked_through():
    text = profile().splitlines()
    assert text[:3] == ["2", "denylist", "[all]"]
    for name in ("mount", "bpf", "keyctl", "io_uring_setup", "userfaultfd", "open_by_handle_at", "setns", "clone3"):
        assert f"{name} errno 38" in text


def test_the_command_comes_after_two_dashes(monkeypatch):
    from envkit.drivers.lxc import Files

    monkeypatch.setattr("envkit.drivers.lxc.require_program", lambda name: f"/usr/bin/{name}")
    argv = execute_argv("n", lxc_path="/p", files=Files(config="/c", log="/l"), command=["-x", "y"])
    assert argv[-3:] == ["--", "-x", "y"]
