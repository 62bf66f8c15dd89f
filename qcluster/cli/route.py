"""``qcluster route``: tokens and a model graph to a routing plan."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["register", "route"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("route")(route)


def route(
    tokens: str = typer.Argument(help="Tokens: JSON list, JSON lines or CSV."),
    graph: str = typer.Option(..., "--graph", help="Model graph: node-link JSON."),
    qaoa: bool = typer.Option(False, "--qaoa", help="Search with simulated QAOA."),
    layers: int = typer.Option(2, "--layers", help="QAOA layers."),
    hqc: bool = typer.Option(False, "--hqc", help="Warm start from a classical plan."),
    deterministic: bool = typer.Option(False, "--deterministic", help="Fall back to the hash."),
    simulator: bool = typer.Option(False, "--simulator", help="Classical drop-in for QAOA."),
    config: str | None = typer.Option(None, "--config", help="JSON file of the configuration."),
    deadline_s: float = typer.Option(1.0, "--deadline-s", help="Seconds for the answer."),
    seed: int = typer.Option(0, "--seed", help="Seed of everything random."),
    log: str | None = typer.Option(None, "--log", help="Append one JSON line about the plan."),
    output: str | None = typer.Option(None, "--output", "-o", help="Write the plan as JSON."),
    json_out: bool = typer.Option(False, "--json", help="The plan as JSON on stdout."),
) -> None:
    """Route tokens to experts, with a proven bound and baselines.

    Example: qcluster route tokens.jsonl --graph model_graph.json --qaoa --hqc
    """
    from qcluster.cli.output import emit_json, note, read_json, write_atomic
    from qcluster.errors import InputError
    from qcluster.q_routing.config import RoutingConfig
    from qcluster.q_routing.route import route as solve

    toggles = {
        "qaoa": qaoa, "hqc": hqc, "deterministic": deterministic, "simulator": simulator,
    }  # fmt: skip
    given: dict[str, Any] = {name: True for name, on in toggles.items() if on}
    if layers != 2:
        given["layers"] = layers
    base = {} if config is None else read_json(config)
    settings = RoutingConfig.read(_mapping(base, config) | given)
    try:
        plan = solve(tokens, graph, config=settings, deadline_s=deadline_s, seed=seed)
    except InputError as error:  # what is wrong with the graph names the graph already
        raise error.at(file=tokens) from None
    if log is not None:
        _append(log, plan)
    if output is not None:
        write_atomic(output, plan.to_dict())
        note(f"wrote {output}")
    if json_out:
        emit_json(plan.to_dict())
    else:
        _show(plan)


def _mapping(data: Any, path: str | None) -> dict[str, Any]:
    from qcluster.errors import FormatError

    if not isinstance(data, dict):
        raise FormatError("wants a mapping", file=path)
    return data


def _append(path: str, plan: Any) -> None:
    """One JSON line: configuration, angles, iterations, energies, fallback."""
    import json
    from pathlib import Path

    from qcluster.record import encode

    line = {
        "plan_id": plan.plan_id,
        "created_at": plan.created_at,
        "config": plan.config,
        "solver": plan.solver,
        "objective": plan.objective,
        "lower_bound": plan.lower_bound,
        "baselines": plan.baselines,
        "angles": plan.params.get("angles"),
        "iterations": plan.params.get("iterations", 0),
        "energies": plan.params.get("energies", []),
        "fallback_reason": plan.solver.fallback_reason,
        "wall_s": plan.wall_s,
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(encode(line), allow_nan=False) + "\n")


def _show(plan: Any) -> None:
    from qcluster.cli.output import emit_table, note
    from qcluster.plan import describe

    note(describe(plan))
    note(f"solver {plan.solver.used}" + (
        f" ({plan.solver.fallback_reason})" if plan.solver.fallback_reason else ""
    ))  # fmt: skip
    for warning in plan.warnings:
        note(f"warning: {warning}")
    emit_table(["token", "expert"], plan.assignment.items())
