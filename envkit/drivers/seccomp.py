"""Owns the system calls that containers may not use.

A deny list, because it is on the path of every run: libseccomp takes 18 ms to compile an allow list of 350 names, and
4 ms for this. What it adds to an unprivileged container without capabilities is that the kernel's most attacked
entrances are shut before any check of theirs runs: mounting, new user namespaces, keyrings, bpf, io_uring,
userfaultfd, file handles, modules, kexec, perf. The answer is ENOSYS where programs fall back on something else.
"""

_NO_SUCH_CALL = """
acct add_key bpf clone3 create_module delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load
keyctl lookup_dcookie mount mount_setattr move_mount nfsservctl open_by_handle_at open_tree perf_event_open pivot_root
query_module quotactl quotactl_fd reboot request_key setns settimeofday clock_settime swapoff swapon syslog umount
umount2 uselib userfaultfd ustat vm86 vm86old
"""

# name errno N [argument, value, comparison, mask]
_NOT_PERMITTED = (
    # CLONE_NEWUSER: every other new namespace needs a capability that containers do not have. clone3 hides its flags
    # in memory, so it is in the list above; the C library then uses clone.
    "clone errno 1 [0,268435456,SCMP_CMP_MASKED_EQ,268435456]",
    "unshare errno 1 [0,268435456,SCMP_CMP_MASKED_EQ,268435456]",
    # TIOCSTI types into a terminal, TIOCLINUX pastes into a console
    "ioctl errno 1 [1,21522,SCMP_CMP_MASKED_EQ,4294967295]",
    "ioctl errno 1 [1,21532,SCMP_CMP_MASKED_EQ,4294967295]",
    # AF_ALG and AF_VSOCK
    "socket errno 97 [0,38,SCMP_CMP_EQ]",
    "socket errno 97 [0,40,SCMP_CMP_EQ]",
)


def profile() -> str:
    """Return the profile in LXC's format, version 2."""
    return (
        "\n".join(["2", "denylist", "[all]", *_NOT_PERMITTED, *(f"{n} errno 38" for n in _NO_SUCH_CALL.split())]) + "\n"
    )
