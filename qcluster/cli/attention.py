"""``qcluster attention compare``: sampling strategies on real or normal inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from qcluster.cli.output import emit_json, emit_table
from qcluster.errors import InputError

__all__ = ["register"]

_COLUMNS = ("input", "strategy", "rows", "relative_error", "measured_over_predicted", "share")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    example = "Example: qcluster attention compare qkv.npz --rows 16,64"
    verb = typer.Typer(help="Sampled attention.", epilog=example, no_args_is_help=True)
    verb.command("compare", epilog=example)(compare_command)
    app.add_typer(verb, name="attention")


def compare_command(
    file: Path | None = typer.Argument(None, help=".npz or .safetensors with q, k, v."),
    rows: str = typer.Option("16,32,64,128", help="Value rows a query, comma separated."),
    queries: int = typer.Option(32, min=1, help="At most so many queries a head."),
    repeats: int = typer.Option(10, min=1, help="Draws of each."),
    seed: int = typer.Option(0, min=0, help="Of the draws."),
    json_out: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Error, bytes and predicted variance of every strategy, on a file's q, k, v or, without one,
    on normal numbers.
    """
    from qcluster.q_attention.compare import compare, gaussian, read_inputs

    budgets = _rows(rows)
    if file is not None:
        q, k, v = read_inputs(file)
        if q.dim() < 2:
            raise InputError("q has no rows", file=file)
        step = max(1, q.shape[-2] // queries)
        cases: dict[str, Any] = {file.name: (q[..., ::step, :], k, v)}
    else:
        cases = {f"normal, logit sd {sd:g}": gaussian(1024, sd, queries=queries) for sd in (1, 3)}
    found = [
        record
        for name, qkv in cases.items()
        for record in compare(name, *qkv, rows=budgets, repeats=repeats, seed=seed)
    ]
    if json_out:
        emit_json(found)
        return
    shown = [[_cell(record[c]) for c in _COLUMNS] for record in found]
    emit_table(_COLUMNS, shown)


def _rows(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"wants whole numbers, comma separated, got '{text}'",
                         field="--rows") from None  # fmt: skip
    if min(found) < 1:
        raise InputError(f"wants at least 1, got {min(found)}", field="--rows")
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
