"""``qcluster plans``: the stored plans of a running or stopped server."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table
from qcluster.cli.state import default_state_dir
from qcluster.errors import NotFound
from qcluster.explain import explain
from qcluster.plan_diff import diff_plans, tell_diff

if TYPE_CHECKING:
    from actors.journal import Journal

__all__ = ["register"]

plans = typer.Typer(
    name="plans",
    help="The stored plans of a running or stopped server.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StateDir = typer.Option(default_state_dir(), help="State directory of the server.")
Json = typer.Option(False, "--json", help="Machine output on stdout.")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(plans, epilog="Example: qcluster plans explain latest:routing")


@plans.command("list", epilog="Example: qcluster plans list --planner energy --limit 20")
def list_(
    planner: str = typer.Option("", help="Only this planner's."),
    limit: int = typer.Option(20, min=1, max=1000, help="How many, newest first."),
    state_dir: Path = StateDir,
    as_json: bool = Json,
) -> None:
    """List plans, newest first."""
    found = _journal(state_dir).history(planner or None, limit)
    if as_json:
        emit_json({"plans": found})
        return
    columns = ("plan", "planner", "made", "objective", "gap", "solver", "fell back because")
    emit_table(columns, [_row(plan) for plan in found])


@plans.command("show", epilog="Example: qcluster plans show latest:nvlink")
def show(plan_id: str, state_dir: Path = StateDir) -> None:
    """Print a plan as JSON. PLAN_ID may be latest:PLANNER."""
    emit_json(_find(state_dir, plan_id))


@plans.command("explain", epilog="Example: qcluster plans explain latest:routing")
def explain_(plan_id: str, state_dir: Path = StateDir, as_json: bool = Json) -> None:
    """Say why a plan is as it is. PLAN_ID may be latest:PLANNER."""
    told = explain(_find(state_dir, plan_id))
    if as_json:
        emit_json(told)
        return
    typer.echo(f"{told['planner']} plan {told['plan_id']}")
    for line in told["because"]:
        typer.echo(f"- {line}")


@plans.command("diff", epilog="Example: qcluster plans diff latest:energy")
def diff(
    plan_id: str,
    against: str = typer.Argument("", help="Another plan; by default the one before it."),
    state_dir: Path = StateDir,
    as_json: bool = Json,
) -> None:
    """Say what a plan changes. Both ids may be latest:PLANNER."""
    new = _find(state_dir, plan_id)
    found = diff_plans(_find(state_dir, against or _journal(state_dir).before(new["plan_id"])), new)
    if as_json:
        emit_json(found)
        return
    typer.echo(f"{found['planner']} plan {found['plan_id']} against {found['against']}")
    for line in tell_diff(found):
        typer.echo(line)


def _journal(state_dir: Path) -> Journal:
    from actors.journal import Journal

    if not (state_dir / "plans.sqlite").exists():
        raise NotFound(f"no stored plans in {state_dir}")
    return Journal(state_dir)


def _find(state_dir: Path, plan_id: str) -> dict[str, Any]:
    journal = _journal(state_dir)
    if plan_id.startswith("latest:"):
        planner = plan_id.removeprefix("latest:")
        plan = journal.newest(planner)
        if plan is None:
            raise NotFound(f"no stored plan of '{planner}' in {state_dir}")
        return plan
    return journal.get(plan_id)


def _row(plan: dict[str, Any]) -> tuple[Any, ...]:
    made = dt.datetime.fromtimestamp(plan["created_at"], dt.UTC)
    gap = "-" if plan["gap"] is None else f"{plan['gap']:.3%}"
    solver = plan["solver"]
    return (
        plan["plan_id"],
        plan["planner"],
        made.strftime("%Y-%m-%d %H:%M:%SZ"),
        plan["objective"],
        gap,
        solver["used"],
        solver["fallback_reason"] or "",
    )
