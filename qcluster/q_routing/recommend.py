"""Which routing settings for which situation: the table of five rows."""

from __future__ import annotations

from typing import Any

from qcluster.config import Recommendation
from qcluster.q_routing.config import RoutingConfig

__all__ = ["recommend"]

_COLUMNS = ("Input Size", "Hardware Availability", "Optimization Goal", "Recommended Config",
            "Trade-offs")  # fmt: skip
_SMALL, _MIDDLE, _LARGE = "<1k tokens", "1k-10k tokens", ">10k tokens"

# size, hardware, goal as arguments; the table's words; the configuration.
_ROWS: tuple[tuple[tuple[str, str, str], tuple[str, ...], dict[str, Any]], ...] = (
    (
        (_SMALL, "quantum", "latency"),
        (_SMALL, "Quantum device online", "Latency", "QAOA with HQC",
         "Highest fidelity but deeper circuit"),
        {"qaoa": True, "hqc": True},
    ),
    (
        (_SMALL, "none", "latency"),
        (_SMALL, "No quantum device", "Latency", "Deterministic fallback",
         "Fast but may yield imbalance"),
        {"deterministic": True},
    ),
    (
        (_MIDDLE, "quantum", "balanced throughput"),
        (_MIDDLE, "Quantum device", "Balanced throughput", "QAOA with 2 layers",
         "Moderate runtime, good load balance"),
        {"qaoa": True, "layers": 2},
    ),
    (
        (_MIDDLE, "overloaded", "throughput"),
        (_MIDDLE, "Quantum device overloaded", "Throughput", "HQC only",
         "Uses classical warm start to speed up"),
        {"hqc": True},
    ),
    (
        (_LARGE, "quantum + classical", "robustness"),
        (_LARGE, "Quantum + classical", "Robustness", "QAOA + HQC + deterministic",
         "Ensures progress, heavy compute load"),
        {"qaoa": True, "hqc": True, "deterministic": True},
    ),
)  # fmt: skip

_HARDWARE = {
    "quantum": "quantum",
    "quantum device": "quantum",
    "quantum device online": "quantum",
    "none": "none",
    "no quantum device": "none",
    "overloaded": "overloaded",
    "quantum device overloaded": "overloaded",
    "quantum + classical": "quantum + classical",
    "quantum+classical": "quantum + classical",
}


def recommend(*, size: int | str, hardware: str, goal: str) -> Recommendation[RoutingConfig]:
    """The table's row for a situation, and its configuration.

    Parameters
    ----------
    size: number of tokens (1,000 and 10,000 belong to the middle rows), or the table's own words.
    hardware: "quantum", "none", "overloaded", "quantum + classical", or the table's own words.
    goal: "latency", "balanced throughput", "throughput" or "robustness".

    Raises ValueError listing the choices when the table has no such row.
    """
    wanted = (_size(size), _HARDWARE.get(hardware.strip().lower(), hardware), goal.strip().lower())
    for key, words, toggles in _ROWS:
        if key == wanted:
            row = dict(zip(_COLUMNS, words, strict=True))
            return Recommendation(row=row, config=RoutingConfig(**toggles))
    choices = "; ".join(", ".join(key) for key, _, _ in _ROWS)
    raise ValueError(f"no row for {', '.join(map(str, wanted))}; there are: {choices}")


def _size(size: int | str) -> str:
    if isinstance(size, bool) or (isinstance(size, int) and size < 0):
        raise ValueError(f"wants a number of tokens, got {size!r}")
    if isinstance(size, int):
        return _SMALL if size < 1000 else _MIDDLE if size <= 10_000 else _LARGE
    return size.strip().replace("\\", "")
