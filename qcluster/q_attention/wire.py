"""Attention over safetensors: the body of a request to the body of its answer.

In: ``embeddings`` and perhaps ``w_q, w_k, w_v, w_o, b_q, ...``; or ``q``, ``k``, ``v`` and perhaps
``mask``. Out: ``out``, with bounds ``bound``; the metadata hold ``report`` as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from qcluster.errors import FormatError, InputError

__all__ = ["answer"]

MAX_HEADER = 2**20
MAX_SCORES = 2**30
"""Queries x keys over all heads: beyond this an answer would take minutes."""


def answer(body: bytes, config: str | None = None) -> bytes:
    """Attend to the tensors in ``body``.

    ``config`` is an ``AttentionConfig`` as JSON; without one, that in the body's metadata under
    ``config``, or the defaults. Raises FormatError for what is no safetensors, InputError naming
    the tensor or field.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    from qcluster.q_attention.attend import attend_with_report
    from qcluster.q_attention.config import AttentionConfig

    metadata = _metadata(body)
    chosen = AttentionConfig.read(_mapping(config if config is not None else metadata))
    try:
        tensors = load(body)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise FormatError(f"is no safetensors: {error}", field="body") from None
    given = set(tensors)
    if "embeddings" in given:
        x = tensors.pop("embeddings")
        _small(x.shape[-2:-1].numel() ** 2 * max(1, x.shape[:-2].numel()) * chosen.heads)
        found = attend_with_report(x, config=chosen, weights=tensors)
        out, bound, report = found.out, found.bound, found.report
    elif {"q", "k", "v"} <= given:
        if unknown := given - {"q", "k", "v", "mask"}:
            raise InputError("is not understood beside q, k and v", field=min(unknown))
        out, bound, report = _plain(tensors, chosen)
    else:
        raise InputError(f"wants embeddings, or q, k and v; got {', '.join(sorted(given)) or '-'}",
                         field="body")  # fmt: skip
    result = {"out": out.detach().contiguous()}
    if bound is not None:
        result["bound"] = torch.as_tensor(bound).detach().contiguous()
    return bytes(save(result, {"report": json.dumps(report)}))


def _plain(tensors: dict[str, Any], config: Any) -> tuple[Any, Any, dict[str, Any]]:
    from qcluster.q_attention.functional import attention

    toggles = ("qaoa", "qpe", "contrastive", "pruner", "kernel")
    set_ = [name for name in toggles if getattr(config, name)] + ["hybrid"] * bool(config.hybrid)
    if set_:
        raise InputError("goes with embeddings, not with q, k and v", field=f"config.{set_[0]}")
    q, k = tensors["q"], tensors["k"]
    if q.dim() > 1 and k.dim() > 1:
        _small(q.shape[:-1].numel() * int(k.shape[-2]))
    found = attention(
        q, k, tensors["v"],
        budget=1.0 if config.budget is None else config.budget,
        sampler=config.sampler, certificate=config.certificate, delta=config.delta,
        eps=config.eps, is_causal=config.is_causal, mask=tensors.get("mask"),
        generator=config.seed,
    )  # fmt: skip
    report = {
        "method": found.method, "share": found.share, "bytes_read": found.bytes_read,
        "exact_rows": found.exact_rows, "warnings": list(found.warnings),
    }  # fmt: skip
    return found.out, found.bound, report


def _small(scores: int) -> None:
    if scores > MAX_SCORES:
        raise InputError(f"{scores} scores, at most {MAX_SCORES} are taken", field="body")


def _metadata(body: bytes) -> str | None:
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or not 2 <= length <= min(MAX_HEADER, len(body) - 8):
        raise FormatError("is no safetensors: its header does not fit", field="body")
    try:
        header = json.loads(body[8 : 8 + length])
        found = header.get("__metadata__", {}).get("config")
    except (ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"is no safetensors: {error}", field="body") from None
    return found if isinstance(found, str) else None


def _mapping(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}", field="config") from None
    if not isinstance(found, dict):
        raise InputError("wants an object", field="config")
    # JSON has lists where the configuration has tuples.
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
