"""The ``.qct`` container: 64-bit header length, JSON header, payload; see docs/qct.md.

It knows names, shapes, byte ranges and checksums; what the bytes of a chunk mean is the chain's
business. Reading never trusts a number before it is checked, and allocates nothing on the header's
word.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from blake3 import blake3

from qcluster.codec.dtypes import DType, dtype_named
from qcluster.codec.errors import QctCorruptError, QctFormatError, QctUnsupportedError

__all__ = ["DIGEST", "Entry", "build", "build_head", "chunk_sizes", "digest", "head_room", "parse",
           "read_chunks"]  # fmt: skip

DIGEST = 16
MAX_HEADER = 16 * 2**20
MAX_ELEMENTS = 2**63 - 1
# Elements that are coded together, unless an entry says otherwise.
CHUNK = 1 << 19
_KEYS = {"dtype", "shape", "data_offsets", "ops", "as", "chunk", "guarantee", "parent", "report"}


def digest(*parts: Any) -> bytes:
    """BLAKE3 of the parts in order, 16 bytes."""
    hasher = blake3()
    for part in parts:
        view = memoryview(part)
        # An empty view cannot be cast.
        hasher.update(view.cast("B") if view.nbytes else b"")
    return hasher.digest(DIGEST)


@dataclass(frozen=True)
class Entry:
    """One tensor of a blob.

    ``ops`` is the chain, each ``(name, parameters)``, in the order of decoding. ``start`` and
    ``stop`` are its bytes after the header's digest.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    ops: tuple[tuple[str, Mapping[str, Any]], ...]
    framework: str = "numpy"
    chunk: int = CHUNK
    guarantee: Mapping[str, float] = field(default_factory=dict)
    parent: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    stop: int = 0

    @property
    def elements(self) -> int:
        """Number of parts: elements, twice that when complex."""
        count = self.dtype.parts
        for side in self.shape:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.elements * self.dtype.bits.itemsize


def chunk_sizes(entry: Entry) -> list[int]:
    """Elements of each chunk."""
    full, rest = divmod(entry.elements, entry.chunk)
    return [entry.chunk] * full + ([rest] if rest else [])


def build_head(entries: Sequence[Entry], room: int = 0) -> bytes:
    """Length, header and digest of entries whose byte ranges are known, padded to ``room`` bytes.

    With the ranges still open, ``head_room`` says what is enough.
    """
    header = {e.name: _describe(e, e.start, e.stop) for e in entries}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (room - len(text) - 8 - DIGEST)
    head = struct.pack("<Q", len(text)) + text
    return head + digest(head)


def head_room(entries: Sequence[Entry], more: int) -> int:
    """Bytes that hold the head whatever the ranges, and ``more`` a tensor for what is not known."""
    return len(build_head(entries)) + len(entries) * (40 + more)


def build(entries: Sequence[tuple[Entry, bytes, Sequence[bytes]]]) -> bytes:
    """A blob of entries, each with the digest of its decoded bytes and its chunks."""
    header: dict[str, Any] = {}
    pieces: list[bytes] = []
    at = DIGEST
    for entry, whole, chunks in entries:
        table = b"".join(struct.pack("<II", len(c), zlib.crc32(c)) for c in chunks)
        size = DIGEST + len(table) + sum(map(len, chunks))
        header[entry.name] = _describe(entry, at, at + size)
        pieces += [whole, table, *chunks]
        at += size
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    head = struct.pack("<Q", len(text)) + text
    return b"".join([head, digest(head), *pieces])


def _describe(entry: Entry, start: int, stop: int) -> dict[str, Any]:
    ops = [name if not parameters else [name, dict(parameters)] for name, parameters in entry.ops]
    out: dict[str, Any] = {
        "dtype": entry.dtype.name,
        "shape": list(entry.shape),
        "data_offsets": [start, stop],
        "ops": ops,
    }
    if entry.framework != "numpy":
        out["as"] = entry.framework
    if entry.chunk != CHUNK:
        out["chunk"] = entry.chunk
    if entry.guarantee:
        out["guarantee"] = dict(entry.guarantee)
    if entry.parent is not None:
        out["parent"] = _short(entry.parent)
    if entry.report:
        out["report"] = dict(entry.report)
    return out


def _short(parent: str) -> str:
    """A digest in 22 characters instead of 32, where it is one."""
    if re.fullmatch("[0-9a-f]{32}", parent):
        return base64.urlsafe_b64encode(bytes.fromhex(parent)).decode().rstrip("=")
    return parent


def _long(parent: str | None) -> str | None:
    """What ``_short`` was given; digests in hexadecimal, of earlier blobs, as they are."""
    if parent is not None and re.fullmatch("[0-9A-Za-z_-]{22}", parent):
        return base64.urlsafe_b64decode(parent + "==").hex()
    return parent


def parse(blob: Any) -> tuple[list[Entry], memoryview]:
    """The entries of a blob and its payload.

    Raises QctFormatError, QctCorruptError or QctUnsupportedError; nothing is decoded.
    """
    view = memoryview(blob).cast("B")
    if len(view) < 8:
        raise QctFormatError(f"has {len(view)} bytes, which is no header", field="blob")
    (length,) = struct.unpack_from("<Q", view)
    if length > MAX_HEADER or 8 + length + DIGEST > len(view):
        raise QctFormatError(f"declares a header of {length} bytes", field="blob")
    text = view[8 : 8 + length]
    if digest(view[: 8 + length]) != view[8 + length : 8 + length + DIGEST]:
        raise QctCorruptError("the header does not match its digest", field="header")
    try:
        header = json.loads(str(text, "utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise QctFormatError(f"is not JSON: {error}", field="header") from None
    if not isinstance(header, dict):
        raise QctFormatError("is not a JSON object", field="header")
    payload = view[8 + length :]
    entries = [_entry(name, item) for name, item in header.items()]
    _check_ranges(entries, len(payload))
    return entries, payload


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise QctFormatError("names a key twice", field="header")
    return found


def _refuse(name: str) -> None:
    raise QctFormatError(f"{name} is not a number that JSON has", field="header")


def _entry(name: str, item: Any) -> Entry:
    def wrong(what: str) -> QctFormatError:
        return QctFormatError(what, field=f"{name or 'tensor'}")

    if not isinstance(item, dict):
        raise wrong("is not a JSON object")
    if set(item) - _KEYS:
        raise QctUnsupportedError(f"has an unknown key {min(set(item) - _KEYS)!r}", field=name)
    shape, offsets = item.get("shape"), item.get("data_offsets")
    if not _whole_numbers(shape) or len(shape) > 64:
        raise wrong("shape wants a list of whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("data_offsets wants two positions in order")
    chunk = item.get("chunk", CHUNK)
    if not _whole_numbers([chunk]) or not 1 <= chunk <= 2**22:
        raise wrong("chunk wants a whole number from 1 to 4194304")
    if item.get("as", "numpy") not in ("numpy", "torch"):
        raise QctUnsupportedError("'as' wants numpy or torch", field=name)
    for key, kind in (("guarantee", dict), ("report", dict), ("parent", str)):
        if key in item and not isinstance(item[key], kind):
            raise wrong(f"{key} is of the wrong type")
    entry = Entry(
        name=name,
        dtype=dtype_named(item.get("dtype")),
        shape=tuple(shape),
        ops=tuple(_operation(name, op) for op in _list(item.get("ops"), wrong("wants ops"))),
        framework=item.get("as", "numpy"),
        chunk=chunk,
        guarantee=item.get("guarantee", {}),
        parent=_long(item.get("parent")),
        report=item.get("report", {}),
        start=offsets[0],
        stop=offsets[1],
    )
    if max([entry.nbytes, *shape]) > MAX_ELEMENTS:
        raise wrong("shape is beyond 2^63 bytes")
    return entry


def _list(value: Any, error: Exception) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= 16:
        raise error
    return value


def _operation(name: str, op: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(op, str):
        return op, {}
    if not isinstance(op, list) or len(op) != 2 or not isinstance(op[0], str):
        raise QctFormatError("an operation wants a name, or a name and parameters", field=name)
    if not isinstance(op[1], dict):
        raise QctFormatError(f"{op[0]} wants an object of parameters", field=name)
    return op[0], op[1]


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= MAX_ELEMENTS for v in value
    )


def _check_ranges(entries: Sequence[Entry], size: int) -> None:
    """The tensors' bytes follow each other without gap or overlap and fill the payload."""
    at = DIGEST
    for entry in entries:
        if entry.start != at or entry.stop < at + DIGEST:
            raise QctFormatError(f"its bytes start at {entry.start}, not {at}", field=entry.name)
        at = entry.stop
    if at != size:
        raise QctCorruptError(f"holds {size} payload bytes, its header {at}", field="blob")


def read_chunks(
    entry: Entry, payload: memoryview, start: int = 0, stop: int = MAX_ELEMENTS
) -> Iterator[tuple[int, int, memoryview]]:
    """``(first element, elements, bytes)`` of each chunk, its checksum verified when reached.

    Those without an element from ``start`` to before ``stop`` are stepped over, unread.
    """
    part = payload[entry.start : entry.stop]
    # A chunk has at least its line in the table: a huge shape in a short blob ends here.
    count = -(-entry.elements // entry.chunk)
    at = DIGEST + 8 * count
    if at > len(part):
        raise QctFormatError(f"has no room for a table of {count} chunks", field=entry.name)
    first = 0
    for number in range(count):
        length, crc = struct.unpack_from("<II", part, DIGEST + 8 * number)
        if at + length > len(part):
            raise QctFormatError(f"chunk {number} ends beyond the tensor", field=entry.name)
        data = part[at : at + length]
        size = min(entry.chunk, entry.elements - first)
        if first < stop and first + size > start:
            if zlib.crc32(data) != crc:
                raise QctCorruptError(f"chunk {number} does not match its checksum",
                                      field=entry.name)  # fmt: skip
            yield first, size, data
        first += size
        at += length
    if at != len(part):
        raise QctFormatError("has bytes beyond its last chunk", field=entry.name)
