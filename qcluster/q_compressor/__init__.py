"""Compression of tensors: without loss, within a bound, to a size, or against what is known.

``compress`` and ``compress_state_dict`` make ``.qct`` blobs that ``qcluster.q_decompressor`` reads.
"""

from __future__ import annotations

from qcluster.q_compressor.compress import MODES, compress, compress_state_dict
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.recommend import recommend
from qcluster.q_compressor.streams import compress_stream

__all__ = [
    "MODES",
    "CompressorConfig",
    "compress",
    "compress_state_dict",
    "compress_stream",
    "recommend",
]
