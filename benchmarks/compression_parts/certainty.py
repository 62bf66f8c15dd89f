"""A million arrays under a bound, each encoded, decoded and checked: not one may break it.

Arrays of 1 to 64 elements (one in 500 is long enough for tables) of every floating-point type, out
of a generator that mixes ordinary values, all bit patterns, subnormals, infinities, payloads of
NaN, constants and values at the edges of cells. The check is by subtraction in double precision
where that decides, and by fractions where it does not. It resumes where it stopped, and counts
apart what was checked on the code as it is: by a digest of the codec's statements without comments.
"""

from __future__ import annotations

import json
import time
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from compression_parts.stamp import code_stamp
from harness import HERE, table

from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress

TOTAL = 1_000_000
BATCH = 500
# CPU seconds of one call; it goes on where the last one stopped.
SECONDS = {True: 60, False: 440}
TYPES = [np.dtype(t) for t in (
    np.float16, np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2fnuz)]  # fmt: skip
LIMIT = 1 << 24


def batch(rng: np.random.Generator, dtype: np.dtype, size: int) -> tuple[np.ndarray, float]:
    """An array, and a bound that is somewhere near its scale."""
    kind = int(rng.integers(7))
    scale = float(2.0 ** rng.integers(-12, 12))
    with np.errstate(all="ignore"):
        if kind == 0 or kind == 6:
            raw = rng.integers(0, 256, size * dtype.itemsize, dtype=np.uint8)
            x = raw.view(dtype)
        elif kind == 1:
            x = (rng.normal(size=size) * scale).astype(dtype)
        elif kind == 2:
            x = (rng.integers(-40, 40, size) * scale / 8).astype(dtype)
        elif kind == 3:
            low = 2.0 ** float(rng.integers(-1074 if dtype.itemsize == 8 else -149, -20))
            scale = low * 8
            x = (rng.integers(-64, 64, size) * low).astype(dtype)
        elif kind == 4:
            x = np.full(size, rng.normal() * scale).astype(dtype)
        else:
            x = (np.cumsum(rng.normal(size=size)) * scale + 100 * scale).astype(dtype)
        if kind in (1, 5) and rng.random() < 0.5:
            x = x.copy()
            x[rng.integers(size)] = np.array(rng.choice([np.nan, np.inf, -np.inf, -0.0])).astype(
                dtype)  # fmt: skip
    bound = max(scale * float(2.0 ** rng.uniform(-12, 3)), 5e-324)
    if kind == 6:
        bound = float(2.0 ** rng.uniform(*((-1070, 1022) if dtype.itemsize > 4 else (-140, 127))))
    # Bounds that values meet exactly are the hard ones.
    if rng.random() < 0.3 and bound > 0:
        bound = 2.0 ** float(np.round(np.log2(bound)))
    return x, bound


def parts(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        return x.reshape(-1).view(np.float32 if x.dtype.itemsize == 8 else np.float64)
    return x.reshape(-1)


def broken(x: np.ndarray, y: np.ndarray, bound: float, relative: bool) -> int:
    """Elements that are not finite and changed, or finite and farther off than the bound."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return x.size
    x, y = parts(x), parts(y)
    with np.errstate(all="ignore"):
        a, b = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(a)
        bits = f"u{x.dtype.itemsize}"
        wrong = int((x.view(bits)[~finite] != y.view(bits)[~finite]).sum())
        limit = np.abs(a) * bound if relative else np.full(a.shape, bound)
        surely = np.abs(a - b) < limit * (1 - 1e-12)
    for i in np.flatnonzero(finite & ~surely):
        if not np.isfinite(b[i]):
            wrong += 1
            continue
        exact = Fraction(bound) * (abs(Fraction(float(a[i]))) if relative else 1)
        wrong += abs(Fraction(float(a[i])) - Fraction(float(b[i]))) > exact
    return wrong


def certainty(*, quick: bool) -> list[dict[str, Any]]:
    """As many batches as fit a minute or seven, until there are a million arrays on this code."""
    store = HERE / ".cache" / "compression_certainty.json"
    every: dict[str, dict[str, Any]] = {}
    if store.exists():
        every = json.loads(store.read_text())
        if "done" in every:
            every = {"before": every}
    stamp = code_stamp()
    state = every.setdefault(
        stamp, {"done": 0, "elements": 0, "wrong": 0, "refused": 0, "cpu_s": 0.0, "types": {}}
    )
    start = last = time.process_time()
    while state["done"] < TOTAL and last - start < SECONDS[quick]:
        # A code's arrays are its own, so that all codes together have met ever more of them.
        rng = np.random.default_rng([int(stamp, 16), state["done"]])
        shares = [float(10 ** rng.uniform(-4, -0.2)) for _ in range(4)]
        for number in range(BATCH):
            long = number == 0
            size = 4096 + int(rng.integers(999)) if long else int(rng.integers(1, 65))
            # Every other long one with a coarse version and its residual: blocks of 16.
            coarse = long and state["done"] % (2 * BATCH) == 0
            _one(rng, state, size // 16 * 16 if coarse else size, shares[number % 4], coarse)
        now = time.process_time()
        state["done"] += BATCH
        state["cpu_s"] += now - last
        last = now
        store.parent.mkdir(exist_ok=True)
        store.write_text(json.dumps(every))
    others = [s for key, s in every.items() if key != stamp]
    keys = ("done", "elements", "wrong", "refused")
    table("arrays under a bound", ["code", "arrays", "elements", "violations", "refused", "CPU s"],
          [[stamp, *(state[k] for k in keys), state["cpu_s"]],
           [f"{len(others)} earlier", *(sum(s[k] for s in others) for k in keys),
            sum(s.get("cpu_s", 0.0) for s in others)]])  # fmt: skip
    return [{"code": stamp, **state}, *others]


def _one(
    rng: np.random.Generator, state: dict[str, Any], size: int, share: float, coarse: bool
) -> None:
    dtype = TYPES[int(rng.integers(len(TYPES)))]
    x, bound = batch(rng, dtype, size)
    relative = bool(rng.random() < 0.4)
    if relative:
        bound = share
    how = {"mode": "point_rel" if relative else "max_abs", "value": bound,
           "config": {"effort": ["fast", "dense"][int(rng.integers(2))],
                      "transform": "dct" if coarse else "auto"}}  # fmt: skip
    y = decompress(compress(x, **how), max_output_bytes=LIMIT)
    wrong = broken(x, y, bound, relative)
    if wrong:
        print("violation", dtype, how, x.tobytes().hex()[:2000])
    state["wrong"] += wrong
    state["elements"] += x.size
    state["types"][str(dtype)] = state["types"].get(str(dtype), 0) + 1
