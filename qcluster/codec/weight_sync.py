"""Weights from a trainer to those who use them: what changed, in a chain of digests, acknowledged.

The sender codes against what a receiver has acknowledged, never against what it only sent; the
receiver applies an update only to the parent that the update names, checks the result's digest and
swaps it in whole. So whatever is lost, doubled, reordered or damaged ends in one of two ways: the
digests agree, or the sender is told and sends everything. Neither side can drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcluster.codec.container import digest
from qcluster.codec.dtypes import from_bits, to_bits
from qcluster.errors import InputError, QClusterError

__all__ = ["Acknowledgement", "WeightReceiver", "WeightSender", "WeightUpdate", "digest_of"]

Weights = dict[str, Any]
Encode = Callable[..., bytes]
Decode = Callable[..., Any]


@dataclass(frozen=True)
class WeightUpdate:
    """What travels to a receiver; ``parent`` is the digest of what it changes, None of anything."""

    version: int
    parent: str | None
    digest: str
    blob: bytes


@dataclass(frozen=True)
class Acknowledgement:
    """What travels back: what the receiver holds now, and why the update was not applied."""

    version: int
    digest: str | None
    applied: bool
    reason: str = ""


def digest_of(weights: Mapping[str, Any]) -> str:
    """Of names, types, shapes and bits; 64 hexadecimal digits."""
    parts = []
    for name in sorted(weights):
        dtype, shape, bits, _ = to_bits(weights[name])
        parts.append(f"{name}\0{dtype.name}\0{list(shape)}\0".encode())
        parts.append(digest(bits.data if bits.size else b""))
    return digest(b"".join(parts)).hex()


class WeightSender:
    """The trainer's side.

    Parameters
    ----------
    encode: ``compress_state_dict`` of the compressor.
    """

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.version = 0
        self.digest = ""
        self._weights: Weights = {}
        self._held: dict[str, str] = {}
        self._bases: dict[str, Weights] = {}
        self._coded: dict[str | None, bytes] = {}

    def publish(self, weights: Mapping[str, Any]) -> int:
        """Take a copy of new weights; returns their version.

        Raises InputError where there are none.
        """
        if not weights:
            raise InputError("there are none", field="weights")
        if self.digest in self._held.values():
            self._bases[self.digest] = self._weights
        copies: Weights = {}
        for name, value in weights.items():
            dtype, shape, bits, _ = to_bits(value)
            copies[name] = from_bits(np.array(bits, copy=True), dtype, shape)
        self._weights, self.digest = copies, digest_of(copies)
        self._coded = {}
        self.version += 1
        return self.version

    def update_for(self, receiver: str) -> WeightUpdate:
        """What brings a receiver to the last version: a delta to what it acknowledged, or all.

        Raises InputError where nothing was published.
        """
        if not self.version:
            raise InputError("nothing was published yet", field="weights")
        parent = self._held.get(receiver)
        base = self._weights if parent == self.digest else self._bases.get(parent or "")
        if base is None:
            parent = None
        if parent not in self._coded:
            self._coded[parent] = self.encode(self._weights, parent=base)
        return WeightUpdate(self.version, parent, self.digest, self._coded[parent])

    def heard(self, receiver: str, answer: Acknowledgement | None) -> bool:
        """Take in an answer, None where none came; whether the receiver is where the sender is.

        Without a confirmation the receiver counts as unknown and gets everything next time.
        """
        if answer is not None and answer.applied and answer.digest == self.digest:
            self._held[receiver] = self.digest
        elif answer is not None and answer.digest in self._bases:
            self._held[receiver] = str(answer.digest)
        else:
            self._held.pop(receiver, None)
        used = set(self._held.values())
        self._bases = {key: base for key, base in self._bases.items() if key in used}
        return self._held.get(receiver) == self.digest


class WeightReceiver:
    """The other side. ``decode``: ``decompress``; ``max_bytes``: of weights, refused beyond."""

    def __init__(self, decode: Decode, max_bytes: int) -> None:
        self.decode, self.max_bytes = decode, max_bytes
        self.version = 0
        self.digest: str | None = None
        self.weights: Weights = {}

    def apply(self, update: WeightUpdate) -> Acknowledgement:
        """Apply an update or say why not; the weights change as a whole or not at all."""
        if update.digest == self.digest:
            return self._held(update, applied=True)
        if update.parent is not None and update.parent != self.digest:
            return self._held(update, reason="the update is to weights that are not held here")
        try:
            found = self.decode(
                update.blob, max_output_bytes=self.max_bytes, framework="numpy",
                parent=None if update.parent is None else self.weights,
            )  # fmt: skip
        except QClusterError as error:
            return self._held(update, reason=f"cannot be read: {error}")
        if digest_of(found) != update.digest:
            return self._held(update, reason="the digest of the result is another")
        self.weights, self.digest, self.version = found, update.digest, update.version
        return self._held(update, applied=True)

    def _held(
        self, update: WeightUpdate, *, applied: bool = False, reason: str = ""
    ) -> Acknowledgement:
        return Acknowledgement(update.version, self.digest, applied, reason)
