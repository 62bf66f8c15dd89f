"""``qcluster doctor``: what this machine lacks, and what that costs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from qcluster.cli.output import emit_json, emit_table, note
from qcluster.cli.state import default_state_dir
from qcluster.record import Record

__all__ = ["register"]

_CORE = ("ray", "torch", "numpy", "scipy", "numba", "networkx", "pandas", "fastapi")
_OPTIONAL = {
    "pennylane": "PennyLane devices and kernels",
    "qiskit": "Qiskit circuits",
    "dimod": "D-Wave problem formats",
    "qiskit_aer": "circuits on Aer (extra: aer)",
    "qiskit_ibm_runtime": "circuits on IBM machines (extra: ibm)",
    "braket": "circuits on Amazon Braket (extra: braket)",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding(Record):
    """One thing looked at; ``cost`` says what does not work without it."""

    what: str
    state: str
    ok: bool
    cost: str = ""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor", epilog="Example: qcluster doctor")(doctor)


def doctor(
    state_dir: Path = typer.Option(default_state_dir(), help="State directory to check."),
    as_json: bool = typer.Option(False, "--json", help="Machine output on stdout."),
    warm: bool = typer.Option(False, help="Compile every kernel now, so the first plan is quick."),
) -> None:
    """Look at this machine. Exit status 1 when something that is needed is missing."""
    if warm:
        _warm_up()
        return
    findings = [*_packages(), _gpus(), *_resources(), _state(state_dir)]
    if as_json:
        emit_json({"findings": findings})
    else:
        rows = [("ok" if f.ok else "--", f.what, f.state, f.cost) for f in findings]
        emit_table(("", "what", "state", "without it"), rows)
    if any(not f.ok and f.what in _CORE for f in findings):
        raise typer.Exit(1)


def _warm_up() -> None:
    """Compile what planners and questions use; numba keeps the machine code beside the sources."""
    from actors.planners import HOSTS
    from deployments.questions import warm_up
    from qcluster.planner import build_planner

    for name, host in HOSTS.items():
        note(f"compiling the {name} planner's kernels ...")
        build_planner(host.path, {})
    note("compiling the solvers of the HTTP routes ...")
    warm_up()


def _packages() -> list[Finding]:
    found = []
    for name, cost in [*((n, "nothing works") for n in _CORE), *_OPTIONAL.items()]:
        try:
            found.append(Finding(what=name, state=version(name), ok=True))
        except PackageNotFoundError:
            found.append(Finding(what=name, state="not installed", ok=False, cost=cost))
    return found


def _gpus() -> Finding:
    cost = "live GPU telemetry; the simulator is used, and its plans cannot be applied"
    if importlib.util.find_spec("pynvml") is None:
        return Finding(what="GPUs", state="nvidia-ml-py not installed", ok=False, cost=cost)
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Finding(what="GPUs", state=f"no driver: {error}", ok=False, cost=cost)
    return Finding(what="GPUs", state=f"{count} by NVML", ok=count > 0, cost="" if count else cost)


def _resources() -> list[Finding]:
    cores = len(os.sched_getaffinity(0))
    shm = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0  # noqa: S108
    temp = shutil.disk_usage("/tmp").free  # noqa: S108
    return [
        Finding(what="python", state=sys.version.split()[0], ok=sys.version_info >= (3, 11)),
        Finding(what="cores", state=str(cores), ok=cores >= 2, cost="planners share one core"),
        Finding(
            what="shared memory",
            state=f"{shm / 2**30:.1f} GiB free",
            ok=shm > 2**28,
            cost="Ray keeps objects on disk and is slower",
        ),
        Finding(
            what="temporary space",
            state=f"{temp / 2**30:.1f} GiB free",
            ok=temp > 2**30,
            cost="Ray refuses to start tasks when the disk is full",
        ),
    ]


def _state(state_dir: Path) -> Finding:
    place = next(p for p in (state_dir.absolute(), *state_dir.absolute().parents) if p.exists())
    ok = os.access(place, os.W_OK)
    state = f"{state_dir} ({'writable' if ok else 'not writable'})"
    return Finding(what="state directory", state=state, ok=ok, cost="" if ok else "no stored plans")
