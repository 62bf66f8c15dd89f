"""The search space: named parameters, the unit cube they fill, and what a model sees of it.

A point is a vector of the unit cube with one coordinate per parameter. ``snap`` moves points to
the middles of their cells and inactive coordinates to 0.5, so that equal configurations are equal
points. ``features`` is what models see: numbers as they are, a category as one column per value, a
conditional parameter with one more column that says whether it is active (Levesque et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_hpo.parameter import Parameter, same_value

__all__ = ["Space"]

F = NDArray[np.float64]
MAX_GRID = 4096


@dataclass(frozen=True)
class Space:
    """Parameters in order; parents stand before their children. Nested names use ``/``."""

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Parameter] = {}
        if not self.parameters:
            raise InputError("has no parameters", field="space")
        for p in self.parameters:
            if p.name in seen:
                raise InputError("is named twice", field=p.name)
            if p.when is not None:
                self._check_condition(p, seen)
            seen[p.name] = p
        self._check_nesting(seen)

    @staticmethod
    def _check_nesting(names: Iterable[str]) -> None:
        """No name may be a value and a group at once, as 'a' beside 'a/b' would be."""
        groups = {"/".join(name.split("/")[:i]) for name in names
                  for i in range(1, name.count("/") + 1)}  # fmt: skip
        for name in names:
            if not all(name.split("/")):
                raise InputError("has an empty part in its name", field=name)
            if name in groups:
                raise InputError("is a parameter and also a group of others", field=name)

    @staticmethod
    def _check_condition(p: Parameter, seen: Mapping[str, Parameter]) -> None:
        assert p.when is not None
        parent = seen.get(p.when.parent)
        if parent is None:
            raise InputError(
                f"hangs on '{p.when.parent}', which is not a parameter before it", field=p.name
            )
        for value in p.when.values:
            try:
                parent.unit(value)
            except InputError as error:
                raise InputError(
                    f"'when' names a value that '{parent.name}' never has: {error.message}",
                    field=p.name,
                ) from None

    @property
    def d(self) -> int:
        """Number of parameters."""
        return len(self.parameters)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(p.name for p in self.parameters)

    @cached_property
    def listed(self) -> NDArray[np.bool_]:
        """(d,) which parameters have a listed set of values."""
        return np.array([p.levels is not None for p in self.parameters])

    @cached_property
    def continuous(self) -> bool:
        """Whether every parameter is a plain interval that always exists."""
        return all(p.levels is None and p.when is None for p in self.parameters)

    @cached_property
    def size(self) -> float:
        """How many configurations there are at most; infinite with a continuous parameter."""
        total = 1.0
        for p in self.parameters:
            total *= float("inf") if p.levels is None else p.levels
        return total

    @cached_property
    def grid(self) -> F | None:
        """(m, d) every configuration once, if there are few; None otherwise."""
        if self.size > MAX_GRID:
            return None
        places = [(np.arange(p.levels or 1) + 0.5) / (p.levels or 1) for p in self.parameters]
        for k, p in enumerate(self.parameters):
            if p.log:
                places[k] = np.array([p.unit(p.value_at(i)) for i in range(p.levels or 1)])
        product = np.array(np.meshgrid(*places, indexing="ij")).reshape(self.d, -1).T
        return np.unique(self.snap(product), axis=0)

    def snap(self, points: F) -> F:
        """``points`` (m, d) moved to where their configurations are."""
        out = np.array(points, float, ndmin=2)
        for k, p in enumerate(self.parameters):
            out[:, k] = p.snap(out[:, k])
            if p.when is not None:
                out[~self._active(out, k), k] = 0.5
        return out

    def active(self, points: F) -> NDArray[np.bool_]:
        """(m, d) which parameters exist at snapped ``points``."""
        out = np.ones(points.shape, bool)
        for k, p in enumerate(self.parameters):
            if p.when is not None:
                out[:, k] = self._active(points, k)
        return out

    def _active(self, points: F, k: int) -> NDArray[np.bool_]:
        condition = self.parameters[k].when
        if condition is None:
            return np.ones(len(points), bool)
        i = self.names.index(condition.parent)
        parent = self.parameters[i]
        wanted = np.array([parent.unit(v) for v in condition.values])
        hit = np.abs(parent.snap(points[:, i])[:, None] - wanted[None]).min(axis=1) < 1e-9
        return np.asarray(hit & self._active(points, i))

    def features(self, points: F) -> F:
        """What models see of snapped ``points`` (m, d): (m, columns), all in [0, 1]."""
        columns: list[F] = []
        active = self.active(points)
        for k, p in enumerate(self.parameters):
            if p.kind == "constant" or p.levels == 1:
                continue
            if p.is_category:
                count = len(p.choices)
                code = np.minimum((points[:, k] * count).astype(int), count - 1)
                hot = np.eye(count)[code] * active[:, k : k + 1]
                columns += [hot[:, j] for j in range(count if count > 2 else 1)]
            else:
                columns.append(points[:, k])
            if p.when is not None:
                columns.append(active[:, k].astype(float))
        if not columns:
            return np.full((len(points), 1), 0.5)
        return np.ascontiguousarray(np.column_stack(columns))

    @cached_property
    def column_of(self) -> tuple[int, ...]:
        """For each parameter the feature column of its number; -1 for categories and constants."""
        at, out = 0, []
        for p in self.parameters:
            if p.kind == "constant" or p.levels == 1:
                out.append(-1)
                continue
            width = 1 if not p.is_category or len(p.choices) == 2 else len(p.choices)
            out.append(-1 if p.is_category else at)
            at += width + (p.when is not None)
        return tuple(out)

    def config(self, point: F) -> dict[str, Any]:
        """The configuration at ``point`` (d,), nested as the space is; inactive ones left out."""
        snapped = self.snap(point[None])
        active = self.active(snapped)[0]
        flat = {
            p.name: p.value(float(u))
            for p, u, on in zip(self.parameters, snapped[0], active, strict=True)
            if on
        }
        return unflatten(flat)

    def point(self, config: Mapping[str, Any]) -> F:
        """The point (d,) of a configuration.

        Constants may be left out. Raises InputError for a missing, unknown or wrong parameter.
        """
        flat = flatten(config, self.names)
        unknown = [name for name in flat if name not in self.names]
        if unknown:
            raise InputError("is not in the space", field=unknown[0])
        out = np.full((1, self.d), 0.5)
        for k, p in enumerate(self.parameters):
            if p.when is not None and not self._active(out, k)[0]:
                continue
            if p.name in flat:
                out[0, k] = p.unit(flat[p.name])
            elif p.kind != "constant":
                raise InputError("is missing from the configuration", field=p.name)
        snapped: F = self.snap(out)[0]
        return snapped

    def points(self, configs: Iterable[Mapping[str, Any]]) -> F:
        """(m, d) points of configurations. Raises InputError naming the row, from 1."""
        rows = []
        for i, config in enumerate(configs, 1):
            try:
                rows.append(self.point(config))
            except InputError as error:
                raise error.at(row=i) from None
        return np.array(rows).reshape(len(rows), self.d)


def flatten(
    config: Mapping[str, Any], names: Iterable[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Nested mappings to names with ``/``; one that is itself a value (in ``names``) stays."""
    known = set(names)
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in known:
            out.update(flatten(value, known, f"{name}/"))
        else:
            out[name] = value
    return out


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``."""
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        here = out
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return out


def same_config(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two configurations hold equal values."""
    return a.keys() == b.keys() and all(
        same_config(v, b[k])
        if isinstance(v, Mapping) and isinstance(b[k], Mapping)
        else same_value(v, b[k])
        for k, v in a.items()
    )
