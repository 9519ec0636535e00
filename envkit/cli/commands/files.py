"""`envkit files`."""

import stat
import time

import click

from envkit.cli.app import App, pass_app
from envkit.cli.params import json_option
from envkit.model.tree import Kind, display_path
from envkit.services import environments

_LETTERS = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FILE: stat.S_IFREG,
    Kind.HARDLINK: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
}


@click.command("files", epilog="Example: envkit files sci@2 --changed")
@click.argument("env", metavar="ENV[@V]")
@click.option("--changed", is_flag=True, help="Only what the version's own layer changes, deletions included.")
@json_option
@pass_app
def command(app: App, /, *, env: str, changed: bool, as_json: bool) -> None:
    """List the files of a version, as `ls -l` shows them."""
    entries = environments.files(app.context, env, changed=changed)
    if as_json:
        app.console.json([environments.entry_json(entry) for entry in entries])
        return
    for entry in entries:
        if entry.kind is Kind.WHITEOUT:
            app.console.data(f"deleted    {'':>38}{display_path(entry.path)}")
            continue
        mode = stat.filemode(_LETTERS[entry.kind] | entry.mode)
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.mtime_ns // 1_000_000_000))
        arrow = {Kind.SYMLINK: " -> ", Kind.HARDLINK: " = "}.get(entry.kind, "")
        target = entry.target.decode("utf-8", "backslashreplace") if arrow else ""
        line = f"{mode} {entry.uid:>5} {entry.gid:>5} {entry.size:>12} {when} {display_path(entry.path)}{arrow}{target}"
        app.console.data(line)
