"""Owns the entry of the image server's processes: which of the two this one is."""

import sys

from envkit.model.paths import Paths


def main() -> None:
    """Be the process that the arguments name: root directory, role, module path, descriptors, the other process."""
    _, root, role, _, descriptors, other = sys.argv
    paths = Paths.at(root)
    from envkit.ondemand import holder

    if role == "new":
        holder.begin(paths)
    elif role == "holder":
        holder.hold(holder.Held.inherited(paths, descriptors), int(other))
    else:
        from envkit.ondemand.server import serve

        serve(holder.Held.inherited(paths, descriptors), int(other))
