"""The decoder's toggles: what each does to verified output, and what that does to the guarantee.

A blob's bound is on the decoded tensor. Whatever changes it may come closer to the original or not:
the decoder cannot know, so the report then says that the guarantee is no longer proven.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.container import Entry
from qcluster.codec.floats import to_float_bits, to_values
from qcluster.codec.transforms import ONE, read_transform
from qcluster.errors import InputError
from qcluster.q_decompressor.config import DecompressorConfig
from qcluster.q_decompressor.enhancer import Enhancer
from qcluster.q_decompressor.shrink import shrink

__all__ = ["refine"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

EXACT = ("lossless", "delta", "replay", "same")
# Blocks that HHL may be asked to invert.
LARGEST_BLOCK = 16


def refine(
    bits: Bits, entry: Entry, config: DecompressorConfig, model: Enhancer | None = None
) -> tuple[Bits, dict[str, str], bool]:
    """The bits after the toggles, what each did, and whether the guarantee is still proven."""
    on = [name for name in ("hhl", "qsvt", "qft", "lstm") if getattr(config, name)]
    if entry.ops[0][0] in EXACT or not bits.size:
        return bits, dict.fromkeys(on, "nothing: coded without loss"), True
    values = to_values(bits, entry.dtype)
    if not np.isfinite(values).all():
        return bits, dict.fromkeys(on, "nothing: not all values are finite"), True
    steps: dict[str, str] = {}
    refined = values
    for name in on:
        if name == "hhl":
            refined, steps[name] = _hhl(refined, entry, config)
        elif name == "qsvt":
            refined, steps[name] = shrink(refined, entry, config.degree)
        elif name == "qft":
            steps[name] = _qft(refined, entry)
        else:
            refined, steps[name] = (model or Enhancer.shipped()).apply(refined, entry)
    if refined is values:
        return bits, steps, True
    after = to_float_bits(refined, entry.dtype)
    return after, steps, bool(np.array_equal(after, bits))


def _basis(entry: Entry) -> F64 | None:
    if len(entry.ops) < 2 or entry.ops[1][1].get("kind") == "sent":
        return None
    transform = read_transform(*entry.ops[1])
    return transform.fixed() / ONE


def _hhl(values: F64, entry: Entry, config: DecompressorConfig) -> tuple[F64, str]:
    """Decode blocks by solving (E^T E) x = E^T z instead of applying E^T, E the encoder.

    HHL is linear in its right side, so its answers to the unit vectors are the matrix that it
    applies to every block.
    """
    from qcluster.quantum import hhl_solve

    encoder = _basis(entry)
    if encoder is None or len(encoder) > LARGEST_BLOCK:
        return values, "nothing: no autoencoder with blocks of at most 16"
    normal = encoder.T @ encoder
    condition = float(np.linalg.cond(normal))
    latent = values.reshape(-1, len(encoder)) @ encoder.T
    right = latent @ encoder
    if condition > config.max_condition:
        exact: F64 = np.asarray(np.linalg.solve(normal, right.T).T)
        return exact.reshape(-1), f"Cholesky instead: condition number {condition:.3g}"
    unit = np.eye(len(encoder))
    try:
        columns = [hhl_solve(normal, u, clock_qubits=config.clock_qubits).x for u in unit]
    except InputError as error:
        return values, f"nothing: {error}"
    inverse = np.array(columns).T
    solved: F64 = np.asarray(right @ inverse.T).reshape(-1)
    away = float(np.linalg.norm(solved - values) / (np.linalg.norm(values) or 1.0))
    return solved, f"{config.clock_qubits} clock qubits; {away:.2e} from the adjoint's answer"


def _qft(values: F64, entry: Entry) -> str:
    """Run one block's transform as a circuit; it agrees with what was decoded, or says how not."""
    from qcluster.quantum import qft_decode

    if len(entry.ops) < 2 or entry.ops[1][1].get("kind") != "fourier":
        return "nothing: no Fourier blocks"
    size = read_transform(*entry.ops[1]).size
    block = values[:size]
    forward = qft_decode(block, circuit=True)
    away = float(np.abs(qft_decode(forward, inverse=True, circuit=True) - block).max())
    scale = float(np.abs(block).max()) or 1.0
    return f"the circuit of {size.bit_length() - 1} qubits agrees to {away / scale:.1e}"
