"""Gradients to about one bit an element, in the metric of Adam, and back.

Adam divides each gradient by the root of its mean square, so an error counts by that root too: here
each element is divided by it before it is rounded (the mean squares are of the means that all
ranks decoded, so nothing is sent for them). Rounding has a dead zone, and what falls into a cell is
decoded as the mean of what did. An element that is always in the dead zone loses its mean square
with time, until it is no longer: nothing is silent for ever.

What rounding took can be added to the next gradient (Seide and others, 2014). With Adam that was
worse than leaving it: it doubles the power of the error, which Adam reads as variance. With plain
SGD it is needed, and there the elements are rounded as they are.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qcluster.codec.errors import QctCorruptError
from qcluster.codec.gradient import LARGEST, Layout, read_levels, write_levels
from qcluster.config import Config

__all__ = ["GradientCoder", "GradientConfig"]

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

# Rounding down up to this far above the half: zeros cost next to nothing.
DEAD = 0.15
# Vectors are few and matter: so many bits an element more.
VECTOR_BITS = 2.0
# Of the mean square, so that an element that was zero so far has a scale.
FLOOR = 1e-6
DECAY = 0.99
# An element's first step; it is then moved until the levels have the entropy that is wanted.
FIRST_STEP = 1.5
HEAD = np.dtype([("step", "<u2"), ("first", "i1"), ("more", "i1")])


class GradientConfig(Config):
    """How gradients are coded."""

    bits: float = Field(default=1.0, ge=0.05, le=8)
    """Entropy of a matrix element as it is sent; 32 over it is about the ratio."""
    metric: Literal["adam", "plain"] = "adam"
    """Error counted as Adam counts gradients, or as plain SGD does."""
    feedback: float = Field(default=0.0, ge=0, le=1)
    """Share of what rounding took that is added to the next gradient; 1 for plain SGD."""
    start_step: int = Field(default=4, ge=0)
    """Gradients of the first steps go as they are."""


@dataclass
class _Memory:
    """What is remembered of one tensor: ``square`` by all ranks alike, the rest by this one."""

    square: F32
    seen: int = 0
    step: float = FIRST_STEP
    error: F32 | None = None


@dataclass
class GradientCoder:
    """Codes gradients by name and remembers what it needs for the next ones.

    All ranks call ``encode``, ``decode`` and ``learn`` with the same names in the same steps.
    """

    config: GradientConfig = field(default_factory=GradientConfig)
    memories: dict[str, _Memory] = field(default_factory=dict)

    def encode(self, gradients: Mapping[str, F32]) -> tuple[bytes, dict[str, F32]]:
        """The bytes of gradients by name, and what ``decode`` makes of them."""
        heads = np.zeros(len(gradients), dtype=HEAD)
        levels: list[I32] = []
        values: dict[str, F32] = {}
        for row, (name, gradient) in enumerate(gradients.items()):
            memory = self._memory(name, gradient)
            whole = gradient
            if memory.error is not None:
                whole = gradient + np.float32(self.config.feedback) * memory.error
            scale = self._scale(memory)
            heads[row], k = self._rounded(whole / scale, memory, gradient.ndim > 1)
            levels.append(k.ravel())
            values[name] = np.asarray(_values(k, heads[row]) * scale)
            if self.config.feedback:
                lost = np.asarray(whole - values[name])
                memory.error = lost if np.isfinite(lost).all() else None
        layout = Layout([g.shape for g in gradients.values()])
        body = heads.tobytes() + write_levels(np.concatenate(levels), layout)
        return zlib.crc32(body).to_bytes(4, "little") + body, values

    def decode(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, F32]:
        """Another rank's gradients by name.

        Raises QctCorruptError where the bytes are not what the rank sent.
        """
        body = data[4:]
        size = len(shapes) * HEAD.itemsize
        if len(body) < size or zlib.crc32(body) != int.from_bytes(data[:4], "little"):
            raise QctCorruptError("another rank's gradients came damaged", field="gradients")
        heads = np.frombuffer(body[:size], dtype=HEAD)
        layout = Layout(list(shapes.values()))
        levels = read_levels(body[size:], layout)
        out: dict[str, F32] = {}
        start = 0
        for head, (name, shape) in zip(heads, shapes.items(), strict=True):
            end = start + math.prod(shape)
            scale = self._scale(self._memory(name, np.empty(shape, np.float32)))
            out[name] = _values(levels[start:end].reshape(shape), head) * scale
            start = end
        return out

    def learn(self, means: Mapping[str, F32]) -> None:
        """Take in what all ranks decoded and averaged, or got as it was."""
        if self.config.metric == "plain":
            return
        for name, mean in means.items():
            memory = self._memory(name, mean)
            if np.isfinite(mean).all():
                memory.square *= np.float32(DECAY)
                memory.square += np.float32(1 - DECAY) * mean * mean
                memory.seen += 1

    def state(self) -> tuple[dict[str, F32], dict[str, Any]]:
        """What all ranks know alike, and what only this one knows, for a checkpoint."""
        shared = {name: m.square for name, m in self.memories.items()}
        own = {n: {"seen": m.seen, "step": m.step, "error": m.error}
               for n, m in self.memories.items()}  # fmt: skip
        return shared, own

    def put_back(self, shared: Mapping[str, F32], own: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from ``state``."""
        self.memories = {
            name: _Memory(square.copy(), own[name]["seen"], own[name]["step"], own[name]["error"])
            for name, square in shared.items()
        }

    def _memory(self, name: str, like: F32) -> _Memory:
        found = self.memories.get(name)
        if found is None:
            found = self.memories[name] = _Memory(np.zeros(like.shape, np.float32))
        return found

    def _scale(self, memory: _Memory) -> F32:
        """What an element is divided by, the same on all ranks."""
        if self.config.metric == "plain" or not memory.seen:
            return np.ones(memory.square.shape, np.float32)
        floor = np.float32(FLOOR * float(memory.square.mean(dtype=np.float64)))
        scale: F32 = np.sqrt(memory.square + max(floor, np.float32(1e-30)))
        return scale

    def _rounded(self, x: F32, memory: _Memory, matrix: bool) -> tuple[Any, I32]:
        """Levels of scaled values and the head that they are read with."""
        rms = math.sqrt(float(np.square(x, dtype=np.float64).mean())) if x.size else 0.0
        if not math.isfinite(rms):
            return np.array((0x7FC0, 0, 0), HEAD), np.zeros(x.shape, np.int32)
        step, code = _half(memory.step * rms)
        if step == 0:
            return np.zeros((), HEAD), np.zeros(x.shape, np.int32)
        size: F32 = np.divide(np.abs(x), step, dtype=np.float32)
        whole = np.minimum(np.floor(size + np.float32(0.5 - DEAD)), LARGEST).astype(np.int32)
        head = np.array((code, _inward(size, whole, 1, 1), _inward(size, whole, 2, LARGEST)), HEAD)
        wanted = self.config.bits + (0.0 if matrix else VECTOR_BITS)
        off = _entropy(whole) - wanted
        memory.step = min(max(memory.step * math.exp(0.5 * max(min(off, 1.0), -1.0)), 1e-3), 1e3)
        return head, np.where(x < 0, -whole, whole)


def _half(value: float) -> tuple[np.float32, int]:
    """A positive number cut to the upper half of its bits, and those."""
    code = int(np.float32(value).view(np.uint32)) >> 16
    return np.uint32(code << 16).view(np.float32), code


def _inward(size: F32, whole: I32, least: int, most: int) -> int:
    """How far values of a level are nearer to zero than it, in 256ths of the step."""
    inside = (whole >= least) & (whole <= most)
    count = int(np.count_nonzero(inside))
    if not count:
        return 0
    mean = float((whole[inside] - size[inside]).mean(dtype=np.float64))
    return round(min(max(256 * mean, -127.0), 127.0))


def _values(levels: I32, head: Any) -> F32:
    """What levels stand for: not a number throughout where the gradient was not finite."""
    step = np.uint32(int(head["step"]) << 16).view(np.float32)
    inward = np.array([0, head["first"], head["more"]], dtype=np.float32) / np.float32(256)
    size = np.abs(levels)
    values: F32 = np.sign(levels) * (size - inward[np.minimum(size, 2)]) * step
    return values.astype(np.float32, copy=False)


def _entropy(whole: I32) -> float:
    """Bits an element of levels of these sizes, signs included."""
    counts = np.bincount(np.minimum(whole, 64).ravel())
    shares = counts[counts > 0] / whole.size
    nonzero = 1.0 - counts[0] / whole.size
    return float(-(shares * np.log2(shares)).sum() + nonzero)
