"""Spaces written as a function of a trial (``trial.suggest_float("lr", 1e-5, 1e-1, log=True)``).

The function is run on random answers to learn its parameters. A parameter that is asked for
exactly when another, listed one has certain values becomes conditional on it; the rest are in the
model always. A name that the discovery never met is drawn at random when it turns up.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.q_hpo.parameter import Condition, Parameter, same_value
from qcluster.q_hpo.space import Space, flatten, unflatten

__all__ = ["DefinedByRun", "space_of_runs"]

_RUNS = 200
_MAX_PARENT_VALUES = 32


class _Recorder:
    """Answers ``suggest_*`` from ``values``, or at random, and remembers what was asked."""

    def __init__(self, values: Mapping[str, Any], rng: np.random.Generator) -> None:
        self._values, self._rng = values, rng
        self.asked: dict[str, Parameter] = {}
        self.answers: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """What was answered so far."""
        return dict(self.answers)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        origin = low if step else 0.0
        return float(self._answer(Parameter(name, "float", low, high, log, step, origin=origin)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        q, origin = (step, low) if step != 1 else (None, 0)
        return int(self._answer(Parameter(name, "int", low, high, log, q, origin=origin)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(Parameter(name, "choice", choices=tuple(choices)))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def _answer(self, parameter: Parameter) -> Any:
        name = parameter.name
        if name not in self.answers:
            self.asked[name] = parameter
            if name in self._values:
                self.answers[name] = self._values[name]
            else:
                self.answers[name] = parameter.value(float(self._rng.random()))
        return self.answers[name]


class DefinedByRun:
    """The space of ``function`` and the configurations that it makes of a trial."""

    def __init__(self, function: Callable[[Any], Mapping[str, Any] | None]) -> None:
        self.function = function
        self.space = self._discover()

    def config(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """What the function asks for when it is answered from ``values``, and what it returns."""
        recorder = _Recorder(flatten(values), np.random.default_rng(zlib.crc32(name.encode())))
        returned = self.function(recorder)
        if returned is not None and not isinstance(returned, Mapping):
            raise InputError(
                f"wants None or a dict of constants returned, got {type(returned).__name__}",
                field="space",
            )
        return unflatten({**recorder.answers, **(returned or {})})

    def _discover(self) -> Space:
        rng = np.random.default_rng(0)
        runs: list[_Recorder] = []
        found: dict[str, Parameter] = {}
        for _ in range(_RUNS):
            recorder = _Recorder({}, rng)
            self.function(recorder)
            runs.append(recorder)
            for name, parameter in recorder.asked.items():
                if found.setdefault(name, parameter) != parameter:
                    raise InputError("has different ranges in different runs", field=name)
        if not found:
            raise InputError("is a function that suggests nothing", field="space")
        return space_of_runs(found, [run.answers for run in runs])


def space_of_runs(found: Mapping[str, Parameter], runs: Sequence[Mapping[str, Any]]) -> Space:
    """The space of ``found`` parameters, conditional where ``runs`` (name to value) show it."""
    count = {name: sum(name in run for run in runs) for name in found}
    ordered: list[Parameter] = []
    for parameter in sorted(found.values(), key=lambda p: -count[p.name]):
        ordered.append(_with_condition(parameter, ordered, runs))
    return Space(tuple(ordered))


def _with_condition(
    parameter: Parameter, before: Sequence[Parameter], runs: Sequence[Mapping[str, Any]]
) -> Parameter:
    """The parameter with the parent that explains when it is asked for, if there is one."""
    name = parameter.name
    if all(name in run for run in runs):
        return parameter
    for parent in before:
        count = parent.levels
        if count is None or count > _MAX_PARENT_VALUES:
            continue
        with_parent = [run for run in runs if parent.name in run]
        if any(name in run for run in runs if parent.name not in run):
            continue
        on = [run[parent.name] for run in with_parent if name in run]
        off = [run[parent.name] for run in with_parent if name not in run]
        if any(same_value(a, b) for a in on for b in off):
            continue
        values: list[Any] = []
        for value in on:
            if not any(same_value(value, other) for other in values):
                values.append(value)
        return Parameter(
            name, parameter.kind, parameter.low, parameter.high, parameter.log, parameter.q,
            parameter.choices, Condition(parent.name, tuple(values)), parameter.origin,
        )  # fmt: skip
    return parameter
