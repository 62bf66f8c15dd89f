"""Strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qcluster.errors import InputError
from qcluster.q_hpo.config import GPConfig, HybridConfig, VQCConfig
from qcluster.q_hpo.strategy import RandomStrategy, SobolStrategy, Strategy

__all__ = ["make_strategy", "settings_of", "strategy_names"]


def _gp(settings: Mapping[str, Any]) -> Strategy:
    from qcluster.q_hpo.gp.search import GPStrategy

    return GPStrategy(GPConfig.read(settings))


def _vqc(settings: Mapping[str, Any]) -> Strategy:
    config = VQCConfig.read(settings)
    if config.mode == "variational":
        from qcluster.q_hpo.vqc.trained import VariationalStrategy

        return VariationalStrategy(config)
    from qcluster.q_hpo.vqc.search import VQCStrategy

    return VQCStrategy(config)


def _hybrid(settings: Mapping[str, Any]) -> Strategy:
    from qcluster.q_hpo.hybrid import HybridStrategy

    return HybridStrategy(HybridConfig.read(settings))


def _plain(kind: type[RandomStrategy]) -> Callable[[Mapping[str, Any]], Strategy]:
    def make(settings: Mapping[str, Any]) -> Strategy:
        if settings:
            raise InputError("takes no settings", field=f"strategy.{min(settings)}")
        return kind()

    return make


_MAKERS: dict[str, Callable[[Mapping[str, Any]], Strategy]] = {
    "gp": _gp,
    "vqc": _vqc,
    "hybrid": _hybrid,
    "sobol": _plain(SobolStrategy),
    "random": _plain(RandomStrategy),
}


def strategy_names() -> tuple[str, ...]:
    """What ``Study(strategy=...)`` accepts."""
    return tuple(_MAKERS)


def make_strategy(settings: Mapping[str, Any]) -> Strategy:
    """The strategy of ``{"name": ..., **settings}``. Raises InputError for an unknown one."""
    rest = dict(settings)
    name = rest.pop("name", None)
    if not isinstance(name, str) or name not in _MAKERS:
        raise InputError(f"knows {', '.join(_MAKERS)}, got {name!r}", field="strategy")
    return _MAKERS[name](rest)


def settings_of(strategy: Any) -> dict[str, Any]:
    """A strategy's name, or its name and settings, as settings. Raises InputError."""
    if isinstance(strategy, str):
        return {"name": strategy}
    if not isinstance(strategy, Mapping):
        raise InputError(f"wants a name or an object, got {str(strategy)[:40]}", field="strategy")
    return dict(strategy)
