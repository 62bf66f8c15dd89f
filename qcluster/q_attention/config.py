"""The toggles of attention: one frozen object for Python, YAML, command line and HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcluster.config import Config

__all__ = ["AttentionConfig"]

Rows = Annotated[int, Field(ge=1, le=2**20)]
Share = Annotated[float, Field(gt=0, le=1)]


class AttentionConfig(Config):
    """How embeddings attend to each other.

    No toggle: exact attention of ``heads`` heads. The toggles combine in this order: ``qpe`` adds
    positions, ``contrastive`` trains the maps of queries and keys on the input itself, ``pruner``
    removes heads, ``qaoa`` chooses pages, ``kernel`` takes fidelities in the softmax's place.
    ``hybrid`` heads are measured at a quantum backend instead.
    """

    heads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Heads; they divide the embedding's dimension."""
    qaoa: bool = False
    """Attend to pages that QAOA chooses."""
    pages: Annotated[int, Field(ge=1, le=16)] = 16
    """Pages that the keys are cut into."""
    keep: Annotated[int, Field(ge=1, le=16)] = 4
    """Pages that are attended to."""
    redundancy: Annotated[float, Field(ge=0, le=100)] = 0.2
    """Weight of likeness between pages against their relevance."""
    qpe: bool = False
    """Add positions from phase estimation."""
    qubits: Annotated[int, Field(ge=1, le=16)] = 6
    """Qubits of a position."""
    length: Annotated[int, Field(ge=1)] | None = None
    """N of the phase i / N; None is the sequence's own length."""
    contrastive: bool = False
    """Train the maps of queries and keys first."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Steps of that training."""
    pruner: bool = False
    """Remove heads by singular values."""
    prune_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of heads that go."""
    prune_threshold: Annotated[float, Field(ge=0)] | None = None
    """Instead of a share: heads whose W_Q W_K^T has a leading singular value below this go."""
    kernel: bool = False
    """Weights from fidelities of angle-encoded queries and keys."""
    kernel_qubits: Annotated[int, Field(ge=1, le=8)] = 8
    """Qubits of a fidelity."""
    hybrid: tuple[int, ...] = ()
    """Heads that are measured at a quantum backend; the rest stay on the device."""
    backends: tuple[str, ...] = ()
    """Quantum backends by preference; the built-in simulator is always last."""
    shots: Rows = 256
    """Measurements a row of a hybrid head."""
    sampler: str = "varopt"
    """Of the heads that are neither kernel nor hybrid, where a budget is given."""
    budget: Rows | Share | None = None
    """Value rows a query (int) or share of bytes (float); None is exact."""
    certificate: bool = False
    """Bound every row's error."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance that a bound fails."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Refine until bounds are at most eps of the row's length."""
    is_causal: bool = False
    """Whether a row sees only what comes before it."""
    deadline_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Time for hybrid heads."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of everything random."""
    device: Literal["auto", "cpu"] = "auto"
    """auto leaves tensors where they are."""
