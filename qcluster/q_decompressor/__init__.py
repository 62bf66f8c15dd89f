"""Decompression of ``.qct`` blobs: checked before memory is taken, verified before return."""

from __future__ import annotations

from qcluster.q_decompressor.config import DecompressorConfig
from qcluster.q_decompressor.decompress import (
    BlobInfo,
    DecodeReport,
    TensorInfo,
    decompress,
    inspect,
)
from qcluster.q_decompressor.recommend import recommend
from qcluster.q_decompressor.streams import decompress_rows, decompress_stream, open_blob

__all__ = [
    "BlobInfo",
    "DecodeReport",
    "DecompressorConfig",
    "TensorInfo",
    "decompress",
    "decompress_rows",
    "decompress_stream",
    "inspect",
    "open_blob",
    "recommend",
]
