# ruff: noqa: ANN001, ANN002, ANN201, ANN202, ANN204, ARG001, ARG002, RUF012
"""Runs in the peers' environment: one codec on one tensor, sizes and CPU seconds as JSON.

python compression_peers.py KIND CODEC TENSOR.npy PARAMETER [--serve]

With --serve it measures once more for every line sent, so that benchmarks can take turns.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np


def timed(call, *arguments):
    call(*arguments)
    start = time.process_time()
    result = call(*arguments)
    return result, time.process_time() - start


def lossless(codec: str, bits: np.ndarray, _: float) -> dict:
    """``bits`` are a bf16 tensor's, uint16."""
    raw = bits.tobytes()
    if codec == "zstd":
        import zstandard

        pack, back = zstandard.ZstdCompressor(3).compress, zstandard.ZstdDecompressor().decompress
    elif codec == "blosc2":
        import blosc2

        def pack(data):
            return blosc2.compress2(
                data,
                typesize=2,
                clevel=1,
                nthreads=1,
                codec=blosc2.Codec.ZSTD,
                filters=[blosc2.Filter.SHUFFLE],
            )

        back = blosc2.decompress2
    elif codec == "zipnn":
        import zipnn

        z = zipnn.ZipNN(input_format="byte", bytearray_dtype="bfloat16", threads=1)

        def pack(data):
            return bytes(z.compress(bytearray(data)))

        back = z.decompress
    elif codec == "pcodec":
        from pcodec import ChunkConfig, standalone

        typed = bits.reshape(-1).view(np.uint16)

        def pack(data):
            return standalone.simple_compress(typed, ChunkConfig(compression_level=8))

        back = standalone.simple_decompress
    else:
        import lmz
        import torch
        from safetensors.torch import save_file

        folder = Path(tempfile.mkdtemp())
        tensor = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
        save_file({"t": tensor}, folder / "a.safetensors")

        def pack(data):
            (folder / "a.lmz").unlink(missing_ok=True)
            lmz.compress(str(folder / "a.safetensors"), str(folder / "a.lmz"))
            return (folder / "a.lmz").read_bytes()

        def back(data):
            lmz.decompress(str(folder / "a.lmz"), str(folder / "b.safetensors"), overwrite=True)

    blob, encode_s = timed(pack, raw)
    _, decode_s = timed(back, blob)
    return {"bytes": len(blob), "encode_s": encode_s, "decode_s": decode_s}


def max_error(codec: str, x: np.ndarray, eps: float) -> dict:
    from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

    config = szConfig(*x.shape)
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = eps
    config.cmprAlgo = getattr(szAlgorithm, codec)
    (blob, _), encode_s = timed(sz.compress, x, config)
    (y, _), decode_s = timed(sz.decompress, blob, x.dtype, x.shape)
    worst = float(np.abs(x.astype(np.float64) - y).max())
    return {"bytes": len(blob), "worst": worst, "encode_s": encode_s, "decode_s": decode_s}


def mean_square(codec: str, x: np.ndarray, parameter: float) -> dict:
    if codec == "nncodec":
        blob, y, encode_s, decode_s = nncodec(x, int(parameter))
        size = len(blob)
    elif codec == "entropack":
        import entropack
        import torch

        t = torch.from_numpy(x)
        config = entropack.EntroPackLossyConfig(target_bpp=parameter)
        packed, encode_s = timed(entropack.compress, t, config)
        y, decode_s = timed(entropack.decompress, packed, config)
        y = y.numpy()
        size = int(np.ceil(float(packed.actual_bpp) * x.size / 8))
    elif codec == "nf4":
        import bitsandbytes.functional as f
        import torch

        t = torch.from_numpy(x)
        (packed, state), encode_s = timed(
            lambda: f.quantize_4bit(t, quant_type="nf4", compress_statistics=True)
        )
        y, decode_s = timed(f.dequantize_4bit, packed, state)
        y = y.numpy()
        size = int(packed.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel() + 4)
    else:
        from gguf import GGMLQuantizationType, quants

        kind = getattr(GGMLQuantizationType, codec)
        blob, encode_s = timed(quants.quantize, x, kind)
        y, decode_s = timed(quants.dequantize, blob, kind)
        size = blob.nbytes
    y = np.asarray(y, dtype=np.float64).reshape(x.shape)
    noise = float(np.mean((x - y) ** 2))
    return {"bytes": size, "noise": noise, "encode_s": encode_s, "decode_s": decode_s}


class _Loose(types.ModuleType):
    """A module that has whatever is asked of it."""

    __path__: list[str] = []

    def __getattr__(self, name):
        from unittest.mock import MagicMock

        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


def nncodec(x: np.ndarray, qp: int):
    # It imports vision and logging libraries that coding does not touch.
    import importlib.abc
    import importlib.machinery

    class Stub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in (
                "torchvision",
                "wandb",
                "cv2",
                "flwr",
                "tensorflow",
                "pandas",
                "PIL",
                "sklearn",
                "h5py",
                "timm",
                "hydra",
            ):
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            return _Loose(spec.name)

        def exec_module(self, module):
            return None

    sys.meta_path.insert(0, Stub())
    from nncodec import nnc

    def pack():
        return nnc.compress(
            {"t.weight": x.copy()},
            bitstream_path="/dev/null",
            qp=qp,
            nonweight_qp=qp,
            use_dq=True,
            return_bitstream=True,
            verbose=False,
        )

    blob, encode_s = timed(pack)
    out, decode_s = timed(lambda: nnc.decompress(bytearray(blob)))
    return blob, out["t.weight"], encode_s, decode_s


def main() -> None:
    kind, codec, path, parameter = sys.argv[1:5]
    work = {"lossless": lossless, "max_error": max_error, "mean_square": mean_square}[kind]
    print("RESULT " + json.dumps(work(codec, np.load(path), float(parameter))), flush=True)
    while "--serve" in sys.argv and sys.stdin.readline():
        print("RESULT " + json.dumps(work(codec, np.load(path), float(parameter))), flush=True)


if __name__ == "__main__":
    main()
