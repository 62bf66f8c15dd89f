"""Plans for Slurm: batch scripts, topology files, and a prolog that sets power limits.

A job's script asks for the plan's nodes and starts its ranks in the plan's order, by the host file
of ``--distribution=arbitrary``. ``topology.conf`` and ``topology.yaml`` hold the NVLink domains.
Slurm has no power limit of a GPU; ``Prolog`` and ``Epilog`` of slurm.conf may set one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from qcluster.errors import InputError
from qcluster.exports.parts import Export, Settings, assignment, caps, nodes_of, parts
from qcluster.q_nvlink.cluster_tree import Block, ClusterTree, fold_hosts
from qcluster.q_nvlink.directives import slurm_block, slurm_tree, slurm_yaml
from qcluster.telemetry.topology import Topology

__all__ = ["batch_script", "domains", "power_scripts", "slurm", "tree_of"]

_ROOT = "cluster"
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def slurm(plan: Mapping[str, Any], settings: Settings) -> Export:
    """Everything that Slurm can take of a plan.

    Raises InputError for a plan without a fabric or an energy part, and for names that Slurm
    cannot have.
    """
    found = parts(plan)
    files: dict[str, str] = {}
    notes: list[str] = []
    if settings.topology is not None:
        tree = tree_of(settings.topology)
        files["topology.conf"] = slurm_block(tree)
        files["topology.tree.conf"] = slurm_tree(tree)
        files["topology.yaml"] = slurm_yaml(tree)
        notes.append("topology.conf is for topology/block, topology.tree.conf for topology/tree")
    else:
        notes.append("no topology given: jobs and power limits only")
    if "nvlink" in found:
        for job, gpus in assignment(found["nvlink"], settings.job).items():
            files[f"{_safe(job, 'job')}.sbatch"] = batch_script(job, gpus)
    if "energy" in found:
        files |= power_scripts(caps(found["energy"]), _remark(found["energy"]))
    if not files:
        raise InputError("slurm wants a plan of nvlink or energy, or a topology")
    return Export(files=files, notes=notes)


def domains(topology: Topology) -> dict[str, list[str]]:
    """NVLink domain to its nodes, in order; a node without one is its own."""
    found: dict[str, list[str]] = {}
    for node in topology.nodes:
        found.setdefault(node.domain or node.id, []).append(_safe(node.id, "nodes"))
    if not found:
        raise InputError("the topology has no nodes", field="nodes")
    return found


def tree_of(topology: Topology) -> ClusterTree:
    """The domains as blocks under one switch."""
    groups = domains(topology)
    leaves = {name: f"leaf-{_safe(name, 'domain')}" for name in groups}
    blocks = tuple(
        Block(switch=leaves[name], nodes=tuple(nodes), domain=name)
        for name, nodes in groups.items()
    )
    return ClusterTree(switches={_ROOT: tuple(leaves.values())}, blocks=blocks)


def batch_script(job: str, gpus: Sequence[str]) -> str:
    """A job's batch script: ``sbatch JOB.sbatch COMMAND ...`` starts COMMAND as every rank."""
    nodes = nodes_of(gpus)
    for node in nodes:
        _safe(node, f"assignment.{job}")
    counts = {len(indices) for indices in nodes.values()}
    orders = {tuple(indices) for indices in nodes.values()}
    per = f"--gpus-per-node={counts.pop()}" if len(counts) == 1 else "--gpus-per-task=1"
    bind = ""
    if len(orders) == 1:
        bind = f" --gpu-bind=map_gpu:{','.join(map(str, orders.pop()))}"
    hosts = [name for name, _ in (gpu.rsplit("/", 1) for gpu in gpus)]
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={_safe(job, 'job')}",
            f"#SBATCH --nodes={len(nodes)}",
            f"#SBATCH --ntasks={len(gpus)}",
            f"#SBATCH --nodelist={fold_hosts(nodes)}",
            f"#SBATCH {per}",
            "# One line a rank: the n-th rank starts on the n-th host.",
            "hosts=$(mktemp) && trap 'rm -f \"$hosts\"' EXIT",
            "cat >\"$hosts\" <<'END'",
            *hosts,
            "END",
            f'SLURM_HOSTFILE="$hosts" srun --distribution=arbitrary{bind} "$@"',
            "",
        ]
    )


def power_scripts(limits: Mapping[str, Mapping[int, float]], remark: str) -> dict[str, str]:
    """Prolog and epilog of the nodes: set the plan's limits, and give back the boards' own."""
    cases = []
    for node, watts in limits.items():
        sets = [f"set_limit {index} {math.floor(value)};" for index, value in sorted(watts.items())]
        cases += [f"{shlex.quote(node)})", *(f"  {line}" for line in sets), "  ;;"]
    head = ["#!/bin/bash", f"# {remark}", "set -eu"]
    prolog = [
        *head,
        'set_limit() { nvidia-smi -i "$1" -pl "$2" >/dev/null; }',
        'case "${SLURMD_NODENAME:-$(hostname -s)}" in',
        *cases,
        "esac",
        "",
    ]
    epilog = [
        *head,
        "nvidia-smi --query-gpu=index,power.default_limit --format=csv,noheader,nounits |",
        'while IFS=", " read -r gpu watts; do nvidia-smi -i "$gpu" -pl "$watts" >/dev/null; done',
        "",
    ]
    return {"power_prolog.sh": "\n".join(prolog), "power_epilog.sh": "\n".join(epilog)}


def _remark(plan: Mapping[str, Any]) -> str:
    source = plan.get("telemetry")
    simulated = isinstance(source, Mapping) and source.get("simulated")
    made = " from simulated telemetry: not for real boards" if simulated else ""
    return f"power limits of plan {plan.get('plan_id', 'without an id')}{made}"


def _safe(name: str, field: str) -> str:
    """The name, if Slurm and a shell take it as it is."""
    if not name or not set(name) <= _SAFE or name.startswith("-"):
        message = f"'{name:.60}' cannot be a name in Slurm: letters, digits, '.', '_', '-'"
        raise InputError(message, field=field)
    return name
