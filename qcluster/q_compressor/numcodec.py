"""``qct`` as a codec of numcodecs, and so of zarr: entry point ``numcodecs.codecs``."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcluster.errors import MissingDependency
from qcluster.q_compressor.compress import compress

try:
    from numcodecs.abc import Codec
except ImportError as error:
    raise MissingDependency(
        "numcodecs", needed_for="the qct codec of zarr", extra="zarr"
    ) from error

__all__ = ["QctCodec"]


class QctCodec(Codec):  # type: ignore[misc, unused-ignore]
    """Chunks of an array as ``.qct`` blobs.

    Parameters
    ----------
    mode, value: as of ``compress``.
    effort, states: as of ``CompressorConfig``.
    max_output_bytes: a chunk that declares more is refused.
    """

    codec_id = "qct"

    def __init__(
        self,
        mode: str = "lossless",
        value: float | None = None,
        effort: str = "dense",
        states: int = 8,
        max_output_bytes: int = 2**31,
    ) -> None:
        self.mode, self.value, self.effort, self.states = mode, value, effort, states
        self.max_output_bytes = max_output_bytes

    def encode(self, buf: Any) -> bytes:
        """An array or buffer to a blob."""
        array = buf if isinstance(buf, np.ndarray) else np.frombuffer(buf, dtype=np.uint8)
        config = {"effort": self.effort, "states": self.states}
        return compress(array, mode=self.mode, value=self.value, config=config)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """A blob to an array, or into ``out``."""
        from qcluster.codec.chain import check_limit, decode_entry
        from qcluster.codec.container import parse
        from qcluster.codec.dtypes import from_bits

        entries, payload = parse(memoryview(buf).cast("B"))
        check_limit(entries, self.max_output_bytes)
        [entry] = entries
        array = from_bits(decode_entry(entry, payload), entry.dtype, entry.shape)
        if out is None:
            return array
        flat = np.asarray(out).reshape(-1).view(np.uint8)
        flat[:] = array.reshape(-1).view(np.uint8)
        return out

    def get_config(self) -> dict[str, Any]:
        """As zarr stores it."""
        return {"id": self.codec_id, **vars(self)}
