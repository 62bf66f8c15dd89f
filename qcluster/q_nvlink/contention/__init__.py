"""Will a layout contend, and which other one would not: a support vector machine."""

from __future__ import annotations

from qcluster.q_nvlink.contention.cases import History, simulate_history
from qcluster.q_nvlink.contention.features import FEATURES, layout_features
from qcluster.q_nvlink.contention.model import ContentionModel, default_model, fit_contention
from qcluster.q_nvlink.contention.suggest import Suggestion, suggest_layout

__all__ = [
    "FEATURES",
    "ContentionModel",
    "History",
    "Suggestion",
    "default_model",
    "fit_contention",
    "layout_features",
    "simulate_history",
    "suggest_layout",
]
