"""Which toggles for which scenario: the compressor's table."""

from __future__ import annotations

from qcluster.config import Recommendation
from qcluster.q_compressor.config import CompressorConfig

__all__ = ["recommend"]

_ROWS = (
    ("Weight checkpoint archiving", "VQC + Denoiser", "Highest ratio, more training time",
     {"vqc": True, "denoiser": True}),
    ("Real-time gradient sync", "Dropout only", "Fast but moderate compression",
     {"dropout": True}),
    ("Mixed precision inference", "VQC + Dropout", "Good space savings with stable quality",
     {"vqc": True, "dropout": True}),
    ("CPU-only environment", "Denoiser only", "Lightweight, purely classical",
     {"denoiser": True}),
)  # fmt: skip


def recommend(*, scenario: str) -> Recommendation[CompressorConfig]:
    """The table's row for a scenario, and its configuration.

    Raises ValueError listing the choices when the table has no such row.
    """
    wanted = " ".join(scenario.lower().split())
    for name, toggles, outcome, chosen in _ROWS:
        if name.lower() == wanted:
            row = {"Scenario": name, "Toggle Set": toggles, "Outcome": outcome}
            return Recommendation(row=row, config=CompressorConfig.read(chosen))
    choices = "; ".join(row[0] for row in _ROWS)
    raise ValueError(f"no row for {scenario!r}; there are: {choices}")
