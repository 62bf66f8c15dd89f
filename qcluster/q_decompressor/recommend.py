"""Which toggles for which input: the decompressor's table."""

from __future__ import annotations

from qcluster.config import Recommendation
from qcluster.q_decompressor.config import DecompressorConfig

__all__ = ["recommend"]

_ROWS: tuple[tuple[str, str, str, dict[str, bool]], ...] = (
    ("Sparse activations", "HHL + QSVT", "Best accuracy for ill-conditioned systems",
     {"hhl": True, "qsvt": True}),
    ("Dense weight matrices", "LSTM enhancer",
     "Handles subtle patterns missed by pure quantum decoders", {"lstm": True}),
    ("Quantized embeddings", "None", "Basic decompression is sufficient", {}),
    ("High-noise data", "QSVT + LSTM", "Mitigates reconstruction errors",
     {"qsvt": True, "lstm": True}),
)  # fmt: skip


def recommend(*, input_type: str) -> Recommendation[DecompressorConfig]:
    """The table's row for an input type, and its configuration.

    Raises ValueError listing the choices when the table has no such row.
    """
    wanted = " ".join(input_type.lower().split())
    for name, toggles, notes, chosen in _ROWS:
        if name.lower() == wanted:
            row = {"Input Type": name, "Recommended Toggles": toggles, "Notes": notes}
            return Recommendation(row=row, config=DecompressorConfig.read(chosen))
    choices = "; ".join(row[0] for row in _ROWS)
    raise ValueError(f"no row for {input_type!r}; there are: {choices}")
