"""Fixtures that every room shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server

ROOT = Path(__file__).resolve().parent.parent

# Without a GPU Triton's kernels run in its interpreter. Triton asks for this as it is imported, and
# libraries of other tests import it first.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real measured data, kept outside the repository."""
    path = Path(os.environ.get("QCLUSTER_DATA") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("shared data not found: set QCLUSTER_DATA")
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The session's one Ray: a real server on the simulator, with every planner live."""
    running = Server(
        tmp_path_factory.mktemp("server"),
        *("--telemetry", "simulate:nvl72", "--telemetry", "push", "--replicas", "1"),
    )
    try:
        running.wait_ready()
        yield running
    finally:
        running.destroy()
