"""The toggles of routing: one frozen object for Python, YAML, command line and HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcluster.config import Config

__all__ = ["PlacementConfig", "RoutingConfig"]

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]


class RoutingConfig(Config):
    """How tokens are routed to experts.

    No toggle: prices. ``deterministic`` alone: the hash. ``hqc`` alone: the hash, then moves for
    locality and balance. ``qaoa``: QAOA on blocks of tokens, with ``hqc`` started from the
    classical plan. When QAOA fails, is late or its queue is full, ``deterministic`` falls back to
    the hash, otherwise prices take over.
    """

    qaoa: bool = False
    """Search with simulated QAOA circuits."""
    layers: Annotated[int, Field(ge=1, le=16)] = 2
    """QAOA layers; the angles have shape (2, layers, qubits)."""
    hqc: bool = False
    """Warm start from a classical plan."""
    deterministic: bool = False
    """Fall back to the hash instead of to prices."""
    simulator: bool = False
    """Put the classical drop-in of ``q_routing.simulator`` in QAOA's place."""
    optimizer: Literal["lbfgs", "gradient_descent"] = "lbfgs"
    """How angles are improved; gradient_descent is PennyLane's."""
    readout: Literal["best", "most_likely"] = "best"
    """Which measured configuration is taken."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Angles are done when the expected energy changes by less, relative to its spread."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 40
    """At most so many steps of the optimizer a block."""
    shots: Annotated[int, Field(ge=1, le=65_536)] = 512
    """Measurements a block."""
    blocks: Annotated[int, Field(ge=1, le=1000)] = 6
    """At most so many blocks of tokens are searched."""
    qubits: Annotated[int, Field(ge=2, le=16)] = 12
    """Qubits of a block: tokens x candidate experts."""
    noise: Share = 0.1
    """Share of random perturbation in warm-start angles."""
    queue_limit: Annotated[int, Field(ge=0)] | None = None
    """Longest queue of the quantum device that is still waited for; None: any."""
    overflow: Literal["raise", "spill"] = "raise"
    """More tokens than capacity: refuse, or raise all capacities in proportion."""
    balance_weight: Weight = 1.0
    """Weight of load imbalance (complexity) in the objective."""
    bytes_weight: Weight = 1.0
    """Weight of bytes moved over the model graph's edges."""
    together_weight: Weight = 1.0
    """Weight of distance between tokens that interact."""


class PlacementConfig(Config):
    """How the live planner places experts."""

    num_slots: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Slots a layer; None: the experts and one more for every GPU."""
    num_groups: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Groups of consecutive experts, for hierarchical mode."""
    mode: Literal["global", "hierarchical"] = "global"
    """Whether groups stay on nodes."""
    max_moved: Share = 0.05
    """Share of all slots that a replan may change."""
    windows: Annotated[int, Field(ge=1, le=64)] = 4
    """Newest load windows that are looked at."""
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Weight of each older window relative to the next newer one."""
    switch_distance: Share = 0.25
    """Share of load that must have changed experts between windows for a switch of domain: older
    windows are then forgotten."""
    balanced_enough: Share = 0.97
    """At this balancedness of the plan in force nothing is moved."""
    min_gain: Share = 0.005
    """A replan that gains less balancedness than this is not made."""
    expires_s: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds for which a plan is good."""
