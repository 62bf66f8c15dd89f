"""A small network on disk: weights as safetensors, what they are for as JSON beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError

__all__ = ["read_net", "write_net"]


def write_net(
    path: str | Path, weights: Mapping[str, NDArray[np.float64]], about: Mapping[str, Any]
) -> None:
    """Write ``path`` (safetensors) and ``path`` with .json beside it."""
    from safetensors.numpy import save_file

    path = Path(path)
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(dict(about), indent=1) + "\n")


def read_net(
    path: str | Path, names: Sequence[str], want: Mapping[str, Any]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """(weights, about) back from ``write_net``.

    ``names`` are the arrays that must be there, ``want`` what ``about`` must say. Raises
    FormatError naming the file and what is wrong with it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        weights = {name: array.astype(np.float64) for name, array in load_file(path).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"is no saved network: {error}", file=path) from None
    for key, value in want.items():
        if not isinstance(about, dict) or about.get(key) != value:
            raise FormatError(f"is for another model: its {key} is not {value}", file=path)
    if missing := [name for name in names if name not in weights]:
        raise FormatError("is not there", file=path, field=missing[0])
    return weights, about
