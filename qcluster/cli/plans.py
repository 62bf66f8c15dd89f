"""``qcluster plans``: the stored plans of a running or stopped server."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table, note, read_json
from qcluster.cli.state import default_state_dir, server_address
from qcluster.errors import FormatError, NotFound
from qcluster.explain import explain
from qcluster.plan_diff import diff_plans, tell_diff

if TYPE_CHECKING:
    from actors.journal import Journal
    from qcluster.client import Client

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


@plans.command(
    "show", epilog="Example: qcluster plans show latest:routing --format sglang -o maps/"
)
def show(
    plan_id: str,
    form: str = typer.Option(
        "json",
        "--format",
        "-f",
        help="json, vllm, vllm-ascend, sglang, slurm, kubernetes, mlflow, ranks, cuda or nccl.",
    ),
    output: Path | None = typer.Option(None, "-o", "--output", help="A directory for the files."),
    topology: Path | None = typer.Option(
        None, help="Cluster topology, for NVLink domains in slurm and kubernetes."
    ),
    job: str | None = typer.Option(None, help="Only this job of a fabric plan."),
    dense_layers: int = typer.Option(
        0, min=0, max=10_000, help="Layers before the first with experts, which sglang counts."
    ),
    queue: str = typer.Option("", help="Kueue's LocalQueue, for kubernetes."),
    image: str = typer.Option("", help="Container image, for kubernetes."),
    state_dir: Path = StateDir,
) -> None:
    """Print a plan as JSON, or as others read it. PLAN_ID may be latest:PLANNER, or a JSON file."""
    plan = _find(state_dir, plan_id)
    if form == "json":
        emit_json(plan)
        return
    from qcluster.exports import Settings, export, write
    from qcluster.telemetry import Topology

    cluster = None if topology is None else Topology.read(topology)
    settings = Settings(
        topology=cluster, job=job, dense_layers=dense_layers, queue=queue, image=image
    )
    found = export(plan, form, settings)
    for line in found.notes:
        note(line)
    if output is not None:
        for path in write(found, output):
            typer.echo(path)
        return
    for name, text in found.files.items():
        if len(found.files) > 1:
            typer.echo(f"# --- {name}")
        typer.echo(text, nl=False)


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


Url = typer.Option("", help="The server; by default the one that owns the state dir.")
TokenFile = typer.Option(None, help="Its token; by default the file that it was given.")
Really = typer.Option(False, "--apply/--dry-run", help="Do it, or only say what would be done.")


@plans.command("apply", epilog="Example: qcluster plans apply latest:joint --apply")
def apply_(
    plan_id: str = typer.Argument("latest:joint", help="A joint or energy plan's id."),
    really: bool = Really,
    url: str = Url,
    token_file: Path | None = TokenFile,
    state_dir: Path = StateDir,
    as_json: bool = Json,
) -> None:
    """Say which power limits a plan sets; with --apply, have agents go on after a restore.

    A server that was started with --apply carries the newest safe plan out by itself.
    """
    with _client(url, token_file, state_dir) as client:
        told = client.apply(_plan_id(client, plan_id), dry_run=not really)
    if as_json:
        emit_json(told)
        return
    _say_mode(told, really)
    rows = [(node, i, w) for node, caps in told["caps_w"].items() for i, w in caps.items()]
    emit_table(("node", "gpu", "limit W"), rows)
    for node, agent in told["agents"].items():
        typer.echo(f"{node or 'agents'}: {agent['carrying']}")


@plans.command("restore", epilog="Example: qcluster plans restore latest:joint --apply")
def restore(
    plan_id: str = typer.Argument("latest:joint", help="A plan that was carried out."),
    really: bool = Really,
    url: str = Url,
    token_file: Path | None = TokenFile,
    state_dir: Path = StateDir,
    as_json: bool = Json,
) -> None:
    """Put back the power limits that stood before a plan was carried out.

    With --apply it is done, and no newer plan is carried out until `plans apply --apply`.
    latest:joint is the plan that the nodes carry out now.
    """
    with _client(url, token_file, state_dir) as client:
        told = client.restore(_plan_id(client, plan_id, carried=True), dry_run=not really)
    if as_json:
        emit_json(told)
        return
    _say_mode(told, really)
    for node, done in told["nodes"].items():
        before = done.get("previous") or "the boards' own limits"
        typer.echo(f"{node}: {done.get('error') or f'back to {before}'}")
    rows = [(n, u, w) for n, d in told["nodes"].items() for u, w in d.get("done", {}).items()]
    emit_table(("node", "gpu", "what"), rows)


def _client(url: str, token_file: Path | None, state_dir: Path) -> Client:
    from qcluster.client import Client

    address, token = server_address(url, token_file, state_dir)
    return Client(address, token, patience_s=10.0)


def _plan_id(client: Client, plan_id: str, *, carried: bool = False) -> str:
    """The id itself, or of a planner's newest plan, or of the one that is carried out."""
    if not plan_id.startswith("latest:"):
        return plan_id
    planner = plan_id.removeprefix("latest:")
    plans = client.plans()["plans"]
    if planner == "joint" and planner not in plans:
        planner = "energy"  # a server that was started without the joint planner
    plan = plans.get(planner)
    if plan is None:
        raise NotFound(f"there is no {planner} plan yet")
    newest = str(plan["plan_id"])
    if not carried or plan["telemetry"]["simulated"]:
        return newest
    agents = client.apply(newest, dry_run=True)["agents"].values()
    return next((str(one["plan_id"]) for one in agents if one.get("plan_id")), newest)


def _say_mode(told: dict[str, Any], really: bool) -> None:
    mode = "dry run" if told["dry_run"] else "done"
    why = ": the server was started without --apply" if told["dry_run"] and really else ""
    typer.echo(f"plan {told['plan_id']} ({mode}{why})")


def _journal(state_dir: Path) -> Journal:
    from actors.journal import Journal

    if not (state_dir / "plans.sqlite").exists():
        raise NotFound(f"no stored plans in {state_dir}")
    return Journal(state_dir)


def _find(state_dir: Path, plan_id: str) -> dict[str, Any]:
    if plan_id.endswith(".json"):
        return _read_plan(Path(plan_id))
    journal = _journal(state_dir)
    if plan_id.startswith("latest:"):
        planner = plan_id.removeprefix("latest:")
        plan = journal.newest(planner)
        if plan is None:
            raise NotFound(f"no stored plan of '{planner}' in {state_dir}")
        return plan
    return journal.get(plan_id)


def _read_plan(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if isinstance(found, dict) and {"slots", "gpu_of_slot"} <= found.keys():
        return {"planner": "routing", "placement": found}  # what ``qcluster place --json`` prints
    if not isinstance(found, dict) or not isinstance(found.get("planner"), str):
        raise FormatError("is no plan: it names no planner", file=path, field="planner")
    return found


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
