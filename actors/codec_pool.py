"""The codec pool: tensors in files' bytes to blobs and back, in warm processes that can be killed.

Compression takes seconds of one core, so it runs beside whoever asks, in processes of its own with
a bounded queue in front. They start with the first request.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, FormatError, InputError, NotReady
from qcluster.worker import SolverProcess

__all__ = ["CodecPool", "pack", "unpack"]

DEADLINE_S = 120.0
FORMATS = ("npy", "npz", "safetensors")


def pack(data: bytes, options: Mapping[str, Any]) -> bytes:
    """A .npy, .npz or .safetensors file's bytes, or with ``dtype`` and ``shape`` bare elements, to
    a blob. Runs in the worker process. Raises FormatError or InputError.
    """
    from qcluster.codec.container import build
    from qcluster.codec.files import read_tensors
    from qcluster.q_compressor.compress import code_tensor

    how = {key: options.get(key) for key in ("value", "config")}
    mode = options.get("mode") or "lossless"
    if options.get("dtype") is not None:
        pieces = [code_tensor("", _bare(data, options), mode=mode, **how)]
    else:
        with tempfile.TemporaryDirectory(prefix="qct-") as folder:
            path = Path(folder) / f"body.{_format_of(data)}"
            path.write_bytes(data)
            try:
                pieces = [code_tensor(n, t, mode=mode, **how) for n, t in read_tensors(path)]
            except FormatError as error:
                raise FormatError(error.message, field=error.field or "body") from None
    return build([(p.entry, p.whole, p.chunks) for p in pieces])


def unpack(blob: bytes, options: Mapping[str, Any]) -> tuple[bytes, str]:
    """A blob to a file's bytes and which format that is. Runs in the worker process.

    Raises FormatError and its kinds.
    """
    from qcluster.codec.files import write_tensors
    from qcluster.q_decompressor import decompress

    found = decompress(blob, max_output_bytes=int(options["max_output_bytes"]),
                       config=options.get("config"), framework="numpy")  # fmt: skip
    tensors = found if isinstance(found, dict) else {"": found}
    single = len(tensors) == 1 and "" in tensors
    kind = options.get("format") or ("npy" if single and _plain(found) else "safetensors")
    if kind not in FORMATS:
        raise InputError(f"wants one of {', '.join(FORMATS)}, got {kind!r}", field="format")
    with tempfile.TemporaryDirectory(prefix="qct-") as folder:
        path = Path(folder) / f"body.{kind}"
        try:
            write_tensors(path, tensors)
        except FormatError as error:
            raise FormatError(error.message, field="format") from None
        return path.read_bytes(), kind


def _plain(array: Any) -> bool:
    return not str(array.dtype).startswith(("bfloat", "float8"))


def _format_of(data: bytes) -> str:
    if data[:6] == b"\x93NUMPY":
        return "npy"
    if data[:4] == b"PK\x03\x04":
        return "npz"
    if data[8:9] == b"{":
        return "safetensors"
    raise FormatError("is no .npy, .npz or .safetensors; for bare elements give dtype and shape",
                      field="body")  # fmt: skip


def _bare(data: bytes, options: Mapping[str, Any]) -> Any:
    import numpy as np

    from qcluster.codec.dtypes import dtype_named, from_bits

    dtype = dtype_named(options["dtype"])
    shape = tuple(options.get("shape") or (len(data) // dtype.size,))
    count = dtype.size
    for side in shape:
        count *= side
    if count != len(data):
        raise InputError(f"{list(shape)} of {dtype.name} are {count} bytes, the body has "
                         f"{len(data)}", field="shape")  # fmt: skip
    return from_bits(np.frombuffer(data, dtype=dtype.bits), dtype, shape)


def warm_up() -> None:
    """Compile the kernels once."""
    import numpy as np

    from qcluster.q_compressor import compress
    from qcluster.q_decompressor import decompress

    x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(16, 16)
    for how in ({}, {"mode": "max_abs", "value": 0.1}, {"mode": "rel_l2", "value": 0.1}):
        decompress(compress(x, **how), max_output_bytes=1024)  # type: ignore[arg-type]


class CodecPool:
    """Worker processes that compress and decompress. Thread-safe.

    Parameters
    ----------
    processes: at most so many at a time; each starts when it is first needed.
    queue_limit: requests that may wait; the next is told to come back.
    deadline_s: after which a process is stuck and is killed.
    """

    def __init__(
        self, processes: int = 1, queue_limit: int = 16, deadline_s: float = DEADLINE_S
    ) -> None:
        if processes < 1 or queue_limit < 0 or not deadline_s > 0:
            raise InputError(f"got {processes}, {queue_limit} and {deadline_s}", field="processes")
        self._limit, self._deadline_s = queue_limit, deadline_s
        self._idle: queue.SimpleQueue[SolverProcess | None] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._waiting = self._done = self._failed = 0
        self._bytes_in = self._bytes_out = 0

    def compress(self, data: bytes, options: Mapping[str, Any] | None = None) -> bytes:
        """A file's bytes to a blob; ``options``: mode, value, config, dtype, shape."""
        blob: bytes = self._run("actors.codec_pool:pack", data, dict(options or {}))
        self._count(len(data), len(blob))
        return blob

    def decompress(self, blob: bytes, options: Mapping[str, Any]) -> tuple[bytes, str]:
        """A blob to a file's bytes and its format; ``options``: max_output_bytes, format, config."""
        found: tuple[bytes, str] = self._run("actors.codec_pool:unpack", blob, dict(options))
        self._count(len(blob), len(found[0]))
        return found

    def status(self) -> dict[str, int]:
        """``{done, failed, waiting, bytes_in, bytes_out}`` since the start."""
        with self._lock:
            return {"done": self._done, "failed": self._failed, "waiting": self._waiting,
                    "bytes_in": self._bytes_in, "bytes_out": self._bytes_out}  # fmt: skip

    def close(self) -> None:
        """End the processes that are idle."""
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return
            if process is not None:
                process.close()

    def _run(self, target: str, *arguments: Any) -> Any:
        with self._lock:
            if self._waiting > self._limit:
                raise NotReady(f"{self._waiting} requests wait for the codec, try again shortly")
            self._waiting += 1
        deadline = Deadline.after(self._deadline_s)
        try:
            process = self._idle.get(timeout=deadline.remaining())
        except queue.Empty:
            raise DeadlineExceeded("no codec process came free in time") from None
        finally:
            with self._lock:
                self._waiting -= 1
        try:
            process = process or SolverProcess(("actors.codec_pool:warm_up", ()))
            return process.call(target, *arguments, deadline=deadline)
        except Exception:
            with self._lock:
                self._failed += 1
            raise
        finally:
            self._idle.put(process)

    def _count(self, bytes_in: int, bytes_out: int) -> None:
        with self._lock:
            self._done += 1
            self._bytes_in += bytes_in
            self._bytes_out += bytes_out
