"""``qcluster place``: expert loads to a placement."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["place", "register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("place")(place)


def place(
    load: str = typer.Argument(help="Expert loads, layers x experts: npz, CSV or JSON."),
    gpus: int = typer.Option(..., "--gpus", help="Number of GPUs."),
    slots: int = typer.Option(..., "--slots", help="Slots a layer, over all GPUs."),
    nodes: int = typer.Option(1, "--nodes", help="Number of nodes, GPUs in order."),
    groups: int = typer.Option(1, "--groups", help="Groups of experts; with --hierarchical."),
    hierarchical: bool = typer.Option(False, "--hierarchical", help="Keep groups on nodes."),
    previous: str | None = typer.Option(None, "--previous", help="Placement in force, JSON."),
    max_moved: float | None = typer.Option(None, "--max-moved", help="Share of slots, 0 to 1."),
    trace: str | None = typer.Option(None, "--trace", help="Router trace, npz."),
    engine: str | None = typer.Option(None, "--engine", help="Write SGLang/vLLM's JSON form."),
    output: str | None = typer.Option(None, "--output", "-o", help="Write the placement as JSON."),
    json_out: bool = typer.Option(False, "--json", help="The placement as JSON on stdout."),
) -> None:
    """Place experts onto GPUs, with a proven bound.

    Example: qcluster place load.csv --gpus 16 --slots 96
    """
    import json

    from qcluster.cli.output import emit_json, note, write_atomic
    from qcluster.q_routing.eplb import expert_location
    from qcluster.q_routing.formats import read_load_file, read_placement, read_trace
    from qcluster.q_routing.placement import place_experts

    placement = place_experts(
        read_load_file(load),
        num_slots=slots,
        num_gpus=gpus,
        num_nodes=nodes,
        num_groups=groups,
        mode="hierarchical" if hierarchical else "global",
        previous=None if previous is None else read_placement(previous),
        max_moved=max_moved,
        trace=None if trace is None else read_trace(trace),
    )
    if engine is not None:
        write_atomic(engine, json.dumps(expert_location(placement)) + "\n")
        note(f"wrote {engine}")
    if output is not None:
        write_atomic(output, placement.to_dict())
        note(f"wrote {output}")
    if json_out:
        emit_json(placement.to_dict())
    else:
        _show(placement)


def _show(placement: Any) -> None:
    from qcluster.cli.output import emit_table

    layers, slots = placement.slots.shape
    rows = [
        ("layers x slots", f"{layers} x {slots} on {placement.num_gpus} GPUs"),
        ("balancedness", f"{placement.balancedness:.5f}"),
        ("upper bound", f"{placement.upper_bound:.5f} (no placement exceeds it)"),
        ("gap", f"{1 - placement.balancedness / placement.upper_bound:.3%}"),
        ("slots moved", f"{len(placement.moves)} ({placement.moved_share:.2%})"),
    ]
    emit_table(["", "placement"], rows)
