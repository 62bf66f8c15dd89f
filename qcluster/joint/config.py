"""What the joint planner may do, and the configurations of the planners inside it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qcluster.config import Config
from qcluster.q_energy import EnergyConfig
from qcluster.q_nvlink.config import LiveConfig
from qcluster.q_routing.config import PlacementConfig

__all__ = ["JointConfig"]

Share = Annotated[float, Field(ge=0, lt=1)]


class JointConfig(Config):
    """How the parts are brought together.

    ``routing``, ``nvlink`` and ``energy`` are for parts that have to be made here, because their
    own planner has none for the snapshot.
    """

    routing: PlacementConfig = PlacementConfig()
    """Placement of experts."""
    nvlink: LiveConfig = LiveConfig()
    """GPUs and links of jobs."""
    energy: EnergyConfig = EnergyConfig()
    """Power caps."""
    communication_share: Share = 0.25
    """Share of a step that a GPU at full speed with all its links spends moving tokens."""
    level_caps: bool = True
    """Whether watts may move between GPUs to where the experts' load is."""
    min_gain: Share = 0.005
    """Parts are changed for each other's sake only where a step gets shorter by this share."""
