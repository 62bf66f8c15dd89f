"""Files of tensors to blobs, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qcluster.codec.container import build, digest
from qcluster.codec.denoise import Denoiser
from qcluster.codec.files import read_tensors, write_atomically
from qcluster.errors import InputError
from qcluster.q_compressor.autoencoder import Autoencoder
from qcluster.q_compressor.compress import Piece, code_tensor
from qcluster.q_compressor.config import CompressorConfig

__all__ = ["compress_file"]

Progress = Callable[[int, int, str], None]


def compress_file(
    source: str | Path,
    output: str | Path,
    *,
    mode: str = "lossless",
    value: float | None = None,
    config: CompressorConfig | Mapping[str, Any] | None = None,
    parent: str | Path | None = None,
    side_file: bool = False,
    progress: Progress | None = None,
    model: str | Path | None = None,
) -> dict[str, Any]:
    """A file of tensors to a blob; returns what ``inspect`` says of it.

    Of the source one tensor at a time is in memory, and what the blob has grown to. ``parent`` is
    a file with the tensors that deltas are made against, by name. With ``side_file`` the header
    goes to ``OUTPUT.json`` as well, with the blob's digest. ``model`` is a file of a denoiser or
    an autoencoder that ``qcluster train`` made, for the toggle of its kind.

    Raises FormatError naming the file, InputError naming the tensor.
    """
    known = {} if parent is None else dict(read_tensors(parent))
    learnt, chosen = _model(model, CompressorConfig.read(config))
    pieces: list[Piece] = []
    for name, tensor in read_tensors(source):
        try:
            pieces.append(
                code_tensor(name, tensor, mode=mode, value=value, config=chosen,
                            parent=known.get(name), model=learnt)
            )  # fmt: skip
        except InputError as error:
            raise error.at(file=source, field=name or None) from None
        if progress is not None:
            progress(len(pieces), 0, name)
    blob = build([(p.entry, p.whole, p.chunks) for p in pieces])
    write_atomically(output, lambda file: file.write(blob))
    info = _described(pieces, blob)
    if side_file:
        text = json.dumps({**info, "blake3": digest(blob).hex()}, indent=1) + "\n"
        write_atomically(f"{output}.json", lambda file: file.write(text.encode()))
    return info


def _model(
    path: str | Path | None, config: CompressorConfig
) -> tuple[Denoiser | Autoencoder | None, CompressorConfig]:
    """The model of a file, and the configuration with the toggle that it is for."""
    if path is None:
        return None, config
    from qcluster.q_compressor.trainings import load_model

    model = load_model(path)
    toggle = "denoiser" if isinstance(model, Denoiser) else "vqc"
    return model, config.model_copy(update={toggle: True})


def _described(pieces: list[Piece], blob: bytes) -> dict[str, Any]:
    tensors: list[dict[str, Any]] = []
    for piece in pieces:
        entry = piece.entry
        coded = len(piece.whole) + 8 * len(piece.chunks) + sum(map(len, piece.chunks))
        tensors.append(
            {
                "name": entry.name, "dtype": entry.dtype.name, "shape": list(entry.shape),
                "nbytes": entry.nbytes, "compressed_bytes": coded,
                "chain": [name for name, _ in entry.ops], "guarantee": dict(entry.guarantee),
                "parent": entry.parent, "report": dict(entry.report),
            }
        )  # fmt: skip
    total = sum(t["nbytes"] for t in tensors)
    return {"tensors": tensors, "compressed_bytes": len(blob), "output_bytes": total,
            "ratio": total / len(blob)}  # fmt: skip
