"""Sampling strategies side by side: error, bytes, and what closed forms predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcluster.errors import FormatError, InputError
from qcluster.q_attention.estimate import predicted_variance, sampled
from qcluster.q_attention.exact import exact
from qcluster.q_attention.problem import AttentionProblem, state
from qcluster.q_attention.variates import make_variate

if TYPE_CHECKING:
    import torch

__all__ = ["STRATEGIES", "compare", "gaussian", "read_inputs"]

STRATEGIES: dict[str, tuple[str, str, str | None]] = {
    "Stratified + Control Variate": ("stratified", "lowbit", None),
    "Adaptive + Control Variate": ("varopt", "lowbit", "variance"),
    "Adaptive (entropy) + Control Variate": ("varopt", "lowbit", "entropy"),
    "VarOpt + Control Variate": ("varopt", "lowbit", None),
    "VarOpt": ("varopt", "none", None),
    "Hybrid Sampling": ("hybrid", "none", None),
    "Stratified": ("stratified", "none", None),
    "Stratified + constant": ("stratified", "constant", None),
    "Naive + constant": ("naive", "constant", None),
    "Naive Sampling": ("naive", "none", None),
}
"""Name to sampler, control variate and how samples are shared over rows."""


def compare(
    name: str,
    q: Any,
    k: Any,
    v: Any,
    *,
    rows: Sequence[int] = (16, 32, 64, 128),
    repeats: int = 20,
    scale: float | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One record a strategy and number of value rows.

    ``relative_error`` is the mean over queries and draws of the L2 error over the row's length,
    ``measured_over_predicted`` the ratio of mean squared errors, None without a closed form,
    ``share`` of 16-bit bytes read, all scores included. Raises InputError for wrong inputs.
    """
    import torch

    if repeats < 1 or not rows or min(rows) < 1:
        raise InputError("wants at least 1", field="rows" if repeats >= 1 else "repeats")
    problem = state(q, k, v, scale=scale)
    expected, _ = exact(problem.q, problem.k, problem.v, problem.bias, problem.scale)
    length = expected.norm(dim=-1).clamp(min=1e-30)
    found = []
    for strategy, (sampler, variate_name, criterion) in STRATEGIES.items():
        variate = make_variate(problem.v, variate_name)
        for budget in rows:
            generator = torch.Generator().manual_seed(seed)
            squares, relative, read = 0.0, 0.0, 0.0
            for _ in range(repeats):
                estimate = sampled(
                    problem, sampler, budget, variate, generator=generator, criterion=criterion
                )
                error = (estimate.out - expected).norm(dim=-1)
                squares += float(error.square().mean()) / repeats
                relative += float((error / length).mean()) / repeats
                read = float(estimate.bytes_read.mean()) / problem.fp16_bytes
            predicted = _predicted(problem, sampler, budget, variate, criterion)
            found.append({
                "input": name, "strategy": strategy, "rows": budget, "relative_error": relative,
                "measured_over_predicted": None if predicted is None else squares / predicted,
                "share": read,
            })  # fmt: skip
    return found


def _predicted(
    problem: AttentionProblem, sampler: str, budget: int, variate: Any, criterion: str | None
) -> float | None:
    if criterion is not None:
        return None
    variance = predicted_variance(problem, sampler, budget, variate)
    return None if variance is None else float(variance.mean())


def gaussian(n: int, deviation: float, *, heads: int = 2, queries: int = 64, d: int = 32) -> Any:
    """Independent normal q, k, v whose scores have this deviation; their outputs are close to
    zero, so that relative errors are large for every strategy.
    """
    import torch

    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(heads, rows, d, generator=generator) for rows in (queries, n, n))
    return q * deviation, k, v


def read_inputs(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v of an .npz or .safetensors file as float32 tensors. Raises FormatError."""
    import numpy as np
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(str(path))
        else:
            with np.load(path, allow_pickle=False) as data:
                tensors = {
                    name: torch.from_numpy(data[name]) for name in data.files if name in "qkv"
                }
        return tensors["q"].float(), tensors["k"].float(), tensors["v"].float()
    except KeyError as error:
        raise FormatError(f"has no tensor {error}", file=path) from None
    except FileNotFoundError:
        raise FormatError("is not there", file=path) from None
    except Exception as error:
        raise FormatError(f"is no .npz or .safetensors: {error}", file=path) from None
