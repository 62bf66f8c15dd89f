"""Which attention settings for which situation: the table of four rows."""

from __future__ import annotations

from typing import Any

from qcluster.config import Recommendation
from qcluster.q_attention.config import AttentionConfig

__all__ = ["recommend"]

_COLUMNS = ("Situation", "Recommended Toggles", "Purpose")

_ROWS: tuple[tuple[tuple[str, str, str], dict[str, Any], str], ...] = (
    (
        ("Limited GPU memory", "QAOA sparse + Q-SVD pruner", "Cuts attention complexity"),
        {"qaoa": True, "pruner": True},
        "4 of 16 pages read a quarter of the keys after all page means; a budget of .28 of the "
        "bytes has a far smaller error (benchmarks/attention.py --only toggles)",
    ),
    (
        ("Quantum accelerator available", "QAOA sparse + QPE",
         "High throughput with position encoding"),
        {"qaoa": True, "qpe": True},
        "no throughput is gained: choosing pages by sorting takes microseconds, by QAOA "
        "milliseconds; QPE takes no memory off (benchmarks/attention.py --only toggles)",
    ),
    (
        ("CPU-only", "Contrastive trainer + Q-SVD",
         "Improves quality without quantum hardware"),
        {"contrastive": True, "pruner": True},
        "recall of a query's own key rises on its training pairs; the pruner keeps cosine .95 at a "
        "quarter of the heads (benchmarks/attention.py --only toggles,pruner)",
    ),
    (
        ("Training with massive sequences", "QPE + Classical trainer",
         "Handles long contexts efficiently"),
        {"qpe": True, "contrastive": True},
        "positions are sinusoids of halving wavelengths; attention is exact and costs n^2 unless a "
        "budget is given as well",
    ),
)  # fmt: skip

_SAME = {"quantum": "quantum accelerator available", "cpu": "cpu-only", "gpu": "limited gpu memory",
         "long": "training with massive sequences"}  # fmt: skip


def recommend(*, situation: str) -> Recommendation[AttentionConfig]:
    """The table's row for a situation (its own words, or gpu, quantum, cpu, long), and its
    configuration. Raises ValueError listing the choices when the table has no such row.
    """
    wanted = situation.strip().lower()
    wanted = _SAME.get(wanted, wanted)
    for words, toggles, measured in _ROWS:
        if words[0].lower() == wanted:
            row = dict(zip(_COLUMNS, words, strict=True))
            return Recommendation(row=row, config=AttentionConfig(**toggles), measured=measured)
    choices = "; ".join(words[0] for words, _, _ in _ROWS)
    raise ValueError(f"no row for {situation}; there are: {choices}")
