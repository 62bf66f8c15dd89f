"""No quantum path without a row in the ledger, no row that claims what its numbers do not show."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from qcluster.quantum import SOLVERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ledger():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location(
            "quantum_ledger", ROOT / "benchmarks" / "quantum_ledger.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["quantum_ledger"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("quantum_ledger", None)


def test_every_quantum_solver_has_a_row(ledger):
    rows = {path.name for path in ledger.PATHS if path.module == "qcluster.quantum"}
    quantum = {name for name, solver in SOLVERS.items() if solver.quantum}
    assert quantum <= rows


def test_every_room_with_a_quantum_module_has_a_row(ledger):
    rooms = {f"qcluster.{path.parent.name}" for path in (ROOT / "qcluster").glob("q_*/quantum.py")}
    assert rooms <= {path.module for path in ledger.PATHS}


def test_every_simulation_of_the_core_has_a_row(ledger):
    modules = {path.module.removeprefix("qcluster.quantum.") for path in ledger.PATHS}
    assert {"noise", "hhl", "qsvt", "qft", "kernels", "vqc", "mps"} <= modules
    assert len(ledger.PATHS) >= 50
    assert len({(path.name, path.instance) for path in ledger.PATHS}) == len(ledger.PATHS)


@pytest.mark.parametrize(
    "name", ["qaoa", "qaoa_lns", "recursive_qaoa", "qaoa_fixed", "noisy qaoa thermal",
             "readout correction", "hhl", "qsvt", "qft", "kernel angle"]
)  # fmt: skip
def test_a_row_shows_what_it_claims(ledger, name):
    path = next(path for path in ledger.PATHS if path.name == name)
    row = ledger.row(path, 0)
    assert row["gain"] == pytest.approx(row["twin_objective"] - row["objective"])
    assert row["gain"] <= 1e-9 or row["objective"] < row["twin_objective"]
