"""Tensor files by their endings: .npy .npz .safetensors, .pt/.bin by weights-only load, DCP.

Nothing is unpickled beyond torch's weights-only rules. Writers are atomic.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DTYPES, DType, from_bits, numpy_dtype, to_bits
from qcluster.errors import FormatError

__all__ = ["ENDINGS", "map_tensors", "read_bytes", "read_tensors", "safetensors_head",
           "write_atomically", "write_tensors"]  # fmt: skip

ENDINGS = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".bin")
MAX_HEADER = 100 * 2**20


def read_bytes(path: str | Path) -> bytes:
    """A file whole. Raises FormatError naming it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None


def read_tensors(path: str | Path) -> Iterator[tuple[str, Any]]:
    """``(name, tensor)`` of each tensor, one at a time; a .npy's name is empty.

    Raises FormatError naming the file, and the tensor where there is one.
    """
    path = Path(path)
    if path.is_dir():
        yield from _read_dcp(path)
        return
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors,
        ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FormatError(f"has none of the endings {', '.join(ENDINGS)}", file=path)
    try:
        yield from reader(path)
    except OSError as error:
        raise FormatError(error.strerror or str(error), file=path) from None


def map_tensors(path: str | Path) -> Iterator[tuple[str, Any]]:
    """As ``read_tensors`` of .npy and .safetensors files, as maps that read what is used of them.

    Raises FormatError naming the file.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".npy", ".safetensors"):
        raise FormatError("is read as a whole; .npy and .safetensors go in parts", file=path)
    try:
        if ending == ".npy":
            yield "", np.load(path, mmap_mode="r", allow_pickle=False)
            return
        for name, dtype, shape, at in _safetensors_items(path):
            kind = numpy_dtype(dtype) or dtype.bits
            if 0 in shape:
                yield name, np.empty(shape, kind)
            else:
                # As bytes, which every NumPy can map.
                size = math.prod(shape) * dtype.size
                raw = np.memmap(path, np.uint8, "r", at, (size,))
                yield name, raw.view(kind).reshape(shape)
    except (ValueError, EOFError) as error:
        raise FormatError(f"is no {ending} of numbers: {error}", file=path) from None
    except OSError as error:
        raise FormatError(error.strerror or str(error), file=path) from None


def _read_npy(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield "", np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise FormatError(f"is no .npy of numbers: {error}", file=path) from None


def _read_npz(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                yield name, archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError, AttributeError) as error:
        raise FormatError(f"is no .npz of numbers: {error}", file=path) from None


def _read_safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for name, dtype, shape, at in _safetensors_items(path):
            file.seek(at)
            bits = np.frombuffer(file.read(math.prod(shape) * dtype.size), dtype=dtype.bits)
            yield name, from_bits(bits, dtype, shape)


def _safetensors_items(path: Path) -> Iterator[tuple[str, DType, tuple[int, ...], int]]:
    """Name, type, shape and first byte of each tensor."""
    with path.open("rb") as file:
        start = file.read(8)
        size = path.stat().st_size
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, size - 8):
            raise FormatError("is no safetensors file", file=path)
        text = file.read(length)
    try:
        header = json.loads(text)
        items = [(n, i) for n, i in header.items() if n != "__metadata__"]
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"has no safetensors header: {error}", file=path) from None
    for name, item in items:
        dtype, shape, begin, _ = _described(path, name, item, size - 8 - length)
        yield name, dtype, shape, 8 + length + begin


def _described(
    path: Path, name: str, item: Any, size: int
) -> tuple[DType, tuple[int, ...], int, int]:
    try:
        dtype = DTYPES[item["dtype"]]
        shape = tuple(int(s) for s in item["shape"])
        begin, end = (int(o) for o in item["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise FormatError("has a description that is not understood", file=path,
                          field=name) from None  # fmt: skip
    count = dtype.size
    for side in shape:
        count *= side
    if min((0, *shape)) < 0 or not 0 <= begin <= end <= size or end - begin != count:
        raise FormatError("has a shape that does not fit its bytes", file=path, field=name)
    return dtype, shape, begin, count


def _read_torch(path: Path) -> Iterator[tuple[str, Any]]:
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        # torch writes parts of it in bold.
        first = re.sub(r"\x1b\[[0-9;]*m", "", first)
        raise FormatError(f"is refused by torch's weights-only load: {first}", file=path) from None
    if isinstance(loaded, torch.Tensor):
        loaded = {"": loaded}
    if not isinstance(loaded, Mapping):
        raise FormatError(f"holds a {type(loaded).__name__}, not tensors by name", file=path)
    yield from _flattened(loaded, path)


def _flattened(items: Mapping[Any, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    import torch

    for name, item in items.items():
        if isinstance(item, torch.Tensor):
            yield f"{prefix}{name}", item
        elif isinstance(item, Mapping):
            yield from _flattened(item, path, f"{prefix}{name}.")
        elif isinstance(item, (bool, int, float)):
            yield f"{prefix}{name}", np.asarray(item)
        elif item is not None:
            raise FormatError(f"is a {type(item).__name__}, not a tensor", file=path,
                              field=f"{prefix}{name}")  # fmt: skip


def _read_dcp(path: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a torch.distributed.checkpoint directory."""
    if not (path / ".metadata").is_file():
        raise FormatError("is a directory without a checkpoint's .metadata", file=path)
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(path)
    try:
        metadata = reader.read_metadata()
        for name, item in metadata.state_dict_metadata.items():
            if isinstance(item, TensorStorageMetadata):
                state = {name: torch.empty(item.size, dtype=item.properties.dtype)}
                load(state, storage_reader=FileSystemReader(path), no_dist=True)
                yield name, state[name]
    except (RuntimeError, EOFError, KeyError, AttributeError) as error:
        raise FormatError(f"is no checkpoint: {error}", file=path) from None


def write_atomically(path: str | Path, write: Callable[[Any], None]) -> None:
    """Write a binary file so that readers see the old one or the new one, never a part."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    except OSError as error:
        raise FormatError(error.strerror or "cannot be written", file=path) from None
    finally:
        partial.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: Mapping[str, Any]) -> None:
    """Tensors to .npy (one), .npz or .safetensors. Raises FormatError naming the file."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".npy":
        if len(tensors) != 1:
            raise FormatError(f"holds one tensor, there are {len(tensors)}", file=path)
        [tensor] = tensors.values()
        write_atomically(path, lambda file: np.save(file, _plain(tensor, path), allow_pickle=False))
    elif ending == ".npz":
        named = {name or "tensor": _plain(tensor, path) for name, tensor in tensors.items()}
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **named))
    elif ending == ".safetensors":
        write_atomically(path, lambda file: _write_safetensors(file, tensors))
    else:
        raise FormatError("wants an ending of .npy, .npz or .safetensors", file=path)


def _plain(tensor: Any, path: Path) -> NDArray[Any]:
    """An array of a type that NumPy's own files know."""
    dtype, shape, bits, _ = to_bits(tensor)
    if dtype.numpy.startswith(("bfloat", "float8")):
        raise FormatError(f"NumPy's files have no {dtype.name}; use .safetensors", file=path)
    return from_bits(bits, dtype, shape)


def safetensors_head(tensors: Iterable[tuple[str, DType, tuple[int, ...]]]) -> bytes:
    """Length and header of a safetensors file of these names, types and shapes, in this order."""
    header, at = {}, 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * dtype.size
        header[name] = {"dtype": dtype.name, "shape": list(shape),
                        "data_offsets": [at, at + size]}  # fmt: skip
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_safetensors(file: Any, tensors: Mapping[str, Any]) -> None:
    coded = [(name or "tensor", *to_bits(tensor)[:3]) for name, tensor in tensors.items()]
    file.write(safetensors_head((name, dtype, shape) for name, dtype, shape, _ in coded))
    for *_, bits in coded:
        file.write(bits.tobytes())
