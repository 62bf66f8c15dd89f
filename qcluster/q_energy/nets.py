"""The networks that plans use: the package's own, or those that ``qcluster train`` wrote."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.curve_net import CurveNet, default_net
from qcluster.q_energy.meta import MetaNet, default_meta

__all__ = ["CURVES", "META", "Nets", "nets_in", "readable_nets"]

CURVES, META = "curve_net.safetensors", "meta_net.safetensors"
"""Names that ``qcluster train`` gives to what it writes."""


@dataclass(frozen=True)
class Nets:
    """``curves`` predicts speed and power under caps, ``meta`` judges pipelines."""

    curves: CurveNet
    meta: MetaNet

    @classmethod
    def default(cls) -> Nets:
        """Those that come with the package."""
        return cls(default_net(), default_meta())


def nets_in(directory: str | Path | None) -> Nets:
    """Networks of a directory as they are on disk now, the package's own where it has none of a
    kind; None takes the package's own. Files that have not changed are not read again.

    Raises FormatError naming the file or the directory that has neither.
    """
    if directory is None:
        return Nets.default()
    folder = Path(directory)
    stamps = tuple(_stamp(folder / name) for name in (CURVES, META))
    if stamps == (None, None):
        raise FormatError(f"has neither {CURVES} nor {META}", file=directory)
    return _read(folder, stamps)


def readable_nets(directory: str | Path | None, kept: Nets | None) -> tuple[Nets, list[str]]:
    """As ``nets_in``, or where that fails the ``kept`` ones (the package's own if None) and why."""
    try:
        return nets_in(directory), []
    except InputError as error:
        name = "those from before" if kept else "those of the package"
        return kept or Nets.default(), [f"weights: {error}; {name} are used"]


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when either file of a network does; None where there is none."""
    try:
        return path.stat().st_mtime_ns, path.with_suffix(".json").stat().st_mtime_ns
    except FileNotFoundError:
        return None if not path.exists() else (path.stat().st_mtime_ns, 0)
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None


@functools.lru_cache(maxsize=4)
def _read(folder: Path, stamps: tuple[tuple[int, int] | None, ...]) -> Nets:
    curves = default_net() if stamps[0] is None else CurveNet.load(folder / CURVES)
    return Nets(curves, default_meta() if stamps[1] is None else MetaNet.load(folder / META))
