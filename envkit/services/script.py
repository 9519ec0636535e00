"""Owns the use case of setting a session up by a script of the host."""

import os

from envkit.services.context import Context
from envkit.services.copy import copy_in
from envkit.services.sessions import execute


def run_script(context: Context, name: str, path: str) -> int:
    """Run a script in a session, with its first line's interpreter; return its exit code. The session keeps no copy."""
    inside = f"/run/envkit/{os.path.basename(path)}"
    copy_in(context, name, path, inside)
    return execute(context, name, ["/bin/sh", "-c", 'chmod +x "$1" && exec "$1"', "sh", inside])
