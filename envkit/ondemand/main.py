"""Owns the entry of the image server's processes: which of the two this one is."""

import os
import sys

from envkit.model.paths import Paths


def main() -> None:
    """Be the process that the arguments name: root directory, role, module path, descriptors, the other process."""
    _, root, role, _, descriptors, other = sys.argv
    paths = Paths.at(root)
    from envkit.ondemand import holder

    if role == "holder":
        holder.hold(holder.Held.inherited(paths, descriptors), int(other))
        return
    held = holder.begin(paths) if role == "new" else holder.Held.inherited(paths, descriptors)
    if held is None:
        return
    partner = int(other)
    if role == "new":  # the first of a pair is the server, for which somebody waits
        partner = held.spawn("holder")
        held.note(partner, os.getpid())
    from envkit.ondemand.server import serve

    serve(held, partner)
