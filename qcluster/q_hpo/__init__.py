"""Searching hyperparameters: ask for a configuration, tell what it gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcluster.q_hpo.config import GPConfig, HPOConfig
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.formats import load_space
from qcluster.q_hpo.mlflow_log import MLflowLog
from qcluster.q_hpo.optuna_export import export_optuna
from qcluster.q_hpo.optuna_import import import_optuna
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.prior_files import load_prior
from qcluster.q_hpo.promotion import Promotions
from qcluster.q_hpo.ray_restore import settle
from qcluster.q_hpo.recommend import recommend
from qcluster.q_hpo.space import Space
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

if TYPE_CHECKING:
    from qcluster.q_hpo.searchers import GPSearch, HybridSearch, VQCSearch
    from qcluster.q_hpo.tune_sweep import tune

__all__ = [
    "GPConfig",
    "GPSearch",
    "HPOConfig",
    "HybridSearch",
    "MLflowLog",
    "Prior",
    "Promotions",
    "Space",
    "Study",
    "Trial",
    "VQCSearch",
    "export_optuna",
    "import_optuna",
    "load_prior",
    "load_space",
    "parse_space",
    "recommend",
    "settle",
    "tune",
]

_FROM_RAY = {
    "GPSearch": "searchers", "HybridSearch": "searchers", "VQCSearch": "searchers",
    "tune": "tune_sweep",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The parts that need Ray, imported when they are first used."""
    if name not in _FROM_RAY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_FROM_RAY[name]}"), name)
