"""Arrays that are larger than memory to a blob, a few chunks at a time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from qcluster.codec.container import DIGEST, Entry, build_head, chunk_sizes, head_room
from qcluster.codec.dtypes import to_bits
from qcluster.codec.files import map_tensors, write_atomically
from qcluster.codec.lossless import encode_lossless
from qcluster.errors import InputError
from qcluster.q_compressor.compress import check_value, chunk_of, columns_of
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.lattices import encode_max_abs

__all__ = ["compress_stream", "stream_to"]

Bits = NDArray[Any]
Progress = Callable[[int, int, str], None]
# What a tensor's header may grow by when its first chunk is known: center and prediction.
PARAMETERS = 80


def compress_stream(
    source: str | Path | Mapping[str, Any],
    output: str | Path,
    *,
    mode: str = "lossless",
    value: float | None = None,
    config: CompressorConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> int:
    """Tensors to a blob on disk, of which a chunk is in memory at a time; returns its bytes.

    Parameters
    ----------
    source: a .npy or .safetensors file, which is mapped, or arrays by name (``np.memmap``, any
        that slices along its first axis).
    output: the blob; it appears when it is whole.
    mode, value, config: as of ``compress``; ``lossless`` and ``max_abs``, which need to see no
        more than a chunk.

    Raises InputError for other modes and for what ``compress`` refuses, FormatError naming the
    file.
    """
    check_value(mode, value)
    if mode not in ("lossless", "max_abs"):
        raise InputError(f"{mode} wants the whole tensor; lossless and max_abs go in parts",
                         field="mode")  # fmt: skip
    chosen = CompressorConfig.read(config)
    size = 0

    def write(file: Any) -> None:
        nonlocal size
        tensors = source if isinstance(source, Mapping) else dict(map_tensors(source))
        size = stream_to(file, tensors, mode, value, chosen.effort, progress)

    write_atomically(output, write)
    return size


def stream_to(
    file: Any, tensors: Mapping[str, Any], mode: str, value: float | None, effort: str,
    progress: Progress | None = None,
) -> int:  # fmt: skip
    """Write the blob to a file that can seek; returns its bytes."""
    entries = [_entry(name, tensor, mode, value) for name, tensor in tensors.items()]
    room = head_room(entries, PARAMETERS)
    file.write(b"\0" * room)
    at = DIGEST
    for number, (entry, tensor) in enumerate(zip(entries, tensors.values(), strict=True)):
        written, size = _tensor(file, entry, tensor, value, effort)
        entries[number] = replace(written, start=at, stop=at + size)
        at += size
        if progress is not None:
            progress(number + 1, len(entries), entry.name)
    file.seek(0)
    file.write(build_head(entries, room))
    return room - DIGEST + at


def _entry(name: str, tensor: Any, mode: str, value: float | None) -> Entry:
    """What the header will say, but for the byte ranges."""
    if not isinstance(name, str):
        raise InputError(f"wants names, got {name!r}", field="tensors")
    try:
        dtype, _, _, framework = to_bits(tensor[:0] if getattr(tensor, "ndim", 0) else tensor)
    except InputError as error:
        raise InputError(error.message, field=name or error.field) from None
    shape = tuple(int(s) for s in tensor.shape)
    chunk = chunk_of(dtype, shape, columns_of(shape, dtype))
    lossy = mode == "max_abs" and dtype.is_float and value
    ops: Any = (("uniform", {"step": 2 * value}),) if lossy and value else (("lossless", {}),)
    guarantee = {"max_abs": float(value)} if lossy and value else {}
    return Entry(name, dtype, shape, ops, framework, chunk, guarantee=guarantee)


def _tensor(
    file: Any, entry: Entry, tensor: Any, value: float | None, effort: str
) -> tuple[Entry, int]:
    """Write one tensor's bytes: digest and table are filled in when its chunks are there."""
    sizes = chunk_sizes(entry)
    start = file.tell()
    file.write(b"\0" * (DIGEST + 8 * len(sizes)))
    hasher, table = blake3(), []
    columns = columns_of(entry.shape, entry.dtype)
    ops = entry.ops
    like: Mapping[str, Any] | None = None
    for bits in _chunks(entry, tensor, sizes):
        if ops[0][0] == "uniform" and value:
            coded = encode_max_abs(bits, entry.dtype, columns, bits.size, value, effort, like)
            ops, data, decoded = coded.ops, coded.chunks[0], coded.decoded
            like = ops[0][1]
        else:
            data, decoded = encode_lossless(bits, entry.dtype, columns, effort=effort), bits
        hasher.update(np.ascontiguousarray(decoded).view(np.uint8).data)
        table.append(struct.pack("<II", len(data), zlib.crc32(data)))
        file.write(data)
    end = file.tell()
    file.seek(start)
    file.write(hasher.digest(DIGEST) + b"".join(table))
    file.seek(end)
    return replace(entry, ops=ops), end - start


def _chunks(entry: Entry, tensor: Any, sizes: list[int]) -> Iterator[Bits]:
    """The bits of each chunk: rows are read as they are needed, and no row twice but at seams."""
    if len(entry.shape) == 0 or entry.elements == 0:
        if sizes:
            yield to_bits(tensor)[2]
        return
    row = entry.elements // entry.shape[0]
    first = 0
    for size in sizes:
        low, high = first // row, -(-(first + size) // row)
        bits = to_bits(tensor[low:high])[2]
        yield bits[first - low * row : first - low * row + size]
        first += size
