"""``qcluster serve``: the main job. Ray, hub, planners, store, HTTP and page, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import typer

from qcluster.cli.output import note
from qcluster.cli.server import stop_on_signals
from qcluster.cli.state import default_state_dir, lock_state
from qcluster.cli.supervisor import Settings, supervise
from qcluster.errors import FormatError, InputError, Refused

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "serve",
        epilog="Example: qcluster serve --telemetry simulate:nvl72 --port 8000",
    )(serve)


def serve(
    telemetry: list[str] = typer.Option(
        ["auto"],
        help="Source, repeatable: auto, simulate[:RACK], replay:FILE[@SPEED], nvml, ray, push.",
    ),
    topology: Path | None = typer.Option(None, help="Cluster topology file, YAML or JSON."),
    jobs: Path | None = typer.Option(None, help="Job profiles file, YAML or JSON."),
    address: str = typer.Option("local", help="local starts a Ray; auto or HOST:PORT joins one."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(8000, min=1, max=65535, help="Port to listen on."),
    state_dir: Path = typer.Option(default_state_dir(), help="Stored plans live here."),
    token_file: Path | None = typer.Option(
        None, help="File with the token that /v1 wants; made with mode 0600 if it is not there."
    ),
    config: Path | None = typer.Option(
        None, help="Planners' configurations, YAML or JSON: energy: {budget_w: 40000}, ..."
    ),
    period_s: float = typer.Option(2.0, min=0.2, max=3600.0, help="Seconds between plans."),
    replicas: int = typer.Option(2, min=1, max=64, help="Copies of the HTTP API."),
    apply: bool = typer.Option(
        False, "--apply/--dry-run", help="Set power limits by energy plans, or only say which."
    ),
) -> None:
    """Take telemetry in, give plans out, over HTTP and on a page, until Ctrl-C."""
    configs = _read_configs(config)
    described = (("topology", topology), ("jobs", jobs))
    files = [f"{kind}:{path}" for kind, path in described if path]
    specs, agents, stand_in = _sources([*files, *telemetry], address)
    digest = _check_listen(host, port, token_file)
    url = f"http://{host}:{port}"
    server = {"url": url, "token_file": str(token_file.absolute()) if token_file else None}
    options = {"replicas": replicas, "token_sha256": digest, "apply": apply}
    stopped = threading.Event()
    stop_on_signals(stopped)
    state_dir = state_dir.absolute()
    with lock_state(state_dir, server):
        os.environ["PYTHONPATH"] = os.pathsep.join(_import_path())
        settings = Settings(
            sources=specs,
            address=address,
            host=host,
            port=port,
            state_dir=str(state_dir),
            period_s=period_s,
            options=options,
            agents=agents,
            stand_in=stand_in,
            apply=apply,
            configs=configs,
        )
        status = supervise(settings, stopped)
    if status:
        raise typer.Exit(status)


def _sources(specs: list[str], address: str) -> tuple[list[str], bool, str | None]:
    """The hub's sources, whether nodes get agents, and which source stands in until they deliver.

    NVML is read by agents, one on every node that has a driver; ``auto`` runs the simulator only
    as long as there is none.
    """
    from qcluster.telemetry.sources import open_source
    from qcluster.telemetry.sources.auto import detect

    resolved: list[str] = []
    agents, stand_in = False, None
    for spec in specs:
        if spec == "nvml":
            agents = True
        elif spec == "auto":
            chosen, reason = detect()
            note(f"telemetry auto: {chosen} ({reason})")
            # Other nodes of a cluster that we join may have GPUs, now or later.
            agents = agents or chosen == "nvml" or address != "local"
            if chosen != "nvml":
                resolved.append(chosen)
                stand_in = chosen
        else:
            resolved.append(spec)
    for spec in resolved:
        open_source(spec)  # a wrong name or a missing file is said before anything starts
    return [_absolute(spec) for spec in resolved], agents, stand_in if agents else None


def _read_configs(path: Path | None) -> dict[str, dict[str, Any]]:
    """What the file says of each planner. Raises FormatError, InputError naming file and field."""
    if path is None:
        return {}
    from actors.planners import checked_configs
    from qcluster.telemetry.documents import read_document

    content = read_document(path)
    if not isinstance(content, dict):
        raise FormatError("wants planners by name, such as energy: {budget_w: 40000}", file=path)
    try:
        checked_configs(content)
    except InputError as error:
        raise error.at(file=path) from None
    return content


def _absolute(spec: str) -> str:
    # Actors run in other directories: a replayed file must be named from the root.
    name, _, argument = spec.partition(":")
    files = ("replay", "topology", "jobs")
    return f"{name}:{Path(argument).absolute()}" if name in files else spec


def _check_listen(host: str, port: int, token_file: Path | None) -> str:
    """The digest of the token, empty without one. Raises Refused beyond loopback without one."""
    if token_file is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise Refused(f"listening on {host} needs a token: give --token-file FILE")
    digest = ""
    if token_file is not None:
        from deployments.security import read_token, token_digest

        digest = token_digest(read_token(token_file))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"cannot listen on {host}:{port}: {reason}", field="--port") from None
    return digest


def _import_path() -> list[str]:
    """This checkout first, so that Ray's workers import the code that started them."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [root, *(entry for entry in inherited if entry and entry != root)]
