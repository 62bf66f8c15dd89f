"""Plans in the files of those who carry them out: serving engines, schedulers, launchers, MLflow.

``export(plan, "sglang")`` takes a plan as the store keeps it, as plain JSON, and gives text by file
name. A joint plan is read by its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import InputError
from qcluster.exports.experts import ascend, sglang, vllm
from qcluster.exports.kubernetes import kubernetes
from qcluster.exports.mlflow import mlflow
from qcluster.exports.parts import Export, Settings
from qcluster.exports.ranks import cuda, nccl, ranks
from qcluster.exports.slurm import slurm

__all__ = ["FORMATS", "Export", "Settings", "export", "write"]

FORMATS: dict[str, Callable[[Mapping[str, Any], Settings], Export]] = {
    "vllm": vllm,
    "vllm-ascend": ascend,
    "sglang": sglang,
    "slurm": slurm,
    "kubernetes": kubernetes,
    "mlflow": mlflow,
    "ranks": ranks,
    "cuda": cuda,
    "nccl": nccl,
}
"""Name to what writes it."""


def export(plan: Mapping[str, Any], form: str, settings: Settings | None = None) -> Export:
    """A plan, as ``to_dict`` gives it, in a format's files.

    Raises InputError for an unknown format and a plan that the format cannot say; FormatError for
    a damaged plan.
    """
    if form not in FORMATS:
        raise InputError(f"wants one of {', '.join(FORMATS)}, got '{form}'", field="--format")
    return FORMATS[form](plan, settings or Settings())


def write(found: Export, folder: str | Path) -> list[Path]:
    """Write an export's files below a directory, each one whole or not at all; their paths.

    Raises InputError when a file would lie outside the directory; OSError.
    """
    root = Path(folder)
    paths = []
    for name, text in found.files.items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise InputError(f"'{name}' lies outside {root}", field="--output")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        if path.suffix in (".sh", ".sbatch"):
            part.chmod(0o755)
        part.replace(path)
        paths.append(path)
    return paths
