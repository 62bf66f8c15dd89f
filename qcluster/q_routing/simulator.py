"""The classical drop-in for the quantum path: same signatures, no quantum library.

``sampler`` stands where QAOA's sampler stands, drawing by Gibbs sampling. ``route`` is the router
with the drop-in switched on, to test what happens without a quantum device.
"""

from __future__ import annotations

from typing import Any

from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.gibbs import sampler
from qcluster.q_routing.route import route as full

__all__ = ["route", "sampler"]


def route(
    tokens: Any,
    model_graph: Any,
    *,
    config: RoutingConfig | None = None,
    deadline_s: float = 1.0,
    seed: int = 0,
) -> Any:
    """``q_routing.route`` with ``qaoa`` on and the drop-in in its place."""
    forced = (config or RoutingConfig()).with_(qaoa=True, simulator=True)
    return full(tokens, model_graph, config=forced, deadline_s=deadline_s, seed=seed)
