"""``qcluster serve``: the main job. Ray, hub, planners, store, HTTP and page, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import typer

from qcluster.cli.output import note
from qcluster.cli.state import default_state_dir, lock_state
from qcluster.errors import InputError, QClusterError, Refused

__all__ = ["register"]

FIRST_PLAN_S = 120.0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "serve",
        epilog="Example: qcluster serve --telemetry simulate:nvl72 --port 8000",
    )(serve)


def serve(
    telemetry: list[str] = typer.Option(
        ["auto"],
        help="Source, may be repeated: auto, simulate[:RACK], replay:FILE[@SPEED], ray, push.",
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
    period_s: float = typer.Option(2.0, min=0.2, max=3600.0, help="Seconds between plans."),
    replicas: int = typer.Option(2, min=1, max=64, help="Copies of the HTTP API."),
) -> None:
    """Take telemetry in, give plans out, over HTTP and on a page, until Ctrl-C."""
    described = (("topology", topology), ("jobs", jobs))
    specs = _sources([*(f"{kind}:{path}" for kind, path in described if path), *telemetry])
    digest = _check_listen(host, port, token_file)
    url = f"http://{host}:{port}"
    stopped = threading.Event()
    _stop_on_signals(stopped)
    state_dir = state_dir.absolute()
    server = {"url": url, "token_file": str(token_file.absolute()) if token_file else None}
    options = {"replicas": replicas, "token_sha256": digest}
    with lock_state(state_dir, server):
        os.environ["PYTHONPATH"] = os.pathsep.join(_import_path())
        _run(specs, address, host, port, state_dir, period_s, options, stopped)


def _run(
    specs: list[str],
    address: str,
    host: str,
    port: int,
    state_dir: Path,
    period_s: float,
    options: dict[str, Any],
    stopped: threading.Event,
) -> None:
    from actors.runtime import running_ray

    started = time.monotonic()
    note(f"starting Ray ({address}) ...")
    with running_ray(address, state_dir):
        _stop_on_signals(stopped)  # again: ray.init puts a handler of its own on SIGTERM
        from actors.cluster import STORE, connect, start_cluster, stop_cluster
        from deployments.app import ApiOptions, deploy, withdraw

        try:
            note(f"starting planners on {', '.join(specs)} ...")
            start_cluster(telemetry=specs, state_dir=state_dir, period_s=period_s)
            note("starting HTTP ...")
            deploy(host, port, ApiOptions(**options))
            note(f"open http://{host}:{port}/ for the page, /docs for the API; Ctrl-C stops")
            _first_plans(connect(STORE), started, stopped)
            stopped.wait()
        finally:
            note("stopping ...")
            if address != "local":  # a Ray of our own goes down with everything in it
                _quietly(withdraw)
                _quietly(stop_cluster)


def _first_plans(store: Any, started: float, stopped: threading.Event) -> None:
    """Say when each planner's first plan is there, or why it is not."""
    waiting, seq, alarms = None, 0, {}
    while not stopped.is_set() and time.monotonic() - started < FIRST_PLAN_S:
        try:
            latest = store.all_latest()
        except QClusterError:
            stopped.wait(0.5)
            continue
        if waiting is None:
            waiting = set(latest)
        for name in sorted(waiting):
            view = latest[name]
            if view["plan"] is not None and not view["plan"]["stale"]:
                waiting.discard(name)
                plan = view["plan"]
                took = time.monotonic() - started
                note(f"{name}: first plan after {took:.1f} s, gap {_percent(plan['gap'])}")
            alarms[name] = view["alarm"]
        if not waiting:
            return
        seq = store.wait(seq, 1.0)
    for name in sorted(waiting or ()):
        note(f"{name}: no plan yet: {alarms.get(name)}")


def _percent(gap: float | None) -> str:
    return "unknown" if gap is None else f"{gap:.2%}"


def _sources(specs: list[str]) -> list[str]:
    from qcluster.telemetry.sources import open_source
    from qcluster.telemetry.sources.auto import detect

    resolved = []
    for spec in specs:
        if spec == "auto":
            chosen, reason = detect()
            note(f"telemetry auto: {chosen} ({reason})")
            resolved.append(chosen)
        else:
            resolved.append(spec)
    for spec in resolved:
        open_source(spec)  # a wrong name or a missing file is said before anything starts
    return [_absolute(spec) for spec in resolved]


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


def _stop_on_signals(stopped: threading.Event) -> None:
    # Setting an event twice does nothing: a second Ctrl-C must not leave processes behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())


def _import_path() -> list[str]:
    """This checkout first, so that Ray's workers import the code that started them."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [root, *(entry for entry in inherited if entry and entry != root)]


def _quietly(step: Any) -> None:
    try:
        step()
    except Exception as error:
        print(f"qcluster: while stopping: {error}", file=sys.stderr)  # noqa: T201
