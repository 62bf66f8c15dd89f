"""Mutated blobs: flipped, cut, spliced, with other headers, and with checksums made right again."""

from __future__ import annotations

import json
import resource
import struct
import time
import zlib
from typing import Any

import numpy as np
from compression_parts.stamp import code_stamp
from harness import HERE, table
from ml_dtypes import bfloat16

from qcluster.codec.container import DIGEST, digest
from qcluster.codec.errors import QctFormatError
from qcluster.errors import InputError
from qcluster.q_compressor import compress, compress_state_dict
from qcluster.q_decompressor import decompress, inspect

LIMIT = 1 << 20
TOTAL = 200_000
BATCH = 5_000


def samples() -> list[bytes]:
    """A blob of every kind, most of some hundred bytes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 32)).astype(np.float32)
    smooth = np.cumsum(x, axis=1)
    return [
        compress(x), compress(x.astype(np.float64)), compress(rng.integers(0, 9, 300)),
        compress(np.zeros(500)), compress(x, mode="max_abs", value=0.1),
        compress(x, mode="point_rel", value=0.1), compress(x, mode="int8"),
        compress(x, mode="rel_l2", value=0.1, config={"transform": "none"}),
        compress(smooth, mode="rel_l2", value=0.1, config={"transform": "dct"}),
        compress(smooth, mode="rel_l2", value=0.1, config={"transform": "klt"}),
        compress_state_dict({"a": x, "b": x, "c": np.arange(9)}),
        *by_tables(rng), *with_residuals(rng), *with_signs(rng),
    ]  # fmt: skip


def with_residuals(rng: np.random.Generator) -> list[bytes]:
    """Blobs of a coarse version and its residual, of each kind."""
    t = np.arange(8192)
    x = sum(np.sin(2 * np.pi * t * f / 97.3 + f) for f in (1, 2.7, 11, 17.3))
    x = (x + 1e-3 * rng.normal(size=t.size)).reshape(32, 256).astype(np.float32)
    dct = {"transform": "dct"}
    blobs = [compress(x, mode="max_abs", value=0.01, config=dct),
             compress(x, mode="point_rel", value=0.01, config=dct),
             compress(x.astype(np.float16), config=dct)]  # fmt: skip
    assert all("residual" in inspect(blob).tensors[0].chain for blob in blobs)
    return blobs


def with_signs(rng: np.random.Generator) -> list[bytes]:
    """Blobs whose signs are coded by context."""
    x = rng.normal(size=(40, 64)) + 2 * rng.normal(size=64)
    return [compress(x), compress(x.astype(np.float16))]


def by_tables(rng: np.random.Generator) -> list[bytes]:
    """Blobs that are long enough for tables: of bytes, of second symbols, on the trellis."""
    x = rng.normal(size=(64, 64)).astype(np.float32)
    fast = {"effort": "fast", "transform": "none"}
    return [
        compress((x.view(np.uint32) >> 16).astype(np.uint16).view(bfloat16), config=fast),
        compress(x, config=fast), compress(np.abs(x).astype(np.float16), config=fast),
        compress(x, mode="rel_l2", value=0.1, config=fast),
        compress(np.abs(x), mode="max_abs", value=0.1, config=fast), _wandering(rng),
    ]  # fmt: skip


def _wandering(rng: np.random.Generator) -> bytes:
    """A blob whose contexts are neighbours: scales that neither row nor column promises."""
    steps = rng.normal(0, 0.15, (256, 256))
    scale = np.exp2(3 * np.sin(np.cumsum(steps, axis=1)))
    return compress((scale * rng.normal(size=scale.shape)).astype(bfloat16))


def mutate(blob: bytes, others: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """One mutation, and what kind it is."""
    kind = ["flip", "cut", "splice", "header", "resealed"][rng.integers(5)]
    data = bytearray(blob)
    at = int(rng.integers(len(data)))
    if kind == "flip":
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[at:]
    elif kind == "splice":
        other = others[int(rng.integers(len(others)))]
        data[at:] = other[int(rng.integers(len(other))) :]
    elif kind == "header":
        return kind, _other_header(blob, rng)
    else:
        return kind, _resealed(blob, rng)
    return kind, bytes(data)


def _parts(blob: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<Q", blob)
    return blob[8 : 8 + length], blob[8 + length + DIGEST :]


def _sealed(text: bytes, payload: bytes) -> bytes:
    head = struct.pack("<Q", len(text)) + text
    return head + digest(head) + payload


def _other_header(blob: bytes, rng: np.random.Generator) -> bytes:
    """A number or a word of the header changed, its digest made right: bombs among them."""
    text, payload = _parts(blob)
    numbers = [i for i, c in enumerate(text) if chr(c).isdigit()]
    data = bytearray(text)
    for _ in range(int(rng.integers(1, 3))):
        at = numbers[int(rng.integers(len(numbers)))]
        if rng.random() < 0.3:
            data[at:at] = b"9" * int(rng.integers(1, 12))
        else:
            data[at] = 48 + int(rng.integers(10))
    return _sealed(bytes(data), payload)


def _resealed(blob: bytes, rng: np.random.Generator) -> bytes:
    """A byte of a chunk changed, and its checksum made right: the decoder itself must hold."""
    text, payload = _parts(blob)
    items = list(json.loads(text).values())
    item = items[int(rng.integers(len(items)))]
    start, stop = (o - DIGEST for o in item["data_offsets"])
    data = bytearray(payload)
    if stop - start <= DIGEST + 8:
        return _sealed(text, bytes(data))
    at = int(rng.integers(start + DIGEST + 8, stop))
    data[at] ^= int(rng.integers(1, 256))
    chunk = bytes(data[start + DIGEST + 8 : stop])
    struct.pack_into("<I", data, start + DIGEST + 4, zlib.crc32(chunk))
    return _sealed(text, bytes(data))


def hostile(*, quick: bool) -> list[dict[str, Any]]:
    """Every mutation is refused, or decodes to exactly what was written; resumes where it was on
    this code.
    """
    store = HERE / ".cache" / f"compression_hostile_{code_stamp()}.json"
    state: dict[str, Any] = {"done": 0, "refused": {}, "unchanged": {}, "silent": 0, "slowest_s": 0}
    if store.exists():
        state = json.loads(store.read_text())
    blobs = samples()
    originals = [_bits(decompress(b, max_output_bytes=LIMIT)) for b in blobs]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    goal = min(TOTAL, state["done"] + (4 * BATCH if quick else TOTAL))
    while state["done"] < goal:
        rng = np.random.default_rng(state["done"])
        for _ in range(BATCH):
            _one(blobs, originals, rng, state)
        state["done"] += BATCH
        store.parent.mkdir(exist_ok=True)
        store.write_text(json.dumps(state))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    rows = [{"kind": k, "refused": n, "unchanged": state["unchanged"].get(k, 0)}
            for k, n in sorted(state["refused"].items())]  # fmt: skip
    table(f"{state['done']} mutated blobs: {state['silent']} silent changes, slowest "
          f"{state['slowest_s']:.3f} s of CPU, {grown:.0f} MiB of memory grown",
          ["mutation", "refused", "decoded to the same"],
          [[r["kind"], r["refused"], r["unchanged"]] for r in rows])  # fmt: skip
    return [{**state, "grown_mib": grown}]


def _bits(found: Any) -> bytes:
    if isinstance(found, dict):
        return b"|".join(_bits(t) for t in found.values())
    return bytes(np.ascontiguousarray(found).tobytes()) + str(found.dtype).encode()


def _one(
    blobs: list[bytes], originals: list[bytes], rng: np.random.Generator, state: dict[str, Any]
) -> None:
    number = int(rng.integers(len(blobs)))
    kind, data = mutate(blobs[number], blobs, rng)
    start = time.process_time()
    try:
        found = _bits(decompress(data, max_output_bytes=LIMIT))
    except (QctFormatError, InputError):
        state["refused"][kind] = state["refused"].get(kind, 0) + 1
    else:
        # A header may be changed in what only describes: the bits must not be.
        if found in originals or kind == "header":
            state["unchanged"][kind] = state["unchanged"].get(kind, 0) + 1
        else:
            state["silent"] += 1
    state["slowest_s"] = max(state["slowest_s"], time.process_time() - start)
