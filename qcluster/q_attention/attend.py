"""``attend(embeddings, config=...)``: embeddings in, embeddings out, with every toggle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qcluster.errors import InputError
from qcluster.q_attention.config import AttentionConfig
from qcluster.q_attention.contrastive import ContrastiveTrainer
from qcluster.q_attention.exact import exact
from qcluster.q_attention.fidelity import kernel_attention
from qcluster.q_attention.functional import attention
from qcluster.q_attention.positions import QPEPositionEncoder
from qcluster.q_attention.problem import AttentionProblem, state
from qcluster.q_attention.pruner import QSVDHeadPruner
from qcluster.q_attention.qaoa_pages import QAOASparseAttention

__all__ = ["Attended", "attend", "attend_with_report"]

WEIGHTS = ("w_q", "w_k", "w_v", "w_o")
BIASES = ("b_q", "b_k", "b_v", "b_o")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Attended:
    """``out`` of the embeddings' kind and shape; ``bound`` (..., heads, n) of the heads' outputs or
    None; ``report`` says what every toggle did.
    """

    out: Any
    bound: Any
    report: dict[str, Any]


def attend(
    embeddings: Any,
    *,
    config: AttentionConfig | Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Any:
    """Updated embeddings of the same kind and shape.

    Parameters
    ----------
    embeddings: (n, dim) or (batch, n, dim), NumPy or tensor, floating point.
    config: the toggles.
    weights: ``w_q, w_k, w_v, w_o`` (dim, dim), as torch's Linear holds them, perhaps biases
        ``b_q, b_k, b_v, b_o`` (dim,); what is missing is the identity, or no bias.

    Raises InputError naming the argument.
    """
    return attend_with_report(embeddings, config=config, weights=weights).out


def attend_with_report(
    embeddings: Any,
    *,
    config: AttentionConfig | Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Attended:
    """``attend`` with bounds and a report of what was done."""
    chosen = AttentionConfig.read(config)
    x, numpy = _embeddings(embeddings)
    held = _weights(weights, x)
    report: dict[str, Any] = {}
    if chosen.qpe:
        x = QPEPositionEncoder(min(chosen.qubits, 16), length=chosen.length).encode(x)
        report["qpe"] = {"qubits": chosen.qubits}
    q, k, v = (_heads(_linear(x, held, name), chosen.heads) for name in "qkv")
    if chosen.contrastive:
        q, k = _trained(q, k, chosen, report)
    out, bound = _all_heads(q, k, v, chosen, report)
    out = _joined(out, q, k, held, chosen, report)
    if numpy:
        out = out.detach().numpy().astype(np.asarray(embeddings).dtype, copy=False)
        bound = None if bound is None else bound.detach().numpy()
    else:
        out = out.to(embeddings.dtype)
    return Attended(out=out, bound=bound, report=report)


def _embeddings(embeddings: Any) -> tuple[torch.Tensor, bool]:
    numpy = not isinstance(embeddings, torch.Tensor)
    x = embeddings
    if numpy:
        array = np.asarray(embeddings)
        if array.dtype.kind != "f":
            raise InputError(f"wants floating point numbers, got {array.dtype}", field="embeddings")
        x = torch.from_numpy(np.ascontiguousarray(array))
    if not x.is_floating_point() or x.dim() not in (2, 3) or not x.numel():
        raise InputError(
            f"wants (n, dim) or (batch, n, dim) floats, got {tuple(x.shape)} of {x.dtype}",
            field="embeddings",
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError("holds a number that is not finite", field="embeddings")
    return (x if x.dtype == torch.float64 else x.float()), numpy


def _weights(weights: Mapping[str, Any] | None, x: torch.Tensor) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    dim = x.shape[-1]
    for name, value in (weights or {}).items():
        if name not in WEIGHTS + BIASES:
            raise InputError(f"'{name}' is none of {', '.join(WEIGHTS + BIASES)}", field="weights")
        tensor = torch.as_tensor(value).to(x)
        wanted = (dim, dim) if name in WEIGHTS else (dim,)
        if tuple(tensor.shape) != wanted or not bool(torch.isfinite(tensor).all()):
            raise InputError(f"wants finite {wanted}, got {tuple(tensor.shape)}",
                             field=f"weights.{name}")  # fmt: skip
        found[name] = tensor
    return found


def _linear(x: torch.Tensor, held: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if f"w_{name}" in held:
        x = x @ held[f"w_{name}"].T
    return x + held[f"b_{name}"] if f"b_{name}" in held else x


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., n, dim) to (..., heads, n, dim / heads)."""
    if x.shape[-1] % heads:
        raise InputError(f"{heads} heads do not divide {x.shape[-1]} dimensions",
                         field="config.heads")  # fmt: skip
    return x.reshape(*x.shape[:-1], heads, -1).transpose(-2, -3)


def _trained(
    q: torch.Tensor, k: torch.Tensor, config: AttentionConfig, report: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys after maps trained on them; one map for all heads."""
    trainer = ContrastiveTrainer(steps=config.steps, seed=config.seed)
    rows_q, rows_k = (x.reshape(-1, x.shape[-1]) for x in (q, k))
    trainer.fit(rows_q, rows_k)
    report["contrastive"] = {"first loss": trainer.history[0], "last loss": trainer.history[-1]}
    return trainer.transform(q, k)


def _all_heads(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, config: AttentionConfig, report: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    mask = None
    if config.qaoa:
        pages = QAOASparseAttention(
            config.pages, min(config.keep, config.pages),
            redundancy=config.redundancy, seed=config.seed,
        )  # fmt: skip
        flat = [x.detach().cpu().reshape(-1, *x.shape[-2:]) for x in (q, k)]
        mask = torch.from_numpy(pages.mask(*flat)).reshape(*k.shape[:-2], 1, k.shape[-2])
        mask = mask.to(q.device).expand(*q.shape[:-1], k.shape[-2])
        report["qaoa"] = {"keys attended to": float(mask.float().mean())}
    problem = state(q, k, v, mask=mask, is_causal=config.is_causal)
    bound = None
    if config.kernel:
        out, _ = kernel_attention(problem, qubits=config.kernel_qubits)
        report["kernel"] = {"qubits": min(config.kernel_qubits, q.shape[-1])}
        out = problem.give(out)
    elif config.budget is None:
        out = problem.give(exact(problem.q, problem.k, problem.v, problem.bias, problem.scale)[0])
    else:
        found = attention(
            q, k, v, sampler=config.sampler, budget=config.budget, certificate=config.certificate,
            delta=config.delta, eps=config.eps, mask=mask, is_causal=config.is_causal,
            generator=config.seed,
        )  # fmt: skip
        out, bound = found.out, found.bound
        report["attention"] = {
            "method": found.method, "share": found.share, "warnings": list(found.warnings),
        }  # fmt: skip
    if config.hybrid:
        out = _measured(problem, out, config, report)
    return out, bound


def _measured(
    problem: AttentionProblem, out: torch.Tensor, config: AttentionConfig, report: dict[str, Any]
) -> torch.Tensor:
    """``out`` (..., heads, n, dim) with the hybrid heads measured at a quantum backend."""
    from qcluster.q_attention.exact import safe_softmax, scores_of
    from qcluster.q_attention.measured import measured_rows

    heads = out.shape[-3]
    if not all(0 <= head < heads for head in config.hybrid):
        raise InputError(f"{config.hybrid} for {heads} heads", field="config.hybrid")
    groups = torch.arange(problem.q.shape[0])
    chosen = groups[torch.isin(groups % heads, torch.tensor(config.hybrid))]
    bias = None if problem.bias is None else problem.bias[chosen]
    weights = safe_softmax(scores_of(problem.q[chosen], problem.k[chosen], bias, problem.scale))
    rows, result = measured_rows(
        weights, config.shots, backends=config.backends, seed=config.seed,
        deadline_s=config.deadline_s,
    )  # fmt: skip
    flat = out.reshape(-1, *out.shape[-2:]).clone()
    flat[chosen] = (rows @ problem.v[chosen]).to(flat.dtype)
    report["hybrid"] = {
        "heads": list(config.hybrid), "backend": result.backend, "simulator": result.simulator,
        "fallback_reason": result.fallback_reason,
    }  # fmt: skip
    return flat.reshape(out.shape)


def _joined(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    held: Mapping[str, torch.Tensor],
    config: AttentionConfig,
    report: dict[str, Any],
) -> torch.Tensor:
    """Heads put together by the output projection, after pruning where that is wanted."""
    heads = out.shape[-3]
    wide = out.transpose(-2, -3)
    dim = wide.shape[-1] * heads
    if config.pruner:
        kept = _pruned(wide, q, k, held, config)
        report["pruner"] = {"kept": kept.kept[0].tolist()}
        held = {
            **held,
            "w_o": torch.as_tensor(kept.w_o[0]).to(out),
            "b_o": held.get("b_o", 0.0) + torch.as_tensor(kept.bias[0]).to(out),
        }
    return _linear(wide.reshape(*wide.shape[:-2], dim), held, "o")


def _pruned(
    wide: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    held: Mapping[str, torch.Tensor],
    config: AttentionConfig,
) -> Any:
    from qcluster.q_attention.pruner import Pruned

    heads, dim = wide.shape[-2:]
    w_o = held.get("w_o", torch.eye(heads * dim)).detach().double().cpu().numpy()
    contexts = wide.detach().double().cpu().reshape(-1, heads, dim).numpy()
    if config.prune_threshold is None:
        return QSVDHeadPruner(config.prune_share).fit([contexts], [w_o])
    full = heads * dim
    parts = [
        held.get(name, torch.eye(full)).detach().double().cpu().numpy().reshape(heads, dim, full)
        for name in ("w_q", "w_k")
    ]
    pruner = QSVDHeadPruner(threshold=config.prune_threshold, mode="literal")
    kept = pruner.heads(*(part.transpose(0, 2, 1) for part in parts))
    gone = np.repeat(~kept, dim)
    w = np.where(gone[None], 0.0, w_o)
    return Pruned(kept[None], [w], [np.zeros(len(w))], [])
