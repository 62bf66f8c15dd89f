"""What is asked: queries, keys, values, a mask and a scale, checked and brought to one form.

NumPy arrays and tensors come in, any number of leading axes, fewer key/value heads than query
heads. Inside there is one form: ``k`` (groups, n, d), ``v`` (groups, n, dv), ``q`` (groups, rows,
d), where the query heads that share a key/value head are rows of the same group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["AttentionProblem", "state"]

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class AttentionProblem:
    """Checked inputs in one form.

    ``q`` (groups, rows, d), ``k`` (groups, n, d), ``v`` (groups, n, dv), in float32 or float64;
    ``bias`` (groups or 1, rows or 1, n) is added to scaled scores, -inf forbids; or None.
    ``shape`` is that of the output, ``numpy`` and ``dtype`` its kind.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    bias: torch.Tensor | None
    scale: float
    shape: tuple[int, ...]
    numpy: bool
    dtype: Any

    @property
    def rows(self) -> int:
        """Queries over all heads."""
        return self.q.shape[0] * self.q.shape[1]

    @property
    def n(self) -> int:
        """Keys of a head."""
        return int(self.k.shape[1])

    @property
    def fp16_bytes(self) -> int:
        """What a query reads of one head's keys and values when they are held in 16 bits."""
        return 2 * self.n * int(self.k.shape[2] + self.v.shape[2])

    def give(self, values: torch.Tensor, *, row: bool = False) -> Any:
        """``values`` (groups, rows, dv), or (groups, rows) with ``row``, as the caller's kind."""
        found = values.reshape(self.shape[:-1] if row else self.shape)
        if not row:
            found = found.to(self.dtype)
        return found.detach().cpu().numpy() if self.numpy else found


def state(
    q: Any, k: Any, v: Any, *, mask: Any = None, is_causal: bool = False, scale: float | None = None
) -> AttentionProblem:
    """Check and reshape.

    Parameters
    ----------
    q, k, v: (..., nq, d), (..., n, d), (..., n, dv), all NumPy or all tensors, of one float type.
    mask: broadcastable to (..., nq, n), as of ``scaled_dot_product_attention``: bool with True for
        what may be looked at, or float, added to the scores. A row without any key gives zeros.
    is_causal: query i sees keys 0..i, also when there are more keys than queries.
    scale: of the scores; 1 / sqrt(d) if None.

    Raises InputError naming the argument.
    """
    import torch

    numpy = not isinstance(q, torch.Tensor)
    if any(isinstance(x, torch.Tensor) == numpy for x in (k, v)):
        raise InputError("q, k and v are not of one kind: all NumPy or all tensors", field="k")
    tq, tk, tv = (_tensor(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    _check(tq, tk, tv)
    lead, repeats = _heads(tq, tk)
    nq, d, n = int(tq.shape[-2]), int(tq.shape[-1]), int(tk.shape[-2])
    groups = math.prod(lead)
    work = torch.float64 if tq.dtype == torch.float64 else torch.float32
    bias = _bias(mask, is_causal, (*tq.shape[:-2], nq, n), groups, repeats, work, tq.device)
    if scale is None:
        scale = 1 / math.sqrt(d)
    if isinstance(scale, bool) or not math.isfinite(scale):
        raise InputError(f"wants a finite number, got {scale}", field="scale")
    return AttentionProblem(
        q=tq.reshape(groups, repeats * nq, d).to(work),
        k=tk.expand(*lead, *tk.shape[-2:]).reshape(groups, n, d).to(work),
        v=tv.expand(*lead, *tv.shape[-2:]).reshape(groups, n, tv.shape[-1]).to(work),
        bias=bias,
        scale=float(scale),
        shape=(*tq.shape[:-1], int(tv.shape[-1])),
        numpy=numpy,
        dtype=tq.dtype,
    )


def _tensor(value: Any, name: str) -> torch.Tensor:
    import numpy as np
    import torch

    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        if array.dtype.kind != "f":
            raise InputError(f"wants floating point numbers, got {array.dtype}", field=name)
        value = torch.from_numpy(np.ascontiguousarray(array))
    if str(value.dtype).removeprefix("torch.") not in FLOATS:
        raise InputError(f"wants one of {', '.join(FLOATS)}, got {value.dtype}", field=name)
    if value.dim() < 2:
        raise InputError(f"wants (..., length, dim), got {tuple(value.shape)}", field=name)
    if value.numel() == 0:
        raise InputError(f"is empty: {tuple(value.shape)}", field=name)
    if not bool(torch.isfinite(value).all()):
        raise InputError("holds a number that is not finite", field=name)
    checked: torch.Tensor = value
    return checked


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    if q.shape[-1] != k.shape[-1]:
        raise InputError(f"q has {q.shape[-1]} dimensions, k {k.shape[-1]}", field="k")
    if k.shape[:-1] != v.shape[:-1]:
        raise InputError(f"k is {tuple(k.shape)}, v {tuple(v.shape)}", field="v")
    if not q.dtype == k.dtype == v.dtype:
        raise InputError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}", field="k")
    if k.dim() > q.dim():
        raise InputError(f"k has more axes ({k.dim()}) than q ({q.dim()})", field="k")


def _heads(q: torch.Tensor, k: torch.Tensor) -> tuple[tuple[int, ...], int]:
    """Leading axes of keys and values after broadcasting, and query heads to each of theirs."""
    ours, theirs = tuple(q.shape[:-2]), tuple(k.shape[:-2])
    theirs = (1,) * (len(ours) - len(theirs)) + theirs
    if not ours:
        return (), 1
    if theirs[-1] == 0 or ours[-1] % theirs[-1]:
        raise InputError(f"{ours[-1]} query heads over {theirs[-1]} key heads", field="k")
    batch = ours[:-1]
    if any(b not in (1, a) for a, b in zip(batch, theirs[:-1], strict=True)):
        raise InputError(f"q is for {ours}, k for {theirs}", field="k")
    return (*batch, theirs[-1]), ours[-1] // theirs[-1]


def _bias(
    mask: Any,
    causal: bool,
    shape: tuple[int, ...],
    groups: int,
    repeats: int,
    work: Any,
    device: Any,
) -> torch.Tensor | None:
    import numpy as np
    import torch

    nq, n = shape[-2:]
    found = None
    if mask is not None:
        if not isinstance(mask, torch.Tensor):
            mask = torch.from_numpy(np.ascontiguousarray(np.asarray(mask)))
        mask = mask.to(device)
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=work, device=device).masked_fill(~mask, -math.inf)
        elif not mask.is_floating_point():
            raise InputError(f"wants bool or float, got {mask.dtype}", field="mask")
        if bool((torch.isnan(mask) | (mask == math.inf)).any()):
            raise InputError("holds NaN or +inf", field="mask")
        try:
            found = mask.to(work).broadcast_to(shape)
        except RuntimeError:
            raise InputError(
                f"{tuple(mask.shape)} does not broadcast to {shape}", field="mask"
            ) from None
    if causal:
        future = torch.ones(nq, n, dtype=torch.bool, device=device).triu(1)
        start = torch.zeros(nq, n, dtype=work, device=device) if found is None else found
        found = start.masked_fill(future, -math.inf).broadcast_to(shape)
    return None if found is None else found.reshape(groups, repeats * nq, n)
