"""Searching hyperparameters: ask for a configuration, tell what it gave."""

from __future__ import annotations

from qcluster.q_hpo.config import GPConfig
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.space import Space
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["GPConfig", "Prior", "Space", "Study", "Trial", "parse_space"]
