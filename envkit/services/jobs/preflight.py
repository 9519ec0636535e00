"""Owns what is looked at before a job is queued: that it could begin, and would not fail hours later on a node.

Space is not: a node reads what a job touches of its layers, and its cache makes room for that.
"""

import re
from collections.abc import Collection, Sequence

from envkit.content.machinecode import KNOWN
from envkit.errors import Damaged, Unavailable
from envkit.model.order import Resources
from envkit.model.record import Record
from envkit.model.task import NodeFacts
from envkit.model.version import Version, VersionKind
from envkit.services.context import Context
from envkit.store import layout
from envkit.store.parallel import each

_CONSTRAINT = re.compile("-C|--cons")
_NO_PMI2 = "openmpi"


class Findings(Record):
    """What was found: features that the job's nodes must have, and what its submitter should know."""

    features: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def asked(self, resources: Resources) -> Resources:
        """Return what the queue is asked for: the same, on nodes with these features."""
        if not self.features:
            return resources
        return resources.replace(extra=(*resources.extra, f"--constraint={'&'.join(self.features)}"))


def check(context: Context, version: Version, resources: Resources, nodes: Sequence[NodeFacts]) -> Findings:
    """Refuse a job that cannot begin: layers are missing, or the queue has no node that could run it.

    :param nodes: what the queue has; empty where it cannot say.
    :raises Damaged: the store lacks a layer of the version.
    :raises Unavailable: no node fits.
    """
    _check_layers(context, version)
    features: tuple[str, ...] = ()
    notes = _mpi_notes(version, resources)
    if nodes:
        features, more = _check_nodes(version, resources, nodes)
        notes += more
    return Findings(features=features, notes=tuple(notes))


def _check_layers(context: Context, version: Version) -> None:
    keys = [layout.tree_key(layer.tree) for layer in version.layers]
    for key, size in zip(keys, each(context.store.size, keys), strict=True):
        if size is None:
            raise Damaged(
                f"{version} cannot run: {key} is not in the store {context.store.url}",
                resolution="`envkit verify` shows what else is missing, `envkit repair` mends what can be mended",
            )


def _check_nodes(
    version: Version, resources: Resources, nodes: Sequence[NodeFacts]
) -> tuple[tuple[str, ...], list[str]]:
    """Compare with one node after the other what one node has to have; return features to ask for, and notes."""
    where = "this queue"
    if resources.partition is not None:
        partitions = set(resources.partition.split(","))
        among = [node for node in nodes if partitions & set(node.partitions)]
        if among:  # else the queue says best what is wrong
            nodes, where = among, f"the partition {resources.partition}"
    # A node that has not yet told what it is, as one that is switched off, may be anything.
    fitting = [node for node in nodes if node.arch in ("", version.arch)]
    if not fitting:
        found = ", ".join(sorted({node.arch for node in nodes}))
        raise Unavailable(
            f"{version} was built for {version.arch}, and {where} has nodes of {found} only",
            resolution="build it on a machine like the nodes",
        )
    features, notes = _check_flags(version, resources, fitting, where)
    _check_amounts(resources, fitting, where)
    if not any(node.up for node in fitting):
        notes.append(f"all nodes of {where} that could run it are down: it waits for them")
    return features, notes


def _check_flags(
    version: Version, resources: Resources, nodes: Sequence[NodeFacts], where: str
) -> tuple[tuple[str, ...], list[str]]:
    """Look for the CPU flags that a version needs among the features that admins have given to nodes."""
    needs = version.needs.cpu
    if not needs:
        return (), []
    listed = ", ".join(needs)
    if not any(KNOWN & set(node.features) for node in nodes):
        return (), [
            f"{version} needs a CPU with {listed}; the nodes of {where} do not tell what theirs have,"
            " so this is looked at when it starts"
        ]
    if any(_CONSTRAINT.match(word) for word in resources.extra):
        return (), [f"{version} needs a CPU with {listed}; your --constraint alone chooses the nodes"]
    if not any(_has(node, needs) for node in nodes):
        raise Unavailable(
            f"{version} needs a CPU with {listed}, which no node of {where} has; {version.needs.cpu_file} was"
            " compiled for one",
            resolution="compile it without -march=native and save it again; or, if nodes have these flags, their"
            " features should name them: `envkit doctor --slurm-features`",
        )
    return needs, []


def _has(node: NodeFacts, flags: Collection[str]) -> bool:
    return not node.cpus or set(flags) <= set(node.features)


def _check_amounts(resources: Resources, nodes: Sequence[NodeFacts], where: str) -> None:
    if resources.nodes is not None and 1 < len(nodes) < resources.nodes:
        raise Unavailable(
            f"{where} has {len(nodes):,} nodes that could run it, not {resources.nodes:,}", resolution="ask for less"
        )
    if any(not node.cpus for node in nodes):
        return
    wanted = (("CPUs", "cpus", resources.cpus), ("bytes of memory", "memory", resources.memory))
    for what, field, amount in (*wanted, ("GPUs", "gpus", resources.gpus or None)):
        most = max(getattr(node, field) for node in nodes)
        if amount is None or amount <= most or (not most and field != "gpus"):
            continue
        raise Unavailable(
            f"no node of {where} has {amount:,} {what}",
            resolution=f"the largest has {most:,}: ask for less" if most else f"none has any {what}",
        )


def _mpi_notes(version: Version, resources: Resources) -> list[str]:
    """Say what looks wrong with how the processes of a job find one another; nothing here is sure."""
    kind, families = resources.mpi, version.needs.mpi
    if kind is not None and not families and version.kind is not VersionKind.BASE:  # bases are not looked through
        return [f"--mpi={kind}: no library of MPI was seen in {version}"]
    if kind == "pmi2" and families == (_NO_PMI2,):
        return ["--mpi=pmi2: Open MPI as Debian has it cannot use that; use --mpi=pmix"]
    if kind is None and resources.tasks > 1 and families:
        return [f"{version} has MPI ({', '.join(families)}): without --mpi its processes do not find one another"]
    return []
