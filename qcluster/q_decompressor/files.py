"""Blobs to files of tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qcluster.codec.container import digest
from qcluster.codec.errors import QctCorruptError
from qcluster.codec.files import read_bytes, read_tensors, write_tensors
from qcluster.errors import FormatError, InputError
from qcluster.q_decompressor.config import DecompressorConfig
from qcluster.q_decompressor.decompress import decompress
from qcluster.q_decompressor.enhancer import Enhancer

__all__ = ["check_side_file", "decompress_file"]


def decompress_file(
    source: str | Path,
    output: str | Path,
    *,
    max_output_bytes: int,
    config: DecompressorConfig | Mapping[str, Any] | None = None,
    parent: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    model: str | Path | None = None,
) -> dict[str, Any]:
    """A blob to a file of tensors; returns each tensor's report as JSON types.

    A side file ``SOURCE.json`` that is there must belong to the blob. ``model`` is a file of an
    enhancer that ``qcluster train`` made, for the toggle ``lstm``. Raises FormatError and its
    kinds, naming the file.
    """
    learnt, chosen = None, DecompressorConfig.read(config)
    if model is not None:
        learnt, chosen = Enhancer.load(model), chosen.model_copy(update={"lstm": True})
    blob = read_bytes(source)
    known = None if parent is None else dict(read_tensors(parent))
    try:
        check_side_file(source, blob)
        tensors, reports = decompress(
            blob, max_output_bytes=max_output_bytes, config=chosen, parent=known,
            return_report=True, model=learnt,
        )  # fmt: skip
    except InputError as error:
        raise error.at(file=source) from None
    if not isinstance(tensors, dict):
        tensors, reports = {"": tensors}, {"": reports}
    write_tensors(output, tensors)
    if progress is not None:
        progress(len(tensors), len(tensors), str(output))
    return {name: report.to_dict() for name, report in reports.items()}


def check_side_file(source: str | Path, blob: bytes) -> None:
    """Raises QctCorruptError when ``SOURCE.json`` describes another blob."""
    path = Path(f"{source}.json")
    if not path.exists():
        return
    try:
        said = json.loads(read_bytes(path)).get("blake3")
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"is no side file: {error}", file=path) from None
    if said != digest(blob).hex():
        raise QctCorruptError("belongs to another blob", file=path)
