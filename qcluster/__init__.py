"""qcluster: live telemetry in, certified plans out, for clusters that train and serve large models.

The package is light on purpose: ``import qcluster`` loads neither Ray nor torch nor a solver.
Import the room you need: ``qcluster.q_routing``, ``qcluster.q_energy``, ``qcluster.q_nvlink``,
``qcluster.quantum``, ``qcluster.telemetry``.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
