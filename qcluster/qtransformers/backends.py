"""One weighted sum, behind several backends: samplers, noisy simulation, quantum hardware."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.functional import attention_on
from qcluster.q_attention.module_config import QuantumConfig
from qcluster.q_attention.problem import AttentionProblem
from qcluster.q_attention.measured import measured_rows
from qcluster.qtransformers.noisy import QuantumAttentionSimulator

__all__ = ["attend_heads"]


def attend_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
    config: QuantumConfig,
    *,
    call: int,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Output (batch * heads, L, dim), weights (batch * heads, L, S) and what was done.

    ``call`` numbers the module's calls: every call draws anew, and the same calls draw the same.
    """
    import torch

    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    problem = AttentionProblem(
        q=q.to(work),
        k=k.to(work),
        v=v.to(work),
        bias=None if mask is None else mask.to(work).expand(q.shape[0], q.shape[1], k.shape[1]),
        scale=scale,
        shape=(*q.shape[:-1], v.shape[-1]),
        numpy=False,
        dtype=q.dtype,
    )
    if config.backend in ("simulation", "hardware"):
        return _measured(problem, config, call)
    generator = torch.Generator(device=q.device).manual_seed(config.seed + call)
    estimate, report = attention_on(
        problem,
        sampler=config.backend,
        budget=config.budget if config.budget is not None else config.num_samples,
        control_variate=config.control_variate,
        criterion=config.criterion,
        certificate=config.certificate,
        delta=config.delta,
        eps=config.eps,
        generator=generator,
    )
    if config.error_mitigation:
        report["warnings"] = [
            *report.get("warnings", []),
            f"error_mitigation does nothing: {config.backend} has no noise",
        ]
    return estimate.out.to(q.dtype), estimate.weights.to(q.dtype), report


def _measured(
    problem: AttentionProblem, config: QuantumConfig, call: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    import torch

    exact = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
    report: dict[str, Any] = {"method": config.backend, "shots": config.num_samples}
    if config.backend == "simulation":
        simulator = QuantumAttentionSimulator(
            config.noise_model, error_mitigation=config.error_mitigation
        )
        generator = torch.Generator(device=exact.device).manual_seed(config.seed + call)
        weights = simulator.weigh(exact, config.noise_level, config.num_samples, generator)
        if problem.bias is not None:
            # Noise knows no mask: what it moves to forbidden keys is lost.
            weights = weights.masked_fill(torch.isinf(problem.bias), 0.0)
        report["warnings"] = list(simulator.warnings)
    else:
        weights, result = measured_rows(
            exact,
            config.num_samples,
            backends=config.backends,
            seed=config.seed + call,
            deadline_s=config.deadline_s,
        )
        report |= {
            "backend": result.backend,
            "fallback_reason": result.fallback_reason,
            "simulator": result.simulator,
        }
        ignored = config.error_mitigation or config.noise_level > 0
        note = "error_mitigation and noise_level are for simulation: a device has its own noise"
        report["warnings"] = [note] if ignored else []
    out = weights @ problem.v
    return out.to(problem.dtype), weights.to(problem.dtype), report
