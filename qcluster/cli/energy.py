"""``qcluster energy``: a power plan from telemetry, or a low peak for a set of dependent tasks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table, note
from qcluster.errors import InputError

if TYPE_CHECKING:
    from qcluster.q_energy import EnergyPlan, Schedule

__all__ = ["register"]

_PROJECTS = (".sm", ".mm", ".rcp")
_SHOWN = 16
_JOBS = 200


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "energy",
        epilog="Example: qcluster energy power.csv.gz --topology cluster.yaml --budget-w 350000, "
        "or qcluster energy j301_1.sm --stretch 1.2",
    )(energy)


def energy(
    telemetry: Path = typer.Argument(
        help="Power readings (CSV, nvidia-smi log, JSON lines, MLPerf log, Prometheus text; .gz "
        "too; - for a pipe), or a PSPLIB project (.sm, .mm) to schedule by itself."
    ),
    topology: Path | None = typer.Option(None, help="Cluster topology, YAML or JSON."),
    jobs: Path | None = typer.Option(None, help="Job profiles (JSON) or a PSPLIB project."),
    budget_w: float | None = typer.Option(
        None, "--budget-w", min=0, help="Watts for everything; default 80 % of nameplate."
    ),
    steps: int | None = typer.Option(
        None, "--deadline", min=0, help="Deadline of a PSPLIB project in time steps."
    ),
    stretch: float = typer.Option(
        1.2, min=1, max=100, help="Deadline as a multiple of the critical path, if none is given."
    ),
    qaoa: bool = typer.Option(False, "--qaoa", help="Rework windows at the peak by QAOA."),
    gnn: bool = typer.Option(True, "--gnn/--no-gnn", help="Learned curves, one shared budget."),
    meta: bool = typer.Option(False, "--meta", help="Choose the pipeline from past costs."),
    power_modes: bool = typer.Option(
        False,
        "--power-modes",
        help="Let jobs run slower at lower power where that lowers the peak.",
    ),
    weights: Path | None = typer.Option(
        None, help="Directory that `qcluster train` wrote; default: the package's own networks."
    ),
    deadline_s: float = typer.Option(1.0, min=0, max=3600, help="Seconds for the answer."),
    seed: int = typer.Option(0, min=0, help="Seed of everything random."),
    as_json: bool = typer.Option(False, "--json", help="Machine output on stdout."),
) -> None:
    """Plan power: caps within a budget, and a schedule of dependent jobs with a low peak."""
    if telemetry.suffix.lower() in _PROJECTS:
        schedule = _project(telemetry, steps, stretch, qaoa, deadline_s, seed)
        emit_json(schedule) if as_json else _show_schedule(schedule)
        return
    if steps is not None:
        raise InputError("is for a PSPLIB project as TELEMETRY", field="--deadline")
    from qcluster.q_energy import EnergyConfig, plan_energy

    plan = plan_energy(
        telemetry,
        topology,
        jobs=jobs,
        budget_w=budget_w,
        config=EnergyConfig(
            qaoa=qaoa,
            gnn=gnn,
            meta=meta,
            power_modes=power_modes,
            stretch=stretch,
            weights=None if weights is None else str(weights),
        ),
        deadline_s=deadline_s,
        seed=seed,
    )
    emit_json(plan) if as_json else _show_plan(plan)


def _project(
    path: Path, steps: int | None, stretch: float, qaoa: bool, deadline_s: float, seed: int
) -> Schedule:
    from qcluster.q_energy import critical_path, level_peak, read_psplib

    tasks = read_psplib(path)
    if steps is None:
        steps = math.ceil(stretch * critical_path(tasks) - 1e-9)
    return level_peak(tasks, deadline=steps, deadline_s=deadline_s, qaoa=qaoa, seed=seed)


def _show_schedule(schedule: Schedule) -> None:
    emit_table(("figure", "value"), _schedule_rows(schedule))
    _show_starts(schedule)


def _schedule_rows(schedule: Schedule) -> list[tuple[str, Any]]:
    return [
        ("peak", f"{schedule.peak_w:g} W"),
        ("proven bound", f"{schedule.lower_bound:g} W (gap {schedule.gap:.2%})"),
        *((f"baseline {name}", f"{value:g} W") for name, value in schedule.baselines.items()),
        ("makespan", f"{schedule.makespan} of {schedule.deadline} steps"),
        ("solver", schedule.solver.used),
    ]


def _show_plan(plan: EnergyPlan) -> None:
    for line in plan.warnings:
        note(f"warning: {line}")
    n = len(plan.gpus)
    bound = "none" if plan.upper_bound is None else f"{plan.upper_bound / n:.2%}"
    saved = plan.predicted_savings
    rows = [
        ("budget", f"{plan.budget_w:.0f} W"),
        ("predicted power p50 / p95",
         f"{plan.predicted_power_w['p50']:.0f} / {plan.predicted_power_w['p95']:.0f} W"),
        ("predicted speed", f"{plan.throughput / n:.2%} of full (no caps can reach {bound})"),
        *((f"baseline {name}", f"{-value / n:.2%}") for name, value in plan.baselines.items()),
        (f"energy against {saved.baseline}",
         f"{saved.energy_j / 3.6e6:.3f} kWh less in {plan.window_s:g} s ({saved.share:.2%})"),
        ("active", ", ".join(f"{n} {kind}" for kind, n in plan.active_accelerators.items())),
        ("solver", plan.solver.used),
    ]  # fmt: skip
    emit_table(("figure", "value"), rows)
    nodes = [
        (
            node.id,
            f"{min(node.caps_w.values()):.0f} to {max(node.caps_w.values()):.0f}",
            node.predicted_power_w["p50"],
            node.predicted_power_w["p95"],
        )
        for node in plan.nodes[:_SHOWN]
        if node.caps_w
    ]
    emit_table(("node", "caps W", "p50 W", "p95 W"), nodes, title="\nNodes")
    if len(plan.nodes) > _SHOWN:
        note(f"{len(plan.nodes) - _SHOWN} more nodes; --json has all")
    if plan.schedule is not None:
        emit_table(("figure", "value"), _schedule_rows(plan.schedule), title="\nJobs")
        _show_starts(plan.schedule)
    if plan.dispatch:
        sent = [(row.job, row.to or "GPUs", row.reason) for row in plan.dispatch]
        emit_table(("job", "goes to", "why"), sent, title="\nAccelerators")


def _show_starts(schedule: Schedule) -> None:
    step = schedule.notes.get("step_s")
    name = "start step" if step is None else "start s"
    order = sorted(schedule.start, key=lambda task: (schedule.start[task], str(task)))
    scale = 1 if step is None else step
    rows = [(task, schedule.start[task] * scale, schedule.mode[task]) for task in order[:_JOBS]]
    emit_table(("job", name, "mode"), rows)
    if len(order) > _JOBS:
        note(f"{len(order) - _JOBS} more jobs; --json has all")
