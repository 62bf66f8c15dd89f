"""Reading a search space: JSON objects, ``ray.tune`` domains, Optuna distributions, constants.

A JSON parameter is an object with ``type``; the names and meanings are those of ``ray.tune``
(``randint`` and ``lograndint`` exclude their upper end, ``qrandint`` and ``int`` include it), and
``float``, ``int`` with ``log`` and ``step`` beside. ``when: {"parent": NAME, "in": [...]}`` makes a
parameter conditional. Domains of Ray and Optuna are recognised by their class names and
attributes, so that neither library is imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.q_hpo.parameter import Condition, Parameter
from qcluster.q_hpo.space import Space

__all__ = ["parse_space"]

# type: (kind, logarithmic, quantised, upper end excluded)
_TYPES: dict[str, tuple[str, bool, bool, bool]] = {
    "uniform": ("float", False, False, False),
    "quniform": ("float", False, True, False),
    "loguniform": ("float", True, False, False),
    "qloguniform": ("float", True, True, False),
    "randint": ("int", False, False, True),
    "qrandint": ("int", False, True, False),
    "lograndint": ("int", True, False, True),
    "qlograndint": ("int", True, True, False),
}
_NAMES = (*_TYPES, "float", "int", "randn", "qrandn", "choice", "constant")


def parse_space(data: Any) -> Space:
    """A space from a mapping of names to parameters, perhaps nested, or a Space itself.

    Raises InputError naming the parameter that is wrong.
    """
    if isinstance(data, Space):
        return data
    if not isinstance(data, Mapping):
        raise InputError(f"wants an object of parameters, got {type(data).__name__}", field="space")
    found: list[Parameter] = []
    _collect(data, "", found)
    return Space(_parents_first(found))


def _collect(data: Mapping[Any, Any], prefix: str, found: list[Parameter]) -> None:
    for key, value in data.items():
        if not isinstance(key, str) or not key:
            raise InputError(f"wants names as keys, got {key!r}", field=prefix or "space")
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if "grid_search" in value:
                raise InputError("is a grid_search, which a searcher cannot search", field=name)
            if _is_parameter(value):
                found.append(_from_json(name, value))
            elif value:
                _collect(value, f"{name}/", found)
            continue
        found.append(_from_object(name, value))


def _is_parameter(data: Mapping[Any, Any]) -> bool:
    """Whether an object is a parameter; a group may have a constant that is called ``type``."""
    kind = data.get("type")
    if not isinstance(kind, str):
        return False
    return kind in _NAMES or not any(
        isinstance(v, Mapping) or _is_domain(v) for k, v in data.items() if k != "when"
    )


def _is_domain(value: Any) -> bool:
    """Whether it is a domain of Ray's or of Optuna's, or a parameter as JSON."""
    if isinstance(value, Mapping):
        return value.get("type") in _NAMES if isinstance(value.get("type"), str) else False
    return type(value).__module__.startswith(("ray.tune", "optuna.distributions"))


def _holds_domains(value: Any) -> bool:
    """Whether a list or an object holds domains that nobody would ever draw from."""
    if _is_domain(value):
        return True
    if isinstance(value, Mapping):
        return any(_holds_domains(one) for one in value.values())
    return isinstance(value, (list, tuple)) and any(_holds_domains(one) for one in value)


def _parents_first(found: list[Parameter]) -> tuple[Parameter, ...]:
    """The parameters in their order, children moved behind their parents."""
    names = {p.name for p in found}
    ordered: list[Parameter] = []
    waiting = list(found)
    while waiting:
        done = {p.name for p in ordered}
        ready = [p for p in waiting if p.when is None or p.when.parent in done]
        if not ready:
            p = waiting[0]
            assert p.when is not None
            if p.when.parent not in names:
                raise InputError(f"hangs on '{p.when.parent}', which is not there", field=p.name)
            raise InputError("hangs on itself through its parents", field=p.name)
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return tuple(ordered)


def _from_json(name: str, data: Mapping[str, Any]) -> Parameter:
    kind = data["type"]
    if kind not in _NAMES:
        raise InputError(f"knows no type '{kind}'; there are {', '.join(_NAMES)}", field=name)
    rest = {key: value for key, value in data.items() if key != "type"}
    when = _condition(name, rest.pop("when", None))
    if kind in ("choice", "constant"):
        made = _listed(name, kind, rest, when)
    elif kind in ("randn", "qrandn"):
        mean, sd = _number(name, rest, "mean", 0.0), _number(name, rest, "sd", 1.0)
        made = Parameter(name, "normal", mean, sd, q=_step(name, rest, kind == "qrandn"), when=when)
    elif kind in ("float", "int"):
        log = rest.pop("log", False)
        if not isinstance(log, bool):
            raise InputError(f"wants true or false for 'log', got {log!r}", field=name)
        low, high = _number(name, rest, "low"), _number(name, rest, "high")
        step = _number(name, rest, "step") if "step" in rest else None
        made = Parameter(name, kind, low, high, log, step, when=when, origin=low if step else 0.0)
    else:
        form, log, quantised, excluded = _TYPES[kind]
        low, high = _number(name, rest, "low"), _number(name, rest, "high")
        made = Parameter(
            name, form, low, high - (1 if excluded else 0), log, _step(name, rest, quantised),
            when=when,
        )  # fmt: skip
    if rest:
        raise InputError(f"'{min(rest)}' is not understood for type '{kind}'", field=name)
    return made


def _listed(name: str, kind: str, rest: dict[str, Any], when: Condition | None) -> Parameter:
    if kind == "constant":
        if "value" not in rest:
            raise InputError("wants 'value'", field=name)
        return Parameter(name, "constant", choices=(rest.pop("value"),), when=when)
    values = rest.pop("values", None)
    if values is None:
        values = rest.pop("categories", None)
    return Parameter(name, "choice", choices=_choices(name, values), when=when)


def _choices(name: str, values: Any) -> tuple[Any, ...]:
    from qcluster.q_hpo.parameter import same_value

    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if isinstance(values, range):
        values = list(values)
    if not isinstance(values, (list, tuple)) or not values:
        raise InputError("wants a list of at least one value", field=name)
    if _holds_domains(values):
        raise InputError("has parameters among its values: make them conditional", field=name)
    for i, a in enumerate(values):
        if isinstance(a, float) and not math.isfinite(a):
            raise InputError(f"has a value that is not finite: {a}", field=name)
        if any(same_value(a, b) for b in values[:i]):
            raise InputError(f"lists {a!r} twice", field=name)
    return tuple(values)


def _condition(name: str, data: Any) -> Condition | None:
    if data is None:
        return None
    if not isinstance(data, Mapping) or set(data) != {"parent", "in"}:
        raise InputError('wants \'when\' as {"parent": NAME, "in": [...]}', field=name)
    if not isinstance(data["in"], (list, tuple)) or not data["in"]:
        raise InputError("wants at least one value in 'when'", field=name)
    return Condition(str(data["parent"]), tuple(data["in"]))


def _number(name: str, rest: dict[str, Any], key: str, default: float | None = None) -> float:
    if key not in rest:
        if default is None:
            raise InputError(f"wants '{key}'", field=name)
        return default
    value = rest.pop(key)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"wants a number as '{key}', got {value!r}", field=name)
    plain: float = value.item() if isinstance(value, np.generic) else value
    return plain


def _step(name: str, rest: dict[str, Any], wanted: bool) -> float | None:
    return _number(name, rest, "q") if wanted else None


def _from_object(name: str, value: Any) -> Parameter:
    kind = type(value).__name__
    module = type(value).__module__
    if module.startswith("ray.tune"):
        return _from_ray(name, kind, value)
    if module.startswith("optuna."):
        return _from_optuna(name, kind, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"is a constant that is not finite: {value}", field=name)
    if _holds_domains(value):
        raise InputError("is a list with parameters in it: give each a name", field=name)
    if callable(value):
        raise InputError("is a function; a searcher cannot search it", field=name)
    return Parameter(name, "constant", choices=(value,))


def _from_ray(name: str, kind: str, domain: Any) -> Parameter:
    sampler = domain.get_sampler() if hasattr(domain, "get_sampler") else None
    quantum = getattr(sampler, "q", None)
    inner = getattr(sampler, "sampler", sampler) if quantum is not None else sampler
    style = type(inner).__name__.removeprefix("_")
    make: dict[str, Callable[[], Parameter]] = {
        "Categorical": lambda: Parameter(
            name, "choice", choices=_choices(name, list(domain.categories))
        ),
        "Float": lambda: _ray_float(name, domain, inner, style, quantum),
        "Integer": lambda: Parameter(
            name, "int", domain.lower, domain.upper - (0 if quantum not in (None, 1) else 1),
            style == "LogUniform", None if quantum in (None, 1) else quantum,
        ),
    }  # fmt: skip
    if kind not in make:
        raise InputError(f"is a {kind} of ray.tune, which a searcher cannot search", field=name)
    return make[kind]()


def _ray_float(name: str, domain: Any, inner: Any, style: str, quantum: float | None) -> Parameter:
    if style == "Normal":
        return Parameter(name, "normal", inner.mean, inner.sd, q=quantum)
    return Parameter(name, "float", domain.lower, domain.upper, style == "LogUniform", quantum)


def _from_optuna(name: str, kind: str, domain: Any) -> Parameter:
    if kind == "CategoricalDistribution":
        return Parameter(name, "choice", choices=_choices(name, list(domain.choices)))
    if kind not in ("FloatDistribution", "IntDistribution"):
        raise InputError(f"is a {kind}, which is not understood", field=name)
    whole = kind == "IntDistribution"
    step = None if whole and domain.step == 1 else domain.step
    return Parameter(
        name, "int" if whole else "float", domain.low, domain.high, domain.log, step,
        origin=domain.low if step else 0.0,
    )  # fmt: skip
