"""The server process under ``qcluster serve``: Ray, actors and HTTP, until told to stop.

``python -m qcluster.cli.server FD PARENT`` with the settings as JSON on stdin; writes one byte to
FD when HTTP answers. It watches the head of its own Ray and ends when that dies, so that the
supervisor starts the next one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcluster.cli.output import fail, note
from qcluster.cli.supervisor import HEAD_DIED, Settings, die_with_parent
from qcluster.errors import InputError, QClusterError

if TYPE_CHECKING:
    import psutil

FIRST_PLAN_S = 120.0
_LOOK_S = 0.25
_HEAD = ("gcs_server", "raylet")


def main() -> int:
    """Run one server; returns its exit status."""
    die_with_parent(int(sys.argv[2]))
    settings = Settings(**json.load(sys.stdin))
    stopped = threading.Event()
    stop_on_signals(stopped)
    try:
        return _run(settings, int(sys.argv[1]), stopped)
    except InputError as error:
        return fail(str(error), status=2)
    except (QClusterError, OSError) as error:
        return fail(str(error), status=1)


def _run(settings: Settings, up: int, stopped: threading.Event) -> int:
    from actors.runtime import running_ray

    started = time.monotonic()
    state_dir = Path(settings.state_dir)
    note(f"starting Ray ({settings.address}) ...")
    with running_ray(settings.address, state_dir, settings.temp_dir):
        stop_on_signals(stopped)  # again: ray.init puts a handler of its own on SIGTERM
        if settings.address == "local":
            _end_with_head(stopped)
        from actors.cluster import (
            KEEPER,
            STORE,
            connect,
            start_cluster,
            stop_agents,
            stop_cluster,
        )
        from deployments.app import ApiOptions, deploy, withdraw

        try:
            note(f"starting planners on {', '.join(settings.sources) or 'node agents'} ...")
            start_cluster(
                telemetry=settings.sources,
                state_dir=state_dir,
                period_s=settings.period_s,
                agents=settings.agents,
                stand_in=settings.stand_in,
                apply=settings.apply,
                configs=settings.configs,
            )
            note("starting HTTP ...")
            deploy(settings.host, settings.port, ApiOptions(**settings.options))
            os.write(up, b"1")
            url = f"http://{settings.host}:{settings.port}"
            note(f"open {url}/ for the page, /docs for the API; Ctrl-C stops")
            if settings.agents:
                threading.Thread(
                    target=_agents, args=(connect(KEEPER), stopped), daemon=True
                ).start()
            _first_plans(connect(STORE), started, stopped)
            stopped.wait()
        finally:
            note("stopping ...")
            if settings.address != "local":
                _quietly(withdraw)
                _quietly(stop_cluster)
            elif settings.agents:
                _quietly(stop_agents)  # a Ray of our own goes down with everything else in it
    return 0


def _end_with_head(stopped: threading.Event) -> None:
    """End this process as soon as a process of our Ray's head does, unless we are stopping it.

    At once and without cleaning up: Ray's client code would wait a minute for a head that is not
    coming back, and the supervisor clears away what is left.
    """
    import psutil

    head = [child for child in psutil.Process().children() if child.name() in _HEAD]

    def watch() -> None:
        while all(_alive(process) for process in head):
            time.sleep(_LOOK_S)
        if not stopped.is_set():
            os._exit(HEAD_DIED)

    if len(head) == len(_HEAD):
        threading.Thread(target=watch, name="head", daemon=True).start()


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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


def _agents(keeper: Any, stopped: threading.Event) -> None:
    """Say which nodes have agents, what these read and may do, and what is wrong, on change."""
    from actors.cluster import agent_name, connect

    told = ""
    while not stopped.wait(1.0):
        try:
            health = keeper.health()
        except QClusterError:
            continue
        states = [health["alarm"]] if health["alarm"] else []
        for node, name in sorted(health["agents"].items(), key=lambda item: item[1]):
            try:
                agent = connect(agent_name(node), 5.0).health()
                states.append(f"{name} {agent['reading']} ({agent['mode']})")
            except QClusterError as error:
                states.append(f"{name}: {error}")
        if (now := "; ".join(states)) != told:
            note(f"node agents: {now or 'none'}")
            told = now


def _percent(gap: float | None) -> str:
    return "unknown" if gap is None else f"{gap:.2%}"


def stop_on_signals(stopped: threading.Event) -> None:
    """Set the event on Ctrl-C and the other polite ways to ask a process to end."""
    # Setting an event twice does nothing: a second Ctrl-C must not leave processes behind.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: stopped.set())


def _quietly(step: Any) -> None:
    try:
        step()
    except Exception as error:
        print(f"qcluster: while stopping: {error}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    # Threads of Ray that wait for the cluster would hold up the interpreter's own end.
    STATUS = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STATUS)
