"""``qcluster status``: what runs, its health, and the age of telemetry and plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from qcluster.cli.output import emit_json, emit_table
from qcluster.cli.state import default_state_dir, server_address
from qcluster.errors import NotReady

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status", epilog="Example: qcluster status --json")(status)


def status(
    url: str = typer.Option("", help="The server; by default the one that owns the state dir."),
    state_dir: Path = typer.Option(default_state_dir(), help="State directory to look in."),
    token_file: Path | None = typer.Option(
        None, help="Its token; by default the file that the state dir's server was given."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine output on stdout."),
) -> None:
    """Show what a running server does. Exit status 1 when none runs."""
    url, token = server_address(url, token_file, state_dir)
    found = {"url": url, **_ask(url, token)}
    if as_json:
        emit_json(found)
        return
    typer.echo(f"qcluster at {url}")
    telemetry = found["telemetry"]
    if telemetry:
        health = telemetry["health"]
        for source, state in health["sources"].items():
            typer.echo(f"telemetry {source}: {state}, {health['silent_s']:.1f} s since the last")
    emit_table(("planner", "state", "age s", "objective", "gap", "solver"), _rows(found))


def _rows(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    rows = []
    for name, plan in found["plans"].items():
        state = found["alarms"][name] or "ok"
        if plan is None:
            rows.append((name, state, "-", "-", "-", "-"))
            continue
        gap = "-" if plan["gap"] is None else f"{plan['gap']:.3%}"
        age = f"{plan['age_s']:.1f}"
        rows.append((name, state, age, plan["objective"], gap, plan["solver"]["used"]))
    return rows


def _ask(url: str, token: str | None) -> dict[str, Any]:
    from qcluster.client import Client

    with Client(url, token, patience_s=3.0, timeout_s=10.0) as client:
        plans = client.plans()
        try:
            telemetry = client.telemetry()
        except NotReady:
            telemetry = None
    return {**plans, "telemetry": telemetry}
