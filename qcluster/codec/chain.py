"""Decoding: an entry's chain of operations, from checked chunks to verified bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from qcluster.codec.container import DIGEST, Entry, digest, parse, read_chunks
from qcluster.codec.delta import decode_delta, parent_bits
from qcluster.codec.denoise import Denoiser
from qcluster.codec.dtypes import from_bits
from qcluster.codec.errors import (
    QctCorruptError,
    QctFormatError,
    QctLimitError,
    QctUnsupportedError,
)
from qcluster.codec.lossless import decode_lossless
from qcluster.codec.quantised import LATTICES, decode_quantised
from qcluster.codec.residual import Residual
from qcluster.codec.transforms import Transform, read_transform
from qcluster.errors import InputError

__all__ = ["check_limit", "decode_entry", "decode_parts", "decode_range", "parent_tensor"]

Bits = NDArray[Any]


def check_limit(entries: Sequence[Entry], max_output_bytes: int) -> int:
    """The bytes that the entries declare.

    Raises QctLimitError when they are more than ``max_output_bytes``, before anything is allocated.
    """
    total = sum(entry.nbytes for entry in entries)
    if total > max_output_bytes:
        raise QctLimitError(f"declares {total} bytes of output, {max_output_bytes} are allowed",
                            field="max_output_bytes")  # fmt: skip
    return total


def decode_entry(
    entry: Entry, payload: memoryview, parent: Any = None, optimizer_state: Any = None
) -> Bits:
    """The bits (elements * parts,) of one tensor, verified against their digest.

    Parameters
    ----------
    entry, payload: from ``container.parse``.
    parent: the tensor that a delta was made against; its digest is checked.
    optimizer_state: what a replayed step was coded with; its digest is checked.

    Raises QctFormatError, QctCorruptError, QctUnsupportedError.
    """
    part = _decoder(entry, parent, optimizer_state)
    # A constant chunk decodes from ten bytes: what is allocated is what was declared and allowed.
    out = np.empty(entry.elements, dtype=entry.dtype.bits)
    for first, size, data in read_chunks(entry, payload):
        part(first, data, out[first : first + size])
    expected = bytes(payload[entry.start : entry.start + DIGEST])
    if digest(out.data if out.size else b"") != expected:
        raise QctCorruptError("decodes to other bits than were written", field=entry.name)
    return out


def decode_range(
    entry: Entry, payload: memoryview, start: int, stop: int, parent: Any = None,
    optimizer_state: Any = None,
) -> Bits:  # fmt: skip
    """The bits of elements (counted in parts) from ``start`` to before ``stop``.

    Only the chunks that hold them are read, verified by their checksums: the digest is of the
    whole. Raises as ``decode_entry``.
    """
    part = _decoder(entry, parent, optimizer_state)
    out = np.empty(stop - start, dtype=entry.dtype.bits)
    for first, size, data in read_chunks(entry, payload, start, stop):
        whole = np.empty(size, dtype=entry.dtype.bits)
        part(first, data, whole)
        low, high = max(start, first), min(stop, first + size)
        out[low - start : high - start] = whole[low - first : high - first]
    return out


def decode_parts(
    entry: Entry, payload: memoryview, parent: Any = None, optimizer_state: Any = None
) -> Iterator[Bits]:
    """The bits chunk by chunk, one in memory at a time; the digest is checked after the last.

    Raises as ``decode_entry``: what came before an error is not verified.
    """
    part = _decoder(entry, parent, optimizer_state)
    hasher = blake3()
    for first, size, data in read_chunks(entry, payload):
        out = np.empty(size, dtype=entry.dtype.bits)
        part(first, data, out)
        hasher.update(out.view(np.uint8).data)
        yield out
    if hasher.digest(DIGEST) != bytes(payload[entry.start : entry.start + DIGEST]):
        raise QctCorruptError("decodes to other bits than were written", field=entry.name)


def parent_tensor(parent: Any) -> Any:
    """A parent that came as a blob, which must itself be no delta, decoded; others as they are."""
    if not isinstance(parent, (bytes, bytearray, memoryview)):
        return parent
    entries, payload = parse(parent)
    if len(entries) != 1:
        raise InputError(f"holds {len(entries)} tensors, wants one", field="parent")
    return from_bits(decode_entry(entries[0], payload), entries[0].dtype, entries[0].shape)


def _decoder(
    entry: Entry, parent: Any, optimizer_state: Any
) -> Callable[[int, memoryview, Bits], None]:
    """What fills a chunk's bits, given its first element and its bytes."""
    name, parameters = entry.ops[0]
    residual = _residual(entry)
    transform = _transform(entry, entry.ops[1:-1] if residual else entry.ops[1:])
    if (entry.parent is not None) != (name in ("delta", "replay")):
        raise QctFormatError("has a parent that its chain does not use, or none", field=entry.name)
    base = None
    if entry.parent is not None:
        base = parent_bits(entry, parent_tensor(parent), optimizer_state)

    def coarse(data: memoryview, out: Bits) -> None:
        if transform is not None:
            transform.decode(name, parameters, data, entry.dtype, out)
        else:
            decode_quantised(name, parameters, data, entry.dtype, out)

    def part(first: int, data: memoryview, out: Bits) -> None:
        if residual is not None:
            residual.decode(coarse, data, entry.dtype, out)
        elif name == "lossless":
            decode_lossless(data, entry.dtype, out)
        elif name in ("delta", "replay"):
            assert base is not None
            decode_delta(data, entry.dtype, base[first : first + out.size], out)
        else:
            coarse(data, out)

    return part


def _residual(entry: Entry) -> Residual | None:
    """The chain's last operation, where it codes what a coarse version leaves."""
    name, parameters = entry.ops[-1]
    if name != "residual":
        return None
    if entry.ops[0][0] != "trellis" or not entry.dtype.is_float:
        raise _unknown(entry)
    return Residual.read(parameters)


def _transform(entry: Entry, more: Sequence[Any]) -> Transform | Denoiser | None:
    """What follows the first operation, ``more`` being the rest of the chain."""
    name = entry.ops[0][0]
    known = {"lossless", "delta", "replay", *LATTICES}
    if name not in known or len(more) > 1 or (more and name not in LATTICES):
        raise _unknown(entry)
    if not more:
        return None
    if more[0][0] == "denoise":
        return Denoiser.read(more[0][1])
    return read_transform(*more[0])


def _unknown(entry: Entry) -> QctFormatError:
    chain = " -> ".join(name for name, _ in entry.ops)
    return QctUnsupportedError(f"has the unknown chain {chain}", field=entry.name)
