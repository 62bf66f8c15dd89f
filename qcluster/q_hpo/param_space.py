"""The part of a Tuner's ``param_space`` that is searched, and of a configuration that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcluster.errors import InputError
from qcluster.q_hpo.space import Space, flatten, unflatten

__all__ = ["domains_of", "only_known"]


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
    return found


def only_known(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """``config`` without what the space does not know (constants of the trainable)."""
    names = set(space.names)
    return unflatten({k: v for k, v in flatten(config, names).items() if k in names})
