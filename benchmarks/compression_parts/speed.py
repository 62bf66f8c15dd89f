"""Speeds against NNCodec and ZipNN: CPU seconds in turns, kernels warm on both sides."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from compression_parts.peers import SCRIPT
from compression_parts.tensors import shared, whole_models
from harness import table

from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress

Rows = list[dict[str, Any]]
LIMIT = 1 << 32
REPEATS = 5


@contextmanager
def peer(kind: str, codec: str, x: np.ndarray, parameter: float) -> Iterator[Any]:
    """A call that makes the peer measure once more."""
    python = os.environ["QCLUSTER_OPPONENTS_COMPRESSION"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        process = subprocess.Popen(
            [python, str(SCRIPT), kind, codec, str(path), repr(float(parameter)), "--serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        sent, received = process.stdin, process.stdout

        def answer() -> dict[str, Any]:
            for line in received:
                if line.startswith("RESULT "):
                    found: dict[str, Any] = json.loads(line[7:])
                    return found
            raise RuntimeError(f"{codec} gave no result")

        def again() -> dict[str, Any]:
            sent.write("\n")
            sent.flush()
            return answer()

        first = answer()
        try:
            yield first, again
        finally:
            sent.close()
            process.wait(30)


def seconds(call: Any) -> float:
    """CPU seconds of the second call of two, as the peers' side measures itself: the first brings
    code and data back near the core, which waiting for the peer has driven out.
    """
    call()
    start = time.process_time()
    call()
    return time.process_time() - start


def in_turns(
    name: str, x: np.ndarray, again: Any, ways: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Medians of ratios, peer by ours; ``ways`` are keywords of ``compress``."""
    row: dict[str, Any] = {"name": name, "size": x.size}
    calls = {}
    for way, how in ways.items():
        encode = partial(compress, x, **how)
        blob = encode()
        row[f"{way}_bits"] = 8 * len(blob) / x.size
        calls[way] = (encode, partial(decompress, blob, max_output_bytes=LIMIT))
        calls[way][1]()
    times: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        theirs = again()
        for i, key in enumerate(("encode", "decode")):
            times.setdefault(f"peer_{key}", []).append(theirs[f"{key}_s"] / x.size * 1e9)
            for way, pair in calls.items():
                took = seconds(pair[i])
                times.setdefault(f"{way}_{key}", []).append(took / x.size * 1e9)
                times.setdefault(f"{way}_{key}_x", []).append(theirs[f"{key}_s"] / took)
    return row | {key: statistics.median(values) for key, values in times.items()}


def speed(*, quick: bool) -> Rows:
    """8 states against NNCodec; every third tensor in the quick form."""
    if "QCLUSTER_OPPONENTS_COMPRESSION" not in os.environ:
        return []
    found = [*shared(), *whole_models()][:: 3 if quick else 1]
    lossy: Rows = []
    for name, x in found:
        power = float(np.mean(x.astype(np.float64) ** 2))
        qp = round(4 * np.log2(np.sqrt(power) * 0.056 / 0.5)) - 4
        with peer("mean_square", "nncodec", x, qp) as (first, again):
            how = {"mode": "rel_l2", "value": float(np.sqrt(first["noise"] / power))}
            ways = {e: {**how, "config": {"effort": e, "transform": "none"}}
                    for e in ("fast", "dense")}  # fmt: skip
            row = in_turns(name, x, again, ways)
        row["peer_bits"] = 8 * first["bytes"] / x.size
        lossy.append(row)
    _show(lossy, "8 states against NNCodec at its error")
    return lossy


def lossless_speed(*, quick: bool) -> Rows:
    """bfloat16 without loss against ZipNN; every third tensor in the quick form."""
    if "QCLUSTER_OPPONENTS_COMPRESSION" not in os.environ:
        return []
    import ml_dtypes

    lossless: Rows = []
    for name, x in [*shared(), *whole_models()][:: 3 if quick else 1]:
        half = x.astype(ml_dtypes.bfloat16)
        with peer("lossless", "zipnn", half.view(np.uint16), 0) as (first, again):
            ways = {e: {"config": {"effort": e}} for e in ("fast", "dense")}
            row = in_turns(name, half, again, ways)
        row["peer_bits"] = 8 * first["bytes"] / x.size
        lossless.append(row)
    _show(lossless, "bfloat16 without loss against ZipNN")
    return lossless


def _show(rows: Rows, title: str) -> None:
    keys = ["peer", "fast", "dense"]
    shown = [
        [r["name"], r["size"], *(r[f"{k}_bits"] for k in keys),
         *(r[f"{k}_{w}"] for w in ("encode", "decode") for k in keys),
         *(r[f"{k}_{w}_x"] for k in keys[1:] for w in ("encode", "decode"))]
        for r in rows
    ]  # fmt: skip
    table(f"{title}: bits and CPU ns an element, and how many times as fast", [
        "tensor", "elements", *(f"{k} b" for k in keys),
        *(f"{k} {w}" for w in ("enc", "dec") for k in keys),
        *(f"{k} {w} x" for k in keys[1:] for w in ("enc", "dec")),
    ], shown)  # fmt: skip
    summary = []
    for way in keys[1:]:
        lead = [r["peer_bits"] - r[f"{way}_bits"] for r in rows]
        total = sum(r["peer_bits"] * r["size"] for r in rows)
        ours = sum(r[f"{way}_bits"] * r["size"] for r in rows)
        summary.append([way, np.mean(lead), min(lead), 100 * (1 - ours / total),
                        *(np.median([r[f"{way}_{w}_x"] for r in rows])
                          for w in ("encode", "decode")),
                        *(_in_total(rows, way, w) for w in ("encode", "decode"))])  # fmt: skip
    table(title, ["ours", "mean lead, bits", "least", "shorter in total, %", "encode x, median",
                  "decode x", "encode x, all bytes", "decode x"], summary)  # fmt: skip


def _in_total(rows: Rows, way: str, what: str) -> float:
    """The peer's seconds for all tensors by ours."""
    theirs, ours = (sum(r[f"{k}_{what}"] * r["size"] for r in rows) for k in ("peer", way))
    return float(theirs / ours)
