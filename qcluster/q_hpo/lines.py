"""Configurations as lines of a study's file.

A line holds the point of the unit cube; where a configuration was given and not proposed, also
those of its numbers that the point does not give back to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.fidelity import ask_line
from qcluster.q_hpo.space import Space, flatten, unflatten
from qcluster.q_hpo.trial import Trial

__all__ = ["config_line", "config_of_line", "trial_line"]

F = NDArray[np.float64]


def config_line(config: Mapping[str, Any], space: Space) -> list[Any]:
    """The point of a configuration and its exact numbers."""
    point = space.point(config)
    return [point.tolist(), _exact(config, space, point)]


def config_of_line(line: Any, space: Space) -> dict[str, Any]:
    """The configuration of such a line; older files have the point alone."""
    point, exact = line if line and isinstance(line[0], list) else (line, {})
    config = space.config(np.array(point, float))
    return unflatten({**flatten(config, space.names), **exact})


def trial_line(
    trial: Trial, space: Space, point: NDArray[np.float64], state: Mapping[str, Any]
) -> dict[str, Any]:
    """A question, with the exact numbers of its configuration."""
    exact = _exact(trial.config, space, point)
    line = ask_line(trial, point, state)
    return {**line, "exact": exact} if exact else line


def _exact(config: Mapping[str, Any], space: Space, point: F) -> dict[str, float]:
    flat, there = flatten(config, space.names), flatten(space.config(point), space.names)
    return {
        p.name: flat[p.name]
        for p in space.parameters
        if p.levels is None and p.name in flat and flat[p.name] != there.get(p.name)
    }
