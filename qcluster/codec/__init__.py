"""The codec that compressor and decompressor share: container, entropy coding, quantisers.

Integer arithmetic decides every decoded bit, so all machines decode the same; every kernel runs
without numba too. It knows nothing of learned parts, of choosing modes, and of files.
"""

from __future__ import annotations

from qcluster.codec.errors import (
    QctCorruptError,
    QctFormatError,
    QctLimitError,
    QctUnsupportedError,
)

__all__ = ["QctCorruptError", "QctFormatError", "QctLimitError", "QctUnsupportedError"]
