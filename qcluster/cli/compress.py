"""``qcluster compress``, ``decompress`` and ``inspect``: tensor files to blobs and back."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["compress", "decompress", "inspect", "register"]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("compress")(compress)
    app.command("decompress")(decompress)
    app.command("inspect")(inspect)


def compress(
    source: str = typer.Argument(help=".npy, .npz, .safetensors, .pt, .bin or a DCP directory."),
    output: str = typer.Option(..., "--output", "-o", help="The .qct blob to write."),
    mode: str = typer.Option(
        "lossless", "--mode", help="lossless, max_abs, point_rel, rel_l2, bits or int8."
    ),
    value: float | None = typer.Option(None, "--value", help="The mode's bound."),
    parent: str | None = typer.Option(None, "--parent", help="File that the receiver has too."),
    states: int = typer.Option(8, "--states", help="Trellis states, 8 or 64."),
    fast: bool = typer.Option(False, "--fast", help="The same as --effort fast."),
    effort: str = typer.Option("dense", "--effort", help="fast, dense or max."),
    transform: str = typer.Option(
        "auto", "--transform", help="auto, none, dct, hadamard, fourier or klt."
    ),
    model: str | None = typer.Option(
        None, "--model", help="denoiser.json or vqc.json of qcluster train: offer that path."
    ),
    stream: bool = typer.Option(
        False, "--stream", help="In parts, for files larger than memory: lossless and max_abs."
    ),
    side_file: bool = typer.Option(False, "--side-file", help="Also write OUTPUT.json."),
    json_out: bool = typer.Option(False, "--json", help="What was written, as JSON on stdout."),
) -> None:
    """Compress a file of tensors.

    Example: qcluster compress model.safetensors -o model.qct --mode rel_l2 --value 0.01
    """
    from qcluster.cli.output import emit_json, progress
    from qcluster.q_compressor.files import compress_file

    config = {"states": states, "effort": "fast" if fast else effort, "transform": transform}
    if stream:
        info = _stream(source, output, mode, value, config, parent or side_file or model)
        emit_json(info) if json_out else _show(output, info)
        return
    info = compress_file(
        source, output, mode=mode, value=value, parent=parent, config=config,
        side_file=side_file, progress=progress, model=model,
    )  # fmt: skip
    if json_out:
        emit_json(info)
    else:
        _show(output, info)


def _stream(
    source: str, output: str, mode: str, value: float | None, config: dict[str, Any], more: Any
) -> dict[str, Any]:
    from qcluster.cli.output import progress
    from qcluster.errors import InputError
    from qcluster.q_compressor import compress_stream
    from qcluster.q_decompressor import inspect as look
    from qcluster.q_decompressor import open_blob

    if more:
        raise InputError("goes without --parent, --side-file and --model", field="--stream")
    compress_stream(source, output, mode=mode, value=value, config=config, progress=progress)
    with open_blob(output) as blob:
        return look(blob).to_dict()


def decompress(
    source: str = typer.Argument(help="A .qct blob."),
    output: str = typer.Option(..., "--output", "-o", help=".npy, .npz or .safetensors to write."),
    parent: str | None = typer.Option(None, "--parent", help="File that it was coded against."),
    max_output_bytes: int = typer.Option(
        16 * 2**30, "--max-output-bytes", help="Refuse blobs that declare more."
    ),
    stream: bool = typer.Option(
        False, "--stream", help="Chunk by chunk, for blobs larger than memory."
    ),
    hhl: bool = typer.Option(False, "--hhl", help="Refine by simulated HHL."),
    qsvt: bool = typer.Option(False, "--qsvt", help="Refine singular values."),
    qft: bool = typer.Option(False, "--qft", help="Undo Fourier blocks as a circuit."),
    lstm: bool = typer.Option(False, "--lstm", help="Add the recurrent correction."),
    model: str | None = typer.Option(
        None, "--model", help="enhancer.safetensors of qcluster train: correct with that."
    ),
    json_out: bool = typer.Option(False, "--json", help="What was done, as JSON on stdout."),
) -> None:
    """Decompress a blob; everything is verified before the file appears.

    Example: qcluster decompress model.qct -o model.safetensors
    """
    from qcluster.cli.output import emit_json, note, progress
    from qcluster.q_decompressor.files import decompress_file

    config = {"hhl": hhl, "qsvt": qsvt, "qft": qft, "lstm": lstm}
    if stream:
        from qcluster.errors import InputError
        from qcluster.q_decompressor import decompress_stream

        if parent or model or any(config.values()):
            raise InputError("goes without --parent, --model and toggles", field="--stream")
        names = decompress_stream(source, output, max_output_bytes=max_output_bytes)
        if json_out:
            emit_json({"output": output, "tensors": names})
        else:
            note(f"wrote {output}: {len(names)} tensor{'s' * (len(names) != 1)}")
        return
    reports = decompress_file(
        source, output, parent=parent, max_output_bytes=max_output_bytes, config=config,
        progress=progress, model=model,
    )  # fmt: skip
    if json_out:
        emit_json({"output": output, "tensors": reports})
    else:
        note(f"wrote {output}: {len(reports)} tensor{'s' * (len(reports) != 1)}")


def inspect(
    source: str = typer.Argument(help="A .qct blob."),
    json_out: bool = typer.Option(False, "--json", help="As JSON on stdout."),
) -> None:
    """Show what a blob holds, without decoding it.

    Example: qcluster inspect model.qct
    """
    from qcluster.cli.output import emit_json
    from qcluster.q_decompressor import inspect as look
    from qcluster.q_decompressor import open_blob

    with open_blob(source) as blob:
        info = look(blob).to_dict()
    if json_out:
        emit_json(info)
    else:
        _show(source, info)


def _show(path: str, info: dict[str, Any]) -> None:
    from qcluster.cli.output import emit_table

    rows = [
        (
            t["name"] or "-", t["dtype"], "x".join(map(str, t["shape"])) or "scalar", t["nbytes"],
            t["compressed_bytes"], " > ".join(t["chain"]),
            ", ".join(f"{k} {v:g}" for k, v in t["guarantee"].items()) or "every bit",
        )
        for t in info["tensors"]
    ]  # fmt: skip
    columns = ["tensor", "type", "shape", "bytes", "coded", "chain", "guarantee"]
    total = f"{path}: {info['compressed_bytes']} of {info['output_bytes']} bytes"
    emit_table(columns, rows, f"{total}, ratio {info['ratio']:.3f}")
