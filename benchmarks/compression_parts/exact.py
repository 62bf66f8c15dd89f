"""Lossless mode and deltas."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from compression_parts.peers import ask
from compression_parts.tensors import shared, whole_models
from harness import DATA, table

from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress

LIMIT = 1 << 32
Rows = list[dict[str, Any]]
EFFORTS = ("fast", "dense", "max")
PEERS = ("zstd", "blosc2", "zipnn", "pcodec", "lmzip")


def timed(call: Any) -> tuple[Any, float]:
    call()
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def entropy(bits: np.ndarray) -> float:
    """Of independent elements, as counted."""
    count = np.unique(bits, return_counts=True)[1] / bits.size
    return float(-(count * np.log2(count)).sum())


def corrected(bits: np.ndarray) -> float:
    """Entropy with what counting few elements of many kinds leaves out (Miller and Madow, 1955)."""
    return entropy(bits) + (np.unique(bits).size - 1) / (2 * bits.size * np.log(2))


def counting_bias(size: int) -> float:
    """What counting leaves out of the entropy of so many independent Gaussian bfloat16s: their true
    entropy less the counted one, mean of four draws. No code of them is shorter than the true one.
    """
    import ml_dtypes
    from scipy.special import ndtr

    with np.errstate(invalid="ignore"):
        every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    values = np.unique(every[np.isfinite(every)])
    edges = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    share = np.diff(ndtr(edges))
    share = share[share > 0]
    true = float(-(share * np.log2(share)).sum())
    rng = np.random.default_rng(size)
    draws = (rng.normal(size=size).astype(ml_dtypes.bfloat16).view(np.uint16) for _ in range(4))
    return true - float(np.mean([entropy(d) for d in draws]))


def lossless(*, quick: bool) -> Rows:
    """bfloat16 tensors against the peers and the entropy of independent elements."""
    import ml_dtypes

    rows: Rows = []
    for name, wide in [*shared(), *whole_models()][:: 4 if quick else 1]:
        x = wide.astype(ml_dtypes.bfloat16)
        bits = x.view(np.uint16)
        row: dict[str, Any] = {
            "name": name,
            "size": x.size,
            "entropy": entropy(bits),
            "corrected": corrected(bits),
            "bias": counting_bias(x.size),
        }
        for codec in PEERS:
            peer = ask("lossless", codec, bits)
            if peer is not None:
                row[codec] = 8 * peer["bytes"] / x.size
                row[f"{codec}_s"] = (peer["encode_s"], peer["decode_s"])
        for effort in EFFORTS:
            blob, encode_s = timed(partial(compress, x, config={"effort": effort}))
            back, decode_s = timed(partial(decompress, blob, max_output_bytes=LIMIT))
            assert np.array_equal(back.view(np.uint16), bits)
            row[effort] = 8 * len(blob) / x.size
            row[f"{effort}_mb_s"] = (bits.nbytes / encode_s / 1e6, bits.nbytes / decode_s / 1e6)
        rows.append(row)
    _show_lossless(rows)
    return rows


def _show_lossless(rows: Rows) -> None:
    keys = ["entropy", "corrected", *PEERS, *EFFORTS]
    table("bfloat16 without loss: bits an element", ["tensor", "elements", *keys],
          [[r["name"], r["size"], *(r.get(k, "") for k in keys)] for r in rows])  # fmt: skip
    known = [r for r in rows if all(p in r for p in PEERS)]
    if not known:
        return
    best = sum(min(r[p] for p in PEERS) * r["size"] for r in known)
    alone = {p: sum(r[p] * r["size"] for r in known) for p in PEERS}
    ours = sum(r["dense"] * r["size"] for r in known)
    worse = max((r["dense"] - min(r[p] for p in PEERS)) * r["size"] / 8 for r in known)
    limits = {
        "below the iid joint entropy as counted": [r["entropy"] for r in known],
        "below it with Miller and Madow's correction": [r["corrected"] for r in known],
        "below it and what counting leaves out of white noise": [
            r["entropy"] + r["bias"] for r in known
        ],
    }
    shares = [
        [f"{what}, share of tensors: dense, max",
         ", ".join(f"{np.mean([r[e] < b for r, b in zip(known, bound, strict=True)]):.3f}"
                   for e in ("dense", "max"))]
        for what, bound in limits.items()
    ]  # fmt: skip
    fast = sum(r["fast"] * r["size"] for r in known)
    zipped = sum(r["zipnn"] * r["size"] for r in known)
    zip_speed = [np.median([2 * r["size"] / r["zipnn_s"][i] / 1e6 for r in known]) for i in (0, 1)]
    speeds = {e: [np.median([r[f"{e}_mb_s"][i] for r in known]) for i in (0, 1)]
              for e in EFFORTS}  # fmt: skip
    table("in total", ["figure", "value"],
          [*shares, ["fast form above dense, %", 100 * (fast / ours - 1)],
           ["fast form below ZipNN, %", 100 * (1 - fast / zipped)],
           ["max form below dense, %", 100 * (1 - sum(r["max"] * r["size"] for r in known) / ours)],
           ["below the best single peer, %", 100 * (1 - ours / min(alone.values()))],
           ["below the best peer of each tensor, %", 100 * (1 - ours / best)],
           ["most bytes above the best peer on a tensor", worse],
           ["MB/s encode, decode: fast", "{:.0f}, {:.0f}".format(*speeds["fast"])],
           ["MB/s encode, decode: dense", "{:.0f}, {:.0f}".format(*speeds["dense"])],
           ["MB/s encode, decode: ZipNN", "{:.0f}, {:.0f}".format(*zip_speed)]])  # fmt: skip


def rl_step(w: np.ndarray, rate: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """bf16 weights before and after an update of this size of their single-precision masters."""
    import ml_dtypes

    rng = np.random.default_rng(seed)
    ulp = np.exp2(np.floor(np.log2(np.maximum(np.abs(w), 1e-30))) - 8)
    master = (w + rng.uniform(-0.5, 0.5, w.shape) * ulp).astype(np.float32)
    after = master + (rate * rng.normal(size=w.shape)).astype(np.float32)
    return master.astype(ml_dtypes.bfloat16), after.astype(ml_dtypes.bfloat16)


def delta(*, quick: bool) -> Rows:
    """A step of reinforcement learning, and a replayed step of the optimizer."""
    from safetensors.numpy import load_file

    rows: Rows = []
    others = ("act.", "g160", "g260", "m161", "v161", "adam", "stft")
    tensors = {name: x for name, x in [*whole_models(), *shared()]
               if x.size >= 100_000 and not any(o in name for o in others)}  # fmt: skip
    for rate in (6.8e-7, 8e-7, 1e-6, 3e-6, 1e-5):
        before, after, changed, total = 0, 0, 0, 0
        for number, x in enumerate(list(tensors.values())[: 8 if quick else 40]):
            old, new = rl_step(x, rate, number)
            blob = compress(new, parent=old)
            assert np.array_equal(decompress(blob, max_output_bytes=LIMIT, parent=old)
                                  .view(np.uint16), new.view(np.uint16))  # fmt: skip
            before += old.nbytes
            after += len(blob)
            changed += int((old.view(np.uint16) != new.view(np.uint16)).sum())
            total += old.size
        rows.append({"what": f"step of {rate:g}", "changed": changed / total,
                     "ratio": before / after, "bits": 8 * after / total})  # fmt: skip
    rows += _replay(load_file(DATA / "compression" / "train_state_block0.safetensors"))
    table("against what the receiver has", ["step", "changed", "ratio", "bits an element"],
          [[r["what"], r["changed"], r["ratio"], r["bits"]] for r in rows])  # fmt: skip
    return rows


def _replay(state: dict[str, np.ndarray]) -> Rows:
    import ml_dtypes

    lr = 1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * 161 / 260)))
    step = {"exp_avg": state["m161.f1"], "exp_avg_sq": state["v161.f1"], "step": 161, "lr": lr,
            "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}  # fmt: skip
    rows = []
    half = ml_dtypes.bfloat16
    for name, before, kind in (
        ("fp32", np.float32, np.float32), ("bf16", half, half), ("bf16 of fp32", np.float32, half),
    ):  # fmt: skip
        old, new = state["w160.f1"].astype(before), state["w161.f1"].astype(kind)
        for label, more in (("delta", {}), ("replayed", {"optimizer_state": step})):
            if before != kind and not more:
                continue
            blob = compress(new, parent=old, **more)
            y = decompress(blob, max_output_bytes=LIMIT, parent=old, **more)
            assert np.array_equal(y, new)
            changed = float(np.mean(old != new))
            rows.append({"what": f"AdamW step {name}, {label}", "changed": changed,
                         "ratio": new.nbytes / len(blob),
                         "bits": 8 * len(blob) / new.size})  # fmt: skip
    return rows
