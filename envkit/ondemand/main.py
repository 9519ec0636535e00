"""Owns the entry of the image server's processes: which of the two this one is."""

import os
import sys

from envkit.model.paths import Paths


def main() -> None:
    """Be the process that the arguments name: root directory, role, descriptors, the other process."""
    _, root, role, descriptors, other = sys.argv
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
        server = os.getpid()
        # A copy of this process, which has no threads yet, not a program anew: that would take what the server needs.
        partner = os.fork()
        if partner == 0:
            os.setsid()
            holder.hold(held, server)
            return
        held.note(partner, server)
    from envkit.ondemand.lean import import_msgspec

    import_msgspec()
    from envkit.ondemand.server import serve

    serve(held, partner)
