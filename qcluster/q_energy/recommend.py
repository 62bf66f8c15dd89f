"""Which toggles to use for a workload, as the module's table says, and what we measured of it."""

from __future__ import annotations

from typing import Any

from qcluster.config import Recommendation
from qcluster.q_energy.config import EnergyConfig

__all__ = ["recommend"]

# workload, hardware, toggles, notes, configuration, measured
_TABLE: tuple[tuple[str, str, str, str, dict[str, Any], str | None], ...] = (
    (
        "Recurrent training job", "Available", "QAOA + Hybrid meta-learning",
        "Smooths power spikes", {"qaoa": True, "gnn": False, "meta": True},
        "QAOA has lowered no peak below cap search; meta follows whichever pipeline cost less",
    ),
    (
        "Transformer inference", "Limited", "Classical GNN only", "Lower overhead", {"gnn": True},
        "learned curves err less than boosted trees; on GPU types not seen, physics predicts",
    ),
    (
        "Mixed batch workloads", "Busy quantum hardware", "Hybrid meta-learning",
        "Adapts to resource availability", {"gnn": False, "meta": True},
        "on drifting measured workloads within a few thousandths of the best single pipeline",
    ),
    (
        "Power constrained", "None", "Classical fallback", "Keeps consumption steady",
        {"qaoa": False, "gnn": False, "meta": False},
        "the sum of caps never exceeds the budget, by construction",
    ),
)  # fmt: skip


def recommend(*, workload: str, hardware: str) -> Recommendation[EnergyConfig]:
    """The table's row for a workload type and quantum hardware, names as in the table.

    Case does not matter. Raises ValueError listing the choices when no row has this pair.
    """
    asked = str(workload).strip().lower(), str(hardware).strip().lower()
    for row in _TABLE:
        if (row[0].lower(), row[1].lower()) == asked:
            return Recommendation(
                row={
                    "Workload Type": row[0],
                    "Quantum Hardware": row[1],
                    "Recommended Toggles": row[2],
                    "Notes": row[3],
                },
                config=EnergyConfig(**row[4]),
                measured=row[5],
            )
    choices = "; ".join(f"{row[0]} with {row[1]}" for row in _TABLE)
    raise ValueError(f"no row for '{workload}' with '{hardware}'; there are: {choices}")
