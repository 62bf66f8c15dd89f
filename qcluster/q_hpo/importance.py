"""Which parameters matter: how much of the model's variance each explains alone.

First-order Sobol indices (Sobol, 1993; estimator of Saltelli et al., 2010) of the Gaussian
process's mean on a scrambled Sobol sample, in the transformed scale of the model.
"""

from __future__ import annotations

import numpy as np

from qcluster.q_hpo.gp.search import GPStrategy
from qcluster.q_hpo.gp.warping import DEEP
from qcluster.q_hpo.strategy import View

__all__ = ["importance"]


def importance(view: View, samples: int = 1024) -> dict[str, float]:
    """Share of variance by parameter, largest first; empty with fewer than four values."""
    from scipy.stats import qmc

    if view.ok.sum() < 4 or np.ptp(view.values[view.ok]) == 0:
        return {}
    space = view.space
    # The deep logarithm looks at the best few alone; what matters is asked of all values.
    models = GPStrategy().fitted(view)
    model = next(one.model for one in models if one.power != DEEP)
    both = qmc.Sobol(2 * space.d, rng=np.random.default_rng(0)).random(samples)
    a, b = both[:, : space.d], both[:, space.d :]

    def mean(points: np.ndarray) -> np.ndarray:
        found: np.ndarray = model.predict(space.features(space.snap(points)))[0]
        return found

    at_a, at_b = mean(a), mean(b)
    total = float(np.var(np.concatenate([at_a, at_b]))) or 1.0
    shares = {}
    for k, name in enumerate(space.names):
        mixed = a.copy()
        mixed[:, k] = b[:, k]
        shares[name] = max(float(np.mean(at_b * (mean(mixed) - at_a))) / total, 0.0)
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))
