"""Tensors to blobs: which way of writing each is the shortest that keeps the promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.chain import parent_tensor
from qcluster.codec.container import CHUNK, Entry, build, digest
from qcluster.codec.delta import encode_delta
from qcluster.codec.dtypes import DType, to_bits
from qcluster.codec.lossless import encode_lossless
from qcluster.codec.queues import taken
from qcluster.codec.replay import OptimizerState, predict_next
from qcluster.errors import InputError
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.lattices import (
    Coded,
    encode_int8,
    encode_max_abs,
    encode_point_rel,
)
from qcluster.q_compressor.paths import encode_lossy
from qcluster.q_compressor.residuals import with_residual

__all__ = ["MODES", "Piece", "check_value", "chunk_of", "code_tensor", "columns_of", "compress",
           "compress_state_dict"]  # fmt: skip

MODES = ("lossless", "max_abs", "point_rel", "rel_l2", "bits", "int8")
Bits = NDArray[Any]
# Below this a point-wise relative bound is coded without loss: its table of points grows as 1/eps.
SMALLEST_EPS = 1e-5


@dataclass(frozen=True)
class Piece:
    """A tensor in coded form: what ``container.build`` takes."""

    entry: Entry
    whole: bytes
    chunks: list[bytes] = field(default_factory=list)


def compress(
    tensor: Any,
    *,
    mode: str = "lossless",
    value: float | None = None,
    config: CompressorConfig | Mapping[str, Any] | None = None,
    parent: Any = None,
    optimizer_state: Mapping[str, Any] | None = None,
    model: Any = None,
) -> bytes:
    """One tensor to a ``.qct`` blob, which ``decompress`` gives back as what went in.

    Parameters
    ----------
    tensor: NumPy array, torch tensor (any device), buffer of bytes, or a queue (of Ray too) whose
        next item is taken; any shape, strides and byte order. bfloat16 and 8-bit floats are
        ml_dtypes' or torch's.
    mode: ``lossless``: bit for bit. ``max_abs``: |x - y| <= value. ``point_rel``:
        |x - y| <= value |x|. ``rel_l2``: |x - y|_2 <= value |x|_2. ``bits``: at most value bits an
        element, header included. ``int8``: the affine 8-bit quantiser. Bounds hold in the tensor's
        own type and were checked; what is not finite comes back bit for bit. Integers and booleans
        are coded without loss in every mode; of a complex tensor each part counts by itself.
    value: the mode's bound.
    config: toggles and effort, ``CompressorConfig``.
    parent: tensor or blob of the same shape and type that the receiver has too; ``lossless`` only.
        With an optimizer state its type may be wider: the weights that the optimizer keeps.
    optimizer_state: with a parent: ``exp_avg, exp_avg_sq, step, lr, betas, eps, weight_decay`` of
        the AdamW step that led from it to the tensor; the receiver needs it too.
    model: a fitted autoencoder or denoiser for ``config``'s toggles; by default the shipped ones.

    Raises InputError for modes, values and tensors that are not handled.
    """
    piece = code_tensor(
        "", taken(tensor), mode=mode, value=value, config=config, parent=parent,
        optimizer_state=optimizer_state, model=model,
    )  # fmt: skip
    return build([(piece.entry, piece.whole, piece.chunks)])


def compress_state_dict(
    tensors: Mapping[str, Any],
    *,
    mode: str = "lossless",
    value: float | None = None,
    config: CompressorConfig | Mapping[str, Any] | None = None,
    parent: Mapping[str, Any] | None = None,
    model: Any = None,
) -> bytes:
    """Named tensors to one blob; tensors that share their bits are written once.

    As ``compress``; ``parent`` is a state dict as well, whose missing or reshaped tensors are
    coded by themselves. Raises InputError naming the tensor.
    """
    pieces: list[Piece] = []
    seen: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise InputError(f"wants names, got {name!r}", field="tensors")
        try:
            dtype, shape, bits, framework = to_bits(tensor)
            whole = digest(bits.data if bits.size else b"")
            known = seen.setdefault((whole, dtype.name, shape), name)
            if known != name and mode == "lossless":
                same = Entry(name, dtype, shape, (("same", {"as": known}),), framework,
                             chunk=chunk_of(dtype, shape, 1))  # fmt: skip
                pieces.append(Piece(same, whole))
                continue
            base = None if parent is None else parent.get(name)
            if base is not None and to_bits(base)[:2] != (dtype, shape):
                base = None
            pieces.append(
                code_tensor(name, tensor, mode=mode, value=value, config=config, parent=base,
                            model=model)
            )  # fmt: skip
        except InputError as error:
            raise InputError(error.message, field=f"{name}: {error.field}") from None
    return build([(p.entry, p.whole, p.chunks) for p in pieces])


def code_tensor(
    name: str,
    tensor: Any,
    *,
    mode: str,
    value: float | None,
    config: CompressorConfig | Mapping[str, Any] | None = None,
    parent: Any = None,
    optimizer_state: Mapping[str, Any] | None = None,
    model: Any = None,
) -> Piece:
    """One tensor in coded form; see ``compress``."""
    chosen = CompressorConfig.read(config)
    _check(mode, value, parent, optimizer_state)
    dtype, shape, bits, framework = to_bits(tensor)
    columns = columns_of(shape, dtype)
    chunk = chunk_of(dtype, shape, columns)
    effort = chosen.effort

    def piece(coded: Coded, **more: Any) -> Piece:
        decoded = coded.decoded
        entry = Entry(name, dtype, shape, coded.ops, framework, chunk, **more)
        return Piece(entry, digest(decoded.data if decoded.size else b""), list(coded.chunks))

    def plain() -> Piece:
        coded = _lossless(bits, dtype, columns, chunk, effort)
        report: dict[str, Any] = {}
        if mode == "lossless" and parent is None:
            coded, report = with_residual(coded, bits, dtype, columns, chunk, mode, 0.0, chosen,
                                          model)  # fmt: skip
        return piece(coded, report=report)

    if parent is not None:
        coded, known = _delta(bits, dtype, shape, columns, chunk, parent, optimizer_state)
        return _shorter(piece(coded, parent=known), plain, bits.nbytes)
    if mode == "lossless" or not dtype.is_float or not bits.size or value == 0:
        return plain()
    assert value is not None or mode == "int8"
    bound = float(value or 0)
    if mode == "int8":
        return piece(encode_int8(bits, dtype, columns, chunk, effort))
    report: dict[str, Any] = {}
    if mode == "max_abs" or (mode == "point_rel" and SMALLEST_EPS <= bound < 1):
        encode = encode_max_abs if mode == "max_abs" else encode_point_rel
        coded, report = with_residual(
            encode(bits, dtype, columns, chunk, bound, effort), bits, dtype, columns, chunk, mode,
            bound, chosen, model,
        )  # fmt: skip
    elif mode == "point_rel":
        return plain()
    else:
        overhead = 300 + 8 * (bits.size // chunk + 1)
        lossy = encode_lossy(bits, dtype, columns, chunk, mode, bound, overhead, chosen, model)
        if lossy is None:
            return _all_or_nothing(plain(), mode, bound, bits.size)
        coded, report = lossy
    found = piece(coded, guarantee={mode: bound}, report=report)
    return found if mode == "bits" else _shorter(found, plain, bits.nbytes)


def _shorter(found: Piece, plain: Callable[[], Piece], nbytes: int) -> Piece:
    """What was found, unless without loss it is shorter; not tried where that cannot be."""
    if nbytes > 65_536 and _size(found) < 0.3 * nbytes:
        return found
    return min(found, plain(), key=_size)


def _all_or_nothing(plain: Piece, mode: str, bound: float, elements: int) -> Piece:
    """Without loss, where no quantiser met the target."""
    if mode == "bits" and 8 * _size(plain) > bound * elements:
        raise InputError(f"{bound:g} bits an element cannot be met for {elements} elements; "
                         f"without loss they take {8 * _size(plain) / elements:.3g}",
                         field="value")  # fmt: skip
    return plain


def _lossless(bits: Bits, dtype: DType, columns: int, chunk: int, effort: str) -> Coded:
    parts = [bits[i : i + chunk] for i in range(0, bits.size, chunk)]
    chunks = [encode_lossless(p, dtype, columns, effort=effort) for p in parts]
    return Coded((("lossless", {}),), chunks, bits)


def _delta(
    bits: Bits, dtype: DType, shape: tuple[int, ...], columns: int, chunk: int, parent: Any,
    state: Mapping[str, Any] | None,
) -> tuple[Coded, str]:  # fmt: skip
    base_dtype, base_shape, base, _ = to_bits(parent_tensor(parent))
    # A replayed step may start from the wider weights that the optimizer keeps.
    alike = base_dtype == dtype or (state is not None and base_dtype.is_float and dtype.is_float)
    if not alike or base_shape != shape:
        raise InputError(f"is {base_dtype.name} {list(base_shape)}, the tensor {dtype.name} "
                         f"{list(shape)}", field="parent")  # fmt: skip
    name = digest(base.data if base.size else b"").hex()
    ops: tuple[tuple[str, dict[str, Any]], ...] = (("delta", {}),)
    if state is not None:
        read = OptimizerState.read(state, base.size)
        name = digest(base, read.digest()).hex()
        base = predict_next(base, base_dtype, dtype, read)
        ops = (("replay", {}),)
    chunks = [
        encode_delta(bits[i : i + chunk], base[i : i + chunk], dtype, columns)
        for i in range(0, bits.size, chunk)
    ]
    return Coded(ops, chunks, bits), name


def columns_of(shape: tuple[int, ...], dtype: DType) -> int:
    """Where rows end: at the dimension that makes the matrix squarest, counted in parts."""
    sizes = [dtype.parts * math.prod(shape[i:]) for i in range(len(shape))] or [1]
    total = max(sizes[0], 1)
    inner = [s for s in sizes[1:] if s >= 16] or sizes[:1]
    best = min(inner, key=lambda s: abs(math.log(max(s, 1) ** 2 / total)))
    return max(min(best, CHUNK), 1) if total % max(min(best, CHUNK), 1) == 0 else 1


def chunk_of(dtype: DType, shape: tuple[int, ...], columns: int) -> int:
    """Elements of a chunk: whole rows."""
    if dtype.parts * math.prod(shape) <= CHUNK:
        return CHUNK
    return CHUNK // columns * columns


def _size(piece: Piece) -> int:
    """Bytes of a piece on disk, within a few."""
    head = {"ops": piece.entry.ops, "guarantee": dict(piece.entry.guarantee),
            "report": dict(piece.entry.report), "parent": piece.entry.parent}  # fmt: skip
    return len(json.dumps(head)) + 8 * len(piece.chunks) + sum(map(len, piece.chunks)) + 120


def check_value(mode: str, value: Any) -> None:
    """Raises InputError for a mode that does not exist and a bound that it cannot have."""
    if mode not in MODES:
        raise InputError(f"no mode {mode!r}; there are: {', '.join(MODES)}", field="mode")
    if mode in ("lossless", "int8"):
        if value is not None:
            raise InputError(f"{mode} takes none", field="value")
    elif (
        isinstance(value, bool)
        or not isinstance(value, (int, float, np.floating, np.integer))
        or not math.isfinite(value)
        or value < 0
        or (mode == "bits" and value == 0)
    ):
        raise InputError(f"{mode} wants a finite number of at least 0, got {value!r}",
                         field="value")  # fmt: skip


def _check(mode: str, value: Any, parent: Any, state: Any) -> None:
    check_value(mode, value)
    if parent is not None and mode != "lossless":
        raise InputError("is for lossless only", field="parent")
    if state is not None and parent is None:
        raise InputError("needs the parent that the step started from", field="optimizer_state")
