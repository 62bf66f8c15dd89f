"""Mean-square and largest-error modes."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
from compression_parts.peers import ask
from compression_parts.stamp import code_stamp
from compression_parts.tensors import shared, white, whole_models
from harness import cached, table

from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress

LIMIT = 1 << 32
Rows = list[dict[str, Any]]


def gap(bits: float, x: np.ndarray, noise: float) -> float:
    """Bits an element above the Gaussian's rate-distortion function."""
    return bits - 0.5 * np.log2(float(np.mean(x.astype(np.float64) ** 2)) / noise)


def run(x: np.ndarray, **how: Any) -> dict[str, float]:
    """Ours: bits, noise, CPU seconds; encoded twice, so nothing is compiled in the second."""
    blob = compress(x, **how)
    start = time.process_time()
    blob = compress(x, **how)
    encode_s = time.process_time() - start
    y = decompress(blob, max_output_bytes=LIMIT)
    start = time.process_time()
    y = decompress(blob, max_output_bytes=LIMIT)
    decode_s = time.process_time() - start
    error = x.astype(np.float64) - y.astype(np.float64)
    return {
        "bytes": len(blob), "bits": 8 * len(blob) / x.size, "noise": float(np.mean(error**2)),
        "worst": float(np.abs(error).max()), "encode_s": encode_s, "decode_s": decode_s,
    }  # fmt: skip


def gaussian(*, quick: bool) -> Rows:
    """White Gaussian values: the gap to the rate-distortion function."""
    x = white(1 << 18 if quick else 1 << 20)
    rows = []
    for bits in (1, 2, 3, 5, 7):
        row: dict[str, Any] = {"bits": bits}
        for states in (8, 64):
            ours = run(x, mode="bits", value=float(bits),
                       config={"states": states, "transform": "none",
                               "effort": "fast"})  # fmt: skip
            row[f"gap_{states}"] = gap(ours["bits"], x, ours["noise"])
        rows.append(row)
    table(f"white Gaussian, {x.size} elements: bits above the rate-distortion function",
          ["target bits", "8 states (bar .09)", "64 states (bar .06)"],
          [[r["bits"], r["gap_8"], r["gap_64"]] for r in rows])  # fmt: skip
    return rows


def tensors(*, quick: bool) -> Rows:
    """Real tensors at the error that NNCodec makes at about 25 dB, and at others'."""
    rows: Rows = []
    found = [*shared(), *whole_models()]
    for name, x in found[:: 4 if quick else 1]:

        def compute(name: str = name, x: np.ndarray = x) -> dict[str, Any] | None:
            row = _against_nncodec(name, x)
            return None if row is None else row | _against_others(x)

        # Kept for this code: the whole form takes longer than one sitting.
        content = hashlib.sha256(x.view(np.uint8)).hexdigest()
        row = cached("compression", ["tensors", code_stamp(), name, content], compute)
        if row is not None:
            rows.append(row)
    _show_tensors(rows)
    return rows


def _against_nncodec(name: str, x: np.ndarray) -> dict[str, Any] | None:
    power = float(np.mean(x.astype(np.float64) ** 2))
    # A step of 2^(qp / 4) nearly, at some 25 dB.
    qp = round(4 * np.log2(np.sqrt(power) * 0.056 / 0.5)) - 4
    peer = ask("mean_square", "nncodec", x, qp)
    if peer is None:
        return None
    value = float(np.sqrt(peer["noise"] / power))
    theirs = 8 * peer["bytes"] / x.size
    row: dict[str, Any] = {"name": name, "size": x.size, "db": -20 * np.log10(value),
                           "nncodec": gap(theirs, x, peer["noise"])}  # fmt: skip
    for label, config in (
        ("fast8", {"states": 8, "effort": "fast", "transform": "none"}),
        ("dense8", {"states": 8}),
        ("dense64", {"states": 64}),
    ):
        ours = run(x, mode="rel_l2", value=value, config=config)
        row[label] = gap(ours["bits"], x, ours["noise"])
        row[f"{label}_lead"] = theirs - ours["bits"]
        row[f"{label}_encode_x"] = peer["encode_s"] / ours["encode_s"]
        row[f"{label}_decode_x"] = peer["decode_s"] / ours["decode_s"]
    return row


def _against_others(x: np.ndarray) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for codec, parameter in (("entropack", 4.0), ("nf4", 0), ("Q8_0", 0), ("Q4_0", 0)):
        if codec.startswith("Q") and x.shape[1] % 32:
            continue
        peer = ask("mean_square", codec, x, parameter)
        if peer is None or not peer["noise"] > 0:
            continue
        power = float(np.mean(x.astype(np.float64) ** 2))
        ours = run(x, mode="rel_l2", value=float(np.sqrt(peer["noise"] / power)))
        out[f"lead_{codec}"] = 8 * peer["bytes"] / x.size - ours["bits"]
    return out


def _show_tensors(rows: Rows) -> None:
    keys = ["nncodec", "fast8", "dense8", "dense64"]
    columns = ["tensor", "elements", "dB", *keys, "encode x", "decode x"]
    table("bits above the Gaussian rate-distortion function at NNCodec's error; speeds of fast8",
          columns,
          [[r["name"], r["size"], r["db"], *(r[k] for k in keys), r["fast8_encode_x"],
            r["fast8_decode_x"]] for r in rows])  # fmt: skip
    summary = []
    for label in ("fast8", "dense8", "dense64"):
        leads = [r[f"{label}_lead"] for r in rows]
        summary.append([f"NNCodec, {label}", len(leads), np.mean(leads), min(leads),
                        np.median([r[f"{label}_encode_x"] for r in rows]),
                        np.median([r[f"{label}_decode_x"] for r in rows])])  # fmt: skip
    for codec in ("entropack", "nf4", "Q8_0", "Q4_0"):
        leads = [r[f"lead_{codec}"] for r in rows if f"lead_{codec}" in r]
        if leads:
            summary.append([f"{codec}, dense8", len(leads), np.mean(leads), min(leads), "", ""])
    table("bits an element below each peer at its error",
          ["against", "tensors", "mean", "smallest", "encode x", "decode x"], summary)  # fmt: skip


def max_error(*, quick: bool) -> Rows:
    """The largest error: the best of SZ3's modes on each tensor."""
    rows: Rows = []
    for name, x in [*shared(), *whole_models()][:: 4 if quick else 1]:
        for share in (0.1, 0.01, 0.001):
            eps = float(share * x.std())
            peers = {}
            for algorithm in ("INTERP_LORENZO", "LORENZO_REG", "NOPRED"):
                peer = ask("max_error", algorithm, x, eps)
                if peer is not None:
                    peers[algorithm] = 8 * peer["bytes"] / x.size
            ours = run(x, mode="max_abs", value=eps)
            assert ours["worst"] <= eps
            if peers:
                best = min(peers, key=lambda a: peers[a])
                rows.append({"name": name, "share": share, "ours": ours["bits"],
                             "sz3": peers[best], "mode": best,
                             "lead": peers[best] - ours["bits"]})  # fmt: skip
    table("largest error: bits an element, the best of SZ3's modes beside",
          ["tensor", "eps / deviation", "ours", "SZ3", "its mode", "lead"],
          [[r[k] for k in ("name", "share", "ours", "sz3", "mode", "lead")]
           for r in rows])  # fmt: skip
    return rows


def vqc(*, quick: bool) -> Rows:
    """The quantum autoencoder against principal components: energy kept, and bytes in all."""
    from qcluster.q_compressor.autoencoder import fit_autoencoder, kept_energy

    rows: Rows = []
    for name, x in [*shared()][:: 4 if quick else 1]:
        if x.size % 16:
            continue
        blocks = x.reshape(-1, 16).astype(np.float64)
        model = fit_autoencoder(blocks, keep=4)
        ours, pca = kept_energy(model, blocks, 4)
        some = x[: max(1, 16_384 // x.shape[1])]
        sizes = {kind: len(compress(some, mode="rel_l2", value=0.1, config=config)) for kind, config
                 in (("none", {"transform": "none"}), ("klt", {"transform": "klt"}),
                     ("vqc", {"vqc": True, "transform": "none"}))}  # fmt: skip
        rows.append({"name": name, "energy": ours, "pca": pca, "share": ours / pca, **sizes})
    table("energy of blocks of 16 in 4 latents (closed-form twin: PCA), bytes at 20 dB of 16k",
          ["tensor", "vqc", "PCA", "share", "bytes none", "bytes KLT", "bytes vqc offered"],
          [[r[k] for k in ("name", "energy", "pca", "share", "none", "klt", "vqc")]
           for r in rows])  # fmt: skip
    return rows
