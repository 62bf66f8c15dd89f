"""Text as bytes: the vocabulary that needs no tokenizer, and a text that every machine has."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError, InputError

__all__ = ["BYTES", "bits_per_byte", "decode", "encode", "read_files", "split", "standard_library"]

BYTES = 256
"""Vocabulary: one id a byte."""


def encode(text: str) -> NDArray[np.uint8]:
    """UTF-8 bytes of ``text`` as ids."""
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).copy()


def decode(ids: Sequence[int] | NDArray[np.integer]) -> str:
    """Text of byte ids; bytes that are no UTF-8 become U+FFFD."""
    return bytes(int(i) for i in ids).decode("utf-8", "replace")


def bits_per_byte(loss: float) -> float:
    """Nats a byte to bits a byte; for ASCII text the same as bits a character."""
    return loss / float(np.log(2.0))


def read_files(paths: Sequence[str | Path]) -> NDArray[np.uint8]:
    """The bytes of the files, one after the other.

    Raises FormatError naming a file that cannot be read or is empty.
    """
    parts = []
    for path in paths:
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise FormatError(error.strerror or "cannot be read", file=path) from None
        if not raw:
            raise FormatError("is empty", file=path)
        parts.append(np.frombuffer(raw, dtype=np.uint8))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)


def standard_library(limit: int = 2_000_000) -> NDArray[np.uint8]:
    """Source of the running Python's standard library, in order of file name, cut at ``limit``.

    Only files at the top level, without tests. Raises FormatError where the installation has no
    sources.
    """
    home = Path(sysconfig.get_paths()["stdlib"])
    size, parts = 0, []
    for path in sorted(home.glob("*.py")):
        raw = path.read_bytes()
        parts.append(np.frombuffer(raw, dtype=np.uint8))
        size += len(raw)
        if size >= limit:
            break
    if not parts:
        raise FormatError("holds no Python sources", file=home)
    return np.concatenate(parts)[:limit]


def split(ids: NDArray[np.uint8], held_out: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first part to train on and the last ``held_out`` share to measure on.

    Raises InputError for a share outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise InputError(f"wanted a share between 0 and 1, came {held_out}", field="held_out")
    cut = round(len(ids) * (1 - held_out))
    return ids[:cut], ids[cut:]
