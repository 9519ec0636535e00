"""What rules must not touch although it looks alike, and directories that software expects."""

import pytest
from sanitize_support import Layer, directory, file, outcomes, paths, symlink

SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.mark.parametrize(
    "path",
    [
        f"{SITE}/paramiko/id_rsa.py",
        f"{SITE}/certifi/cacert.pem",
        f"{SITE}/requests/tests/.netrc",
        f"{SITE}/jupyter_server/.ssh/id_rsa",
        "usr/lib/python3/dist-packages/keyring/credentials.py",
        "usr/lib/node_modules/npm/.npmrc",
        "opt/app/node_modules/pkg/.npmrc",
        "usr/share/doc/openssh-server/examples/ssh_host_rsa_key",
        "usr/share/bash-completion/completions/.bash_history",
        "etc/ssl/certs/ca-certificates.crt",
        "etc/ssl/certs/ssl-cert-snakeoil.pem",
        "etc/ssl/openssl.cnf",
        "etc/ssh/ssh_config",
        "etc/ssh/sshd_config",
        "etc/ssh/sshd_config.d/site.conf",
        "etc/passwd",
        "etc/shadow",
        "etc/hosts.allow",
        "etc/machine-info",
        "etc/apt/sources.list",
        "etc/apt/apt.conf.d/20-mirror",
        "etc/apt/trusted.gpg.d/site.gpg",
        "etc/wpa_supplicant/ifupdown.sh",
        "etc/openvpn/update-resolv-conf",
        "etc/munge/readme",
        "etc/slurm/slurm.conf",
        "etc/krb5.conf",
        "etc/ipsec.conf",
        "etc/skel/.bashrc",
        "etc/skel/.profile",
        "root/.bashrc",
        "root/.profile",
        "root/.gitignore",
        "root/.gnupg/pubring.kbx",
        "root/.aws/models/service.json",
        "root/.docker/buildx/current",
        "root/.config/pip/pip.conf",
        "root/.config/matplotlib/matplotlibrc",
        "root/.config/uv/uv.toml",
        "root/.cache/huggingface/hub/models--bert/blobs/0a1b",
        "root/.cache/torch/hub/checkpoints/resnet50.pth",
        "root/.cache/pre-commit/repo/hooks.py",
        "root/.cargo/bin/cargo",
        "root/.cargo/env",
        "root/.conda/environments.txt",
        "root/.julia/packages/Flux/src/Flux.jl",
        "root/.julia/logs/manifest_usage.toml",
        "root/.local/bin/tool",
        "root/.local/share/jupyter/kernels/ir/kernel.json",
        "root/.local/share/uv/python/cpython-3.12/bin/python3",
        "root/.local/share/uv/tools/ruff/bin/ruff",
        "root/.jupyter/jupyter_lab_config.py",
        "root/.m2/repository/org/x/x.jar",
        "root/.vim/colors/dark.vim",
        "root/go/pkg/mod/example.org/lib@v1/lib.go",
        "root/go/bin/tool",
        "root/mailbox/mbox.py",
        "opt/conda/pkgs/numpy-1.26-0/info/index.json",
        "opt/data/archive.tar.bz2",
        "opt/app/tmp/state",
        "opt/app/var/log/app.log",
        "srv/repository.git/HEAD",
        "usr/local/etc/app.conf",
        "usr/share/tmp/x",
        "var/lib/dpkg/status",
        "var/lib/apt/extended_states",
        "var/cache/debconf/config.dat",
        "var/lib/systemd/deb-systemd-helper-enabled/x",
        "var/lib/samba/usershares/x",
        "var/www/index.html",
        "var/lib/postgresql/15/main/PG_VERSION",
    ],
)
def test_a_file_that_only_resembles_a_secret_or_a_cache_stays(path: str) -> None:
    assert outcomes(Layer.of(file(path)).plan()) == {}


@pytest.mark.parametrize(
    ("kept", "content"),
    [
        ("root/.ssh", "root/.ssh/id_rsa"),
        ("etc/ssl/private", "etc/ssl/private/server.key"),
        ("etc/apt/auth.conf.d", "etc/apt/auth.conf.d/site.conf"),
        ("etc/kubernetes/manifests", "etc/kubernetes/manifests/api.yaml"),
        ("root/.gnupg", "root/.gnupg/private-keys-v1.d/0A.key"),
        ("var/cache/apt/archives/partial", "var/cache/apt/archives/partial/numpy.deb"),
        ("var/cache/apt/archives", "var/cache/apt/archives/numpy.deb"),
        ("var/lib/apt/lists/partial", "var/lib/apt/lists/partial/InRelease"),
        ("var/lib/apt/lists/auxfiles", "var/lib/apt/lists/lock"),
        ("var/cache/man/de", "var/cache/man/de/index.db"),
        ("var/log/nginx", "var/log/nginx/access.log"),
        ("var/log/journal", "var/log/journal/0123/system.journal"),
        ("var/mail", "var/mail/root"),
        ("var/spool/postfix/public", "var/spool/postfix/public/pickup"),
        ("var/backups", "var/backups/passwd.bak"),
        ("tmp", "tmp/a/b"),
        ("var/tmp", "var/tmp/x"),
        ("run", "run/lock/x"),
        ("root/.cache/pip", "root/.cache/pip/http-v2/a/b"),
        ("root/.local/share/jupyter", "root/.local/share/jupyter/runtime/kernel.json"),
    ],
)
def test_the_directory_stays_when_its_content_goes(kept: str, content: str) -> None:
    cleaned = Layer.of(directory(kept), file(content)).cleaned()
    assert kept in paths(cleaned)
    assert content not in paths(cleaned)


def test_logs_that_are_links_to_the_standard_output_stay() -> None:
    layer = Layer.of(symlink("var/log/nginx/access.log", b"/dev/stdout"), file("var/log/nginx/error.log"))
    assert outcomes(layer.plan()) == {"var/log/nginx/error.log": ("R106", "drop")}


def test_a_machine_id_that_is_a_link_stays() -> None:
    layer = Layer.of(symlink("etc/machine-id", b"/run/machine-id"))
    assert outcomes(layer.plan()) == {}
