"""Blobs to tensors: verified first, toggles after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.chain import check_limit, decode_entry
from qcluster.codec.container import Entry, parse
from qcluster.codec.dtypes import from_bits, to_torch
from qcluster.codec.errors import QctFormatError
from qcluster.codec.queues import taken
from qcluster.errors import InputError, NotFound
from qcluster.q_decompressor.config import DecompressorConfig
from qcluster.record import Record

__all__ = ["BlobInfo", "DecodeReport", "TensorInfo", "check_bytes", "decompress", "find_tensor",
           "inspect", "source_of"]  # fmt: skip

Bits = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorInfo(Record):
    """A tensor of a blob, from the header alone; ``compressed_bytes`` without the header."""

    name: str
    dtype: str
    shape: list[int]
    nbytes: int
    compressed_bytes: int
    chain: list[str]
    guarantee: dict[str, float]
    framework: str
    parent: str | None
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlobInfo(Record):
    """What a blob declares; ``ratio`` is output bytes a byte of the blob."""

    tensors: list[TensorInfo]
    compressed_bytes: int
    output_bytes: int
    header_bytes: int
    ratio: float


@dataclass(frozen=True, kw_only=True, eq=False)
class DecodeReport(Record):
    """What ran on one tensor after the plain decode.

    ``guarantee`` is the blob's; ``guarantee_holds`` whether it is proven for what was returned.
    ``steps`` maps each toggle that was on to what it did or why it did nothing.
    """

    name: str
    chain: list[str]
    guarantee: dict[str, float]
    guarantee_holds: bool
    steps: dict[str, str]


def inspect(blob: Any) -> BlobInfo:
    """What a blob holds, without decoding it. Raises QctFormatError."""
    entries, payload = parse(blob)
    size = len(memoryview(blob).cast("B"))
    total = sum(entry.nbytes for entry in entries)
    return BlobInfo(
        tensors=[_info(entry) for entry in entries],
        compressed_bytes=size,
        output_bytes=total,
        header_bytes=size - len(payload),
        ratio=total / size,
    )


def _info(entry: Entry) -> TensorInfo:
    return TensorInfo(
        name=entry.name,
        dtype=entry.dtype.name,
        shape=list(entry.shape),
        nbytes=entry.nbytes,
        compressed_bytes=entry.stop - entry.start,
        chain=[name for name, _ in entry.ops],
        guarantee={k: float(v) for k, v in entry.guarantee.items()},
        framework=entry.framework,
        parent=entry.parent,
        report=dict(entry.report),
    )


def decompress(
    blob: Any,
    *,
    max_output_bytes: int,
    config: DecompressorConfig | Mapping[str, Any] | None = None,
    parent: Any = None,
    framework: str | None = None,
    return_report: bool = False,
    optimizer_state: Mapping[str, Any] | None = None,
    names: Iterable[str] | None = None,
    device: Any = None,
    model: Any = None,
) -> Any:
    """What ``compress`` was given: a tensor, or a dict of them by name.

    Parameters
    ----------
    blob: bytes, any buffer, or a queue (of Ray too) whose next item is taken.
    max_output_bytes: a blob that declares more is refused before anything is allocated.
    config: toggles that run after the verified decode, ``DecompressorConfig``.
    parent: tensor, blob, or dict of tensors that a delta was coded against.
    framework: "numpy" or "torch" instead of what went in. Types that NumPy lacks come as
        ml_dtypes', without that library as unsigned integers of the same width.
    return_report: also return a ``DecodeReport`` (a dict of them for a dict of tensors).
    optimizer_state: what a replayed step was coded with.
    names: of a blob of many tensors only these; the others' bytes are not read.
    device: of torch tensors.
    model: an ``Enhancer`` for the toggle ``lstm``; None is the shipped one.

    Raises QctLimitError, QctFormatError, QctCorruptError, QctUnsupportedError, InputError.
    """
    chosen = DecompressorConfig.read(config)
    if framework not in (None, "numpy", "torch"):
        raise InputError(f"wants numpy or torch, got {framework!r}", field="framework")
    limit = check_bytes(max_output_bytes)
    entries, payload = parse(taken(blob))
    every = {entry.name: entry for entry in entries}
    wanted = entries if names is None else [find_tensor(every, name) for name in names]
    check_limit(wanted, limit)
    single = names is None and len(entries) == 1 and entries[0].name == ""
    tensors, reports = {}, {}
    for entry in wanted:
        base = parent.get(entry.name) if isinstance(parent, Mapping) else parent
        bits = decode_entry(source_of(entry, every), payload, base, optimizer_state)
        bits, report = _refine(bits, entry, chosen, model)
        made = to_torch if (framework or entry.framework) == "torch" else from_bits
        tensors[entry.name] = (
            made(bits, entry.dtype, entry.shape, device) if made is to_torch
            else made(bits, entry.dtype, entry.shape)
        )  # fmt: skip
        reports[entry.name] = report
    if single:
        return (tensors[""], reports[""]) if return_report else tensors[""]
    return (tensors, reports) if return_report else tensors


def check_bytes(limit: Any) -> int:
    """The limit as a whole number. Raises InputError for what is none."""
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)):
        raise InputError(f"wants a whole number, got {limit!r}", field="max_output_bytes")
    return int(limit)


def find_tensor(every: Mapping[str, Entry], name: str) -> Entry:
    """The entry of this name. Raises NotFound."""
    if name not in every:
        raise NotFound(f"no tensor '{name}' in this blob; there are {len(every)}")
    return every[name]


def source_of(entry: Entry, every: Mapping[str, Entry]) -> Entry:
    """The entry that holds the bits of one that shares them."""
    name, parameters = entry.ops[0]
    if name != "same":
        return entry
    other = every.get(str(parameters.get("as")))
    alike = other is not None and (other.dtype, other.shape) == (entry.dtype, entry.shape)
    if other is None or not alike or other.ops[0][0] == "same":
        raise QctFormatError("shares the bits of no such tensor", field=entry.name)
    return replace(other, framework=entry.framework)


def _refine(
    bits: Bits, entry: Entry, config: DecompressorConfig, model: Any
) -> tuple[Bits, DecodeReport]:
    steps: dict[str, str] = {}
    holds = True
    if config.hhl or config.qsvt or config.qft or config.lstm:
        from qcluster.q_decompressor.refine import refine

        bits, steps, holds = refine(bits, entry, config, model)
    report = DecodeReport(
        name=entry.name,
        chain=[name for name, _ in entry.ops],
        guarantee={k: float(v) for k, v in entry.guarantee.items()},
        guarantee_holds=holds,
        steps=steps,
    )
    return bits, report
