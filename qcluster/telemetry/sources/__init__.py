"""Where telemetry comes from: one protocol, a registry of sources, and the SPEC strings of the CLI.

A spec is ``name`` or ``name:argument``, e.g. ``simulate:nvl72``, ``replay:trace.csv@10``, ``ray``,
``push``. Third parties register under the entry-point group ``qcluster.sources``.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from qcluster.registry import Registry
from qcluster.telemetry.schema import Batch

__all__ = ["SOURCES", "Source", "open_source"]


class Source(Protocol):
    """Delivers batches until it ends or is cancelled."""

    name: str
    """The spec it was opened with; stands in every batch and snapshot."""

    def batches(self) -> AsyncIterator[Batch]:
        """Batches in order of time, paced by the source itself.

        Ends by returning when there is no more (a replayed file); waits otherwise. Raises
        InputError when what it reads is wrong. Must not block the event loop.
        """
        ...


SOURCES: Registry[Callable[[str], Source]] = Registry("telemetry source", "qcluster.sources")
"""Name to a factory that takes the argument after the colon ('' if none)."""


def open_source(spec: str) -> Source:
    """The source that a spec names.

    Raises NotFound for an unknown name, InputError for a bad argument.
    """
    name, _, argument = spec.partition(":")
    return SOURCES.get(name)(argument)


def _builtin(name: str, module: str, factory: str) -> None:
    """Register a source whose module is imported when it is first opened."""

    def build(argument: str) -> Source:
        found: Callable[[str], Source] = getattr(
            importlib.import_module(f"qcluster.telemetry.sources.{module}"), factory
        )
        return found(argument)

    SOURCES.register(name, build)


for _name, _module, _factory in (
    ("auto", "auto", "Auto"),
    ("dcgm", "dcgm", "dcgm"),
    ("jobs", "described", "jobs"),
    ("nvml", "nvml", "Nvml"),
    ("prometheus", "prometheus", "prometheus"),
    ("push", "push", "Push"),
    ("ray", "ray_metrics", "ray"),
    ("replay", "replay", "Replay"),
    ("simulate", "simulate", "Simulate"),
    ("topology", "described", "topology"),
):
    _builtin(_name, _module, _factory)
