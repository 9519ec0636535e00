import pytest

from envkit.drivers import lxc
from envkit.drivers.lxc import ContainerConfig, Device, Limits, Veth, config_text, execute_argv, write_config
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


def lines(config, *, unified=True, apparmor=None):
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
    assert "lxc.apparmor.profile = some-profile" in lines(JOB, apparmor="some-profile")
    assert not any("apparmor" in line for line in lines(JOB))


@pytest.mark.parametrize(
    ("loaded", "profile"),
    [
        ("other (enforce)\nlxc-container-default-cgns (enforce)\n", "lxc-container-default-cgns"),
        ("lxc-container-default-cgns-of-mine (enforce)\n", "unconfined"),
        ("", "unconfined"),
    ],
)
def test_a_profile_that_is_not_loaded_is_not_named(monkeypatch, tmp_path, loaded, profile):
    (tmp_path / "profiles").write_text(loaded)
    monkeypatch.setattr(lxc, "_APPARMOR_PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(lxc, "apparmor_enabled", lambda: True)
    files = write_config(JOB, str(tmp_path))
    with open(files.config, encoding="utf-8") as file:
        assert f"lxc.apparmor.profile = {profile}\n" in file.read()
    assert lxc.apparmor_confines() == (profile != "unconfined")


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


def test_a_nested_container_has_its_groups_below_ours():
    assert not any("cgroup.relative" in line for line in lines(JOB))
    nested = JOB.replace(nested=True, limits=Limits(memory=1 << 20))
    assert "lxc.cgroup.relative = 1" in lines(nested, unified=False)
    assert "lxc.cgroup.memory.limit_in_bytes = 1048576" in lines(nested, unified=False)


def test_in_version_2_a_nested_container_has_no_limits_of_its_own():
    found = lines(JOB.replace(nested=True), unified=True)
    assert "lxc.cgroup.relative = 1" in found
    assert not any(line.startswith("lxc.cgroup2.") for line in found)


def test_devices_are_bound_below_the_containers_own_dev():
    given = JOB.replace(devices=(Device(source="/dev/nvidia0", target="/dev/gpu/x"),))
    assert "lxc.mount.entry = /dev/nvidia0 dev/gpu/x none bind,create=file 0 0" in lines(given)


@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/dev/../etc", "/dev/a b", "/dev/a\nlxc.hook = x", "dev/null", "/dev/"]
)
def test_what_is_no_path_of_a_device_never_becomes_a_line(path):
    for device in (Device(source=path, target="/dev/x"), Device(source="/dev/x", target=path)):
        with pytest.raises(InvalidInput, match="cannot be a device"):
            lines(JOB.replace(devices=(device,)))
