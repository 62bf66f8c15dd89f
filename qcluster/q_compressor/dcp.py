"""A stream extension of torch.distributed.checkpoint: shards are coded without loss when written.

    save(state, storage_writer=FileSystemWriter(path, _extensions=[QctStream()]))
    load(state, storage_reader=FileSystemReader(path, _extension_registry=registry()))

A stream is a row of pieces: the length of a blob (uint32) and the blob, of up to 4 MiB of the
stream. A piece is coded as words of the type that makes it shortest, because a stream of bytes does
not say what it holds. The end is a length of 0, so that a stream that was cut is told.
"""

from __future__ import annotations

import io
import struct
from typing import IO, Any, cast

import numpy as np
from torch.distributed.checkpoint._extension import ExtensionRegistry, StreamTransformExtension

from qcluster.codec.chain import check_limit, decode_entry
from qcluster.codec.container import parse
from qcluster.codec.dtypes import dtype_named, from_bits
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.q_compressor.compress import compress

__all__ = ["QctStream", "registry"]

PIECE = 4 << 20
# Words that are tried, on the start of a piece.
WORDS = ("F32", "BF16", "U8")
SAMPLE = 1 << 16


class QctStream(StreamTransformExtension):
    """The extension; ``effort`` is that of ``CompressorConfig``."""

    def __init__(self, effort: str = "fast") -> None:
        self.effort = effort

    @staticmethod
    def registry_name() -> str:
        """As checkpoints have it."""
        return "stream.qct"

    @staticmethod
    def from_descriptor(version: str) -> QctStream:
        """Raises ValueError, as torch wants it, for versions that are not known."""
        if version.partition(".")[0] != "1":
            raise ValueError(f"stream.qct of version {version} is not known")
        return QctStream()

    def get_descriptor(self) -> str:
        """Name and version."""
        return f"{self.registry_name()}/1"

    def transform_to(self, output: IO[bytes]) -> IO[bytes]:
        """What is written to the result goes to ``output`` coded; closing writes the rest."""
        return cast(IO[bytes], _Writer(output, self.effort))

    def transform_from(self, input: IO[bytes]) -> IO[bytes]:
        """What ``input`` holds, decoded and verified as it is read."""
        return cast(IO[bytes], io.BufferedReader(_Reader(input)))


def registry() -> ExtensionRegistry:
    """Torch's extensions and this one, for a ``FileSystemReader``."""
    known = ExtensionRegistry()
    known.register(QctStream)
    return known


class _Writer(io.RawIOBase):
    def __init__(self, output: IO[bytes], effort: str) -> None:
        self.output, self.effort = output, effort
        self.waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.waiting += view
        while len(self.waiting) >= PIECE:
            self._piece(self.waiting[:PIECE])
            del self.waiting[:PIECE]
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        if self.waiting:
            self._piece(self.waiting)
        self.output.write(struct.pack("<I", 0))
        super().close()
        self.output.close()

    def _piece(self, data: bytearray) -> None:
        config = {"effort": self.effort}
        head = bytes(data[:SAMPLE])
        sizes = {word: len(compress(_words(head, word), config=config)) for word in WORDS}
        blob = compress(_words(bytes(data), min(sizes, key=lambda w: sizes[w])), config=config)
        self.output.write(struct.pack("<II", len(blob), len(data)) + blob)


class _Reader(io.RawIOBase):
    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.ready = memoryview(b"")
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.ready and not self.ended:
            self._piece()
        out = memoryview(buffer).cast("B")
        count = min(len(out), len(self.ready))
        out[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count

    def _piece(self) -> None:
        (length,) = struct.unpack("<I", self._exactly(4))
        if length == 0:
            self.ended = True
            return
        (size,) = struct.unpack("<I", self._exactly(4))
        # Lossless coding never adds more than a header.
        if not 0 < size <= PIECE or length > size + 4096:
            raise QctFormatError(f"a piece of {length} bytes for {size}", field="stream.qct")
        entries, payload = parse(self._exactly(length))
        check_limit(entries, size + 4)
        data = b"".join(decode_entry(entry, payload).tobytes() for entry in entries)
        if not size <= len(data) < size + 4:
            raise QctCorruptError(f"a piece of {len(data)} bytes for {size}", field="stream.qct")
        self.ready = memoryview(data)[:size]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.source.read(count - len(data))
            if not part:
                raise QctCorruptError("ends early", field="stream.qct")
            data += part
        return data


def _words(data: bytes, name: str) -> Any:
    """Bytes as words, with zeros to fill up the last one."""
    dtype = dtype_named(name)
    filled = data + bytes(-len(data) % dtype.size)
    bits = np.frombuffer(filled, dtype=dtype.bits)
    return from_bits(bits, dtype, (bits.size,))
