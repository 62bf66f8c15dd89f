"""Blobs that are larger than memory: rows of a tensor, and a blob to a file chunk by chunk."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qcluster.codec.chain import check_limit, decode_parts, decode_range
from qcluster.codec.container import Entry, parse
from qcluster.codec.dtypes import from_bits, numpy_dtype, to_torch
from qcluster.codec.errors import QctFormatError
from qcluster.codec.files import safetensors_head, write_atomically
from qcluster.errors import FormatError, InputError
from qcluster.q_decompressor.decompress import check_bytes, find_tensor, source_of

__all__ = ["decompress_rows", "decompress_stream", "open_blob"]


@contextmanager
def open_blob(path: str | Path) -> Iterator[memoryview]:
    """A blob on disk as a buffer that is read as it is used. Raises FormatError naming it."""
    try:
        with Path(path).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(reason, file=path) from None
    # Views of it may outlive an error's traceback: the mapping goes with the last of them.
    yield memoryview(mapped)


def decompress_rows(
    blob: Any,
    start: int,
    stop: int,
    *,
    max_output_bytes: int,
    name: str = "",
    parent: Any = None,
    optimizer_state: Mapping[str, Any] | None = None,
    framework: str | None = None,
) -> Any:
    """Rows ``start`` to before ``stop`` along the first axis of a tensor, counted as in a slice.

    Only the chunks that hold them are read, and verified by their checksums. ``blob`` is any
    buffer; with ``open_blob`` the rest of a file is not even read.

    Raises QctLimitError for the rows alone, NotFound for the name, InputError for a tensor without
    rows, and as ``decompress``.
    """
    if framework not in (None, "numpy", "torch"):
        raise InputError(f"wants numpy or torch, got {framework!r}", field="framework")
    entries, payload = parse(blob)
    every = {entry.name: entry for entry in entries}
    entry = source_of(find_tensor(every, name), every)
    if not entry.shape:
        raise InputError("has no rows", field=name or "tensor")
    for bound in (start, stop):
        if isinstance(bound, bool) or not isinstance(bound, (int, np.integer)):
            raise InputError(f"wants whole numbers, got {bound!r}", field="rows")
    first, last, _ = slice(int(start), int(stop)).indices(entry.shape[0])
    last = max(first, last)
    row = entry.elements // entry.shape[0] if entry.shape[0] else 0
    shape = (last - first, *entry.shape[1:])
    if row * (last - first) * entry.dtype.bits.itemsize > check_bytes(max_output_bytes):
        part = Entry(entry.name, entry.dtype, shape, entry.ops)
        check_limit([part], int(max_output_bytes))
    bits = decode_range(entry, payload, first * row, last * row, parent, optimizer_state)
    if (framework or entry.framework) == "torch":
        return to_torch(bits, entry.dtype, shape)
    return from_bits(bits, entry.dtype, shape)


def decompress_stream(
    source: str | Path, output: str | Path, *, max_output_bytes: int, parent: Any = None
) -> list[str]:
    """A blob on disk to a .npy (one tensor) or .safetensors file, a chunk in memory at a time.

    Returns the tensors' names. The file appears when every digest has been checked; nothing
    remains of one that fails. ``parent`` is a dict of tensors, or one.

    Raises as ``decompress``, naming the file.
    """
    try:
        with open_blob(source) as blob:
            entries, payload = parse(blob)
            check_limit(entries, check_bytes(max_output_bytes))
            every = {entry.name: entry for entry in entries}
            head = _head(entries, Path(output))

            def write(file: Any) -> None:
                file.write(head)
                for entry in entries:
                    base = parent.get(entry.name) if isinstance(parent, Mapping) else parent
                    for bits in decode_parts(source_of(entry, every), payload, base):
                        file.write(bits.data)

            write_atomically(output, write)
    except (QctFormatError, InputError) as error:
        raise error.at(file=source) from None
    return [entry.name for entry in entries]


def _head(entries: list[Entry], path: Path) -> bytes:
    """What the output starts with."""
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return safetensors_head((e.name or "tensor", e.dtype, e.shape) for e in entries)
    if ending != ".npy":
        raise FormatError("wants an ending of .npy or .safetensors", file=path)
    if len(entries) != 1:
        raise FormatError(f"holds one tensor, there are {len(entries)}", file=path)
    [entry] = entries
    plain = numpy_dtype(entry.dtype)
    if plain is None or entry.dtype.numpy.startswith(("bfloat", "float8")):
        raise FormatError(f"NumPy's files have no {entry.dtype.name}; use .safetensors", file=path)
    import io

    head = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(plain), "fortran_order": False,
                 "shape": entry.shape}  # fmt: skip
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()
