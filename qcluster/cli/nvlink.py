"""``qcluster nvlink``: what a fabric can do, and a plan for jobs on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table, note, read_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from qcluster.q_nvlink import ClusterTree, Fabric, NVLinkPlan, Selection

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "nvlink", epilog="Example: nvidia-smi topo -m > topo.txt; qcluster nvlink topo.txt -k 4"
    )(nvlink)


def nvlink(
    fabric: Path = typer.Argument(
        ...,
        help="node-link JSON, NCCL topology XML, nvidia-smi topo -m or nvlink -s, topograph model, "
        "Slurm topology; "
        "- is stdin",
    ),
    jobs: Path | None = typer.Option(None, "--jobs", help="job profiles, JSON"),
    gangs: Path | None = typer.Option(
        None, "--gangs", help="gangs of pods to place over the fabric's NVLink domains, JSON"
    ),
    k: int | None = typer.Option(None, "-k", help="only the best subset of this many GPUs"),
    busy: list[str] = typer.Option([], "--busy", help="a GPU that is taken; may be repeated"),
    qaoa: bool = typer.Option(False, "--qaoa", help="simulated QAOA on the rounds' conflicts"),
    classifier: bool = typer.Option(False, "--classifier", help="try what the classifier suggests"),
    quantum_kernel: bool = typer.Option(
        False, "--quantum-kernel", help="the classifier's kernel: simulated circuits"
    ),
    rl: bool = typer.Option(False, "--rl", help="routes by learned agents over several paths"),
    weights: Path | None = typer.Option(
        None, "--weights", help="a directory that qcluster train wrote, for classifier and agents"
    ),
    deadline_s: float = typer.Option(1.0, "--deadline-s", help="seconds for the plan"),
    seed: int = typer.Option(0, "--seed"),
    as_json: bool = typer.Option(False, "--json", help="machine output"),
    write: str | None = typer.Option(
        None,
        "--write",
        help="of a topograph model or a Slurm topology: slurm-tree, slurm-block, slurm-yaml, "
        "k8s-labels",
    ),
) -> None:
    """Plan jobs on a fabric; without jobs, print the fabric and its best subsets with bounds.

    Example: nvidia-smi topo -m > topo.txt; qcluster nvlink topo.txt --jobs jobs.json
    """
    if write is not None:
        _write(fabric, write)
        return
    found = _read(fabric)
    for line in found.notes:
        note(line)
    if gangs is not None:
        _place_gangs(found, gangs, busy, as_json)
        return
    if jobs is None:
        _show_fabric(found, k, busy, as_json)
        return
    toggles = {"qaoa": qaoa, "classifier": classifier, "quantum_kernel": quantum_kernel, "rl": rl}
    settings = {**toggles, "deadline_s": deadline_s, "seed": seed}
    plan = _plan(found, jobs, settings, weights)
    if as_json:
        emit_json(plan)
    else:
        _show_plan(plan)


def _read(path: Path) -> Fabric:
    from qcluster.cli.output import read_text
    from qcluster.q_nvlink import load_fabric, parse_fabric

    return parse_fabric(read_text("-"), file="stdin") if str(path) == "-" else load_fabric(path)


def _write(path: Path, form: str) -> None:
    """Print the model at ``path`` as what a cluster manager reads."""
    import json

    from qcluster.errors import InputError
    from qcluster.q_nvlink import directives, load_tree

    writers: dict[str, Callable[[ClusterTree], str]] = {
        "slurm-tree": directives.slurm_tree,
        "slurm-block": directives.slurm_block,
        "slurm-yaml": directives.slurm_yaml,
        "k8s-labels": lambda tree: json.dumps(directives.kubernetes_labels(tree), indent=2),
    }
    if form not in writers:
        raise InputError(f"wants one of {', '.join(writers)}, got '{form}'", field="--write")
    typer.echo(writers[form](load_tree(path)).rstrip())


def _plan(fabric: Fabric, jobs: Path, settings: dict[str, Any], weights: Path | None) -> NVLinkPlan:
    from qcluster.errors import InputError
    from qcluster.q_nvlink import Models, NVLinkConfig, plan_fabric
    from qcluster.telemetry import Job

    models = None if weights is None else Models.load(weights)

    profiles = Job.parse_all(read_json(jobs), file=jobs)
    config = NVLinkConfig.read(settings)
    try:
        return plan_fabric(fabric, profiles, config=config, models=models)
    except InputError as error:
        raise error.at(file=jobs) from None


def _place_gangs(fabric: Fabric, path: Path, busy: list[str], as_json: bool) -> None:
    from qcluster.errors import InputError
    from qcluster.q_nvlink import place_gangs
    from qcluster.q_nvlink.gangs import list_racks, parse_gangs

    names = {str(gpu): gpu for gpu in fabric.gpus}
    racks = list_racks(fabric, busy=[names.get(name, name) for name in busy])
    try:
        plan = place_gangs(racks, parse_gangs(read_json(path)))
    except InputError as error:
        raise error.at(file=path) from None
    if as_json:
        emit_json(plan)
        return
    emit_table(
        ["gang", "pods by rack", "nodes"],
        [
            [
                gang,
                ", ".join(f"{rack} {n}" for rack, n in plan.racks[gang].items()),
                " ".join(nodes),
            ]
            for gang, nodes in plan.nodes.items()
        ],
        title="Placement",
    )
    for gang, reason in plan.unplaced.items():
        note(f"{gang} is not placed: {reason}")
    note(f"{len(plan.whole_racks)} racks stay whole")


def _show_fabric(fabric: Fabric, k: int | None, busy: list[str], as_json: bool) -> None:
    from qcluster.q_nvlink import select_gpus

    taken = [gpu for gpu in fabric.gpus if str(gpu) in set(busy)]
    taken += [name for name in busy if name not in {str(gpu) for gpu in fabric.gpus}]
    free = len(fabric.gpus) - len(taken)
    sizes = [k] if k is not None else _sizes(free)
    best = [select_gpus(fabric, size, busy=taken) for size in sizes]
    if as_json:
        emit_json({"fabric": _summary(fabric), "selections": best})
        return
    _print_fabric(fabric)
    emit_table(
        ["k", "GPUs", "GB/s", "at most", "effective", "over", "search"],
        [_selection_row(selection) for selection in best],
        title="\nBest subsets (all-gather bandwidth by minimum cut, per direction)",
    )


def _sizes(free: int) -> list[int]:
    """Every size up to 16, then powers of two and all."""
    sizes = set(range(2, min(free, 16) + 1))
    sizes |= {k for k in (32, 64, 128, 256) if k <= free}
    return sorted(sizes | {free}) if free else []


def _selection_row(selection: Selection) -> list[Any]:
    names = [str(gpu) for gpu in selection.gpus]
    shown = " ".join(names) if len(names) <= 8 else f"{' '.join(names[:4])} .. {names[-1]}"
    return [
        len(names),
        shown,
        selection.bandwidth_gb_s,
        selection.upper_bound_gb_s,
        selection.effective_gb_s,
        "NVLink" if selection.nvlink else "all links",
        "exact" if selection.exact else "local",
    ]


def _summary(fabric: Fabric) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for node in fabric.nodes:
        kinds[node.kind] = kinds.get(node.kind, 0) + 1
    return {
        "name": fabric.name,
        "gpus": list(fabric.gpus),
        "nodes": kinds,
        "links": [link.to_dict() for link in fabric.links],
        "notes": list(fabric.notes),
    }


def _print_fabric(fabric: Fabric) -> None:
    from qcluster.q_nvlink.fabric import FAST_KINDS

    rows = []
    for node in fabric.nodes:
        out = [link for link in fabric.links if link.source == node.id]
        if node.kind == "gpu":
            peers = [f"{link.target} x{link.links}" for link in out if link.kind == "nvlink"]
            shown = ", ".join(peers[:6]) + (f" and {len(peers) - 6} more" if len(peers) > 6 else "")
            fast = [link for link in out if link.kind in FAST_KINDS]
            rest = [link for link in out if link.kind not in FAST_KINDS]
            rows.append(
                [
                    node.id,
                    sum(link.bandwidth_gb_s for link in fast),
                    sum(link.effective_gb_s for link in fast),
                    sum(link.bandwidth_gb_s for link in rest),
                    shown or "none",
                ]
            )
    switches = len(fabric.nodes) - len(rows)
    title = f"{fabric.name}: {len(rows)} GPUs, {switches} other nodes, {len(fabric.links)} links"
    emit_table(["GPU", "NVLink GB/s", "effective", "other GB/s", "NVLink to"], rows, title=title)


def _show_plan(plan: NVLinkPlan) -> None:
    emit_table(
        ["job", "GPUs in order of ranks", "effective GB/s"],
        [[job.id, " ".join(map(str, job.gpus)), job.bandwidth_gb_s] for job in plan.jobs],
        title="Placement",
    )
    for job_id, reason in plan.unplaced.items():
        note(f"{job_id} is not placed: {reason}")
    loads = sorted(plan.link_seconds.items(), key=lambda item: -item[1])[:8]
    emit_table(
        ["link", "ms", "share"],
        [[name, 1e3 * seconds, plan.link_loads[name]] for name, seconds in loads],
        title="\nBusiest links",
    )
    bound = "no bound" if plan.lower_bound is None else f"at least {1e3 * plan.lower_bound:.4g} ms"
    others = ", ".join(f"{name} {1e3 * value:.4g} ms" for name, value in plan.baselines.items())
    note(f"step {1e3 * plan.objective:.4g} ms ({bound}; {others}; by {plan.solver.used})")
    note(f"{len(plan.rounds)} rounds, at least {plan.rounds_lower_bound}")
    for line in plan.warnings:
        note(line)
