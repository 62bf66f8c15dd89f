"""Colouring of conflict graphs: vertices (communication groups) and, for rounds, transfers."""

from __future__ import annotations

from qcluster.q_nvlink.coloring.edges import EdgeColoring, color_edges
from qcluster.q_nvlink.coloring.problem import ColoringProblem
from qcluster.q_nvlink.coloring.search import Coloring, color_groups

__all__ = ["Coloring", "ColoringProblem", "EdgeColoring", "color_edges", "color_groups"]
