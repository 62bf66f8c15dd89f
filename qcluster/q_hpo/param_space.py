"""The part of a Tuner's ``param_space`` that is searched, and of a configuration that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_hpo.space import Space, flatten, unflatten

__all__ = ["completed", "domains_of", "listed_configs", "only_known"]

F = NDArray[np.float64]


def domains_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``param_space`` that is searched: Ray's domains, nested as they were."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            if "grid_search" in value:
                raise InputError("is a grid_search, which a searcher cannot search", field=name)
            inner = domains_of(value)
            if inner:
                found[name] = inner
        elif type(value).__module__.startswith("ray.tune"):
            found[name] = value
        elif isinstance(value, (list, tuple)) and any(
            type(one).__module__.startswith("ray.tune") for one in value
        ):
            raise InputError("is a list with domains in it: give each a name", field=name)
    return found


def only_known(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """``config`` without what the space does not know (constants of the trainable)."""
    names = set(space.names)
    return unflatten({k: v for k, v in flatten(config, names).items() if k in names})


def listed_configs(rows: Any, field: str) -> list[dict[str, Any]]:
    """``rows`` as dicts. Raises InputError naming the row that is no configuration."""
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Iterable):
        raise InputError("wants a list of configurations", field=field)
    found = []
    for i, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"wants an object, got {str(row)[:40]}", row=i, field=field)
        found.append(dict(row))
    return found


def completed(config: Mapping[str, Any], space: Space, point: F) -> dict[str, Any]:
    """The configuration at ``point`` with the very numbers that ``config`` (there too) has.

    Constants that ``config`` left out are added, what is inactive or unknown is not, and numbers
    with a step are on it.
    """
    flat = flatten(space.config(point), space.names)
    given = flatten(config, space.names)
    for p in space.parameters:
        if p.name in flat and p.name in given and p.kind in ("float", "normal") and p.q is None:
            flat[p.name] = float(given[p.name])
    return unflatten(flat)
