"""Rank mapping as quadratic assignment."""

from __future__ import annotations

from qcluster.q_nvlink.mapping.qap import Mapping, place_ranks

__all__ = ["Mapping", "place_ranks"]
