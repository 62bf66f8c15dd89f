"""Node agents of this process, on a driver's double that other processes see too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_lab import HERE, FakeStore

from actors.hub import TelemetryHub
from actors.node_agent import NodeAgent


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver that the watchdog process sees too: two GPUs at 700 W."""
    path = tmp_path / "gpus.json"
    path.write_text(json.dumps([{}, {}]))
    monkeypatch.setenv("FAKE_DRIVER", str(path))
    monkeypatch.setenv("PYTHONPATH", str(HERE / "driver"))
    monkeypatch.syspath_prepend(str(HERE / "driver"))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    return path


@pytest.fixture
def start(tmp_path: Path, driver: Path) -> Iterator[Callable[..., tuple[NodeAgent, Any, Any]]]:
    agents: list[NodeAgent] = []

    def begin(**more: Any) -> tuple[NodeAgent, TelemetryHub, FakeStore]:
        hub, store = TelemetryHub(()), FakeStore()
        more = {"node": "a", "apply": True, "period_s": 0.05, **more}
        agents.append(NodeAgent(hub, store, tmp_path / "state", **more))
        return agents[-1], hub, store

    yield begin
    for agent in agents:
        agent.stop()
