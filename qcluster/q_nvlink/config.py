"""The toggles of fabric planning."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qcluster.config import Config

__all__ = ["LiveConfig", "NVLinkConfig"]

Share = Annotated[float, Field(ge=0, le=1)]


class NVLinkConfig(Config):
    """How ``plan_fabric`` and the live planner work."""

    qaoa: bool = False
    """Colour the rounds with simulated QAOA on the vertices that tabu search leaves in conflict."""
    classifier: bool = False
    """Ask the contention classifier about the layout and try what it suggests instead."""
    quantum_kernel: bool = False
    """The classifier's kernel: fidelity of simulated circuits instead of a Gaussian."""
    rl: bool = False
    """Let learned agents, one a node, spread traffic over several paths; else shortest paths."""
    max_moved: Share | None = None
    """Largest share of running ranks that a replan may move; None: no limit."""
    max_paths: Annotated[int, Field(ge=1, le=64)] = 4
    """How many shortest paths of a pair are written out; all are used."""
    deadline_s: Annotated[float, Field(gt=0, le=600)] = 1.0
    """Time for a plan, in seconds."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Seed of everything random."""


class LiveConfig(NVLinkConfig):
    """How the live planner works."""

    weights: str | None = None
    """A directory that ``qcluster train`` wrote, for classifier and agents; read again as soon as
    its files change, so a refit from stored history takes effect at the next plan."""
