"""Heads of a whole model removed at once: which of them, and what those that stay take over.

Which: every head gets a gate that fades it to its mean, and the gradient of the model's normed
output by all gates says, to first order, what removing a *set* of heads does: errors of heads that
cancel are cheap together, those that add up are not. Michel et al. (2019) take one gradient of a
loss and rank heads one by one; here the Gram matrix of the output's own Jacobian (random
projections of it, as in Hutchinson's trace estimate) is minimised over sets, one head after
another. No labels.

What they take over: layer by layer, output projections of the pruned model are fitted by least
squares to the sums that the whole model had, on the inputs that the pruned model has, so that later
layers repair what earlier ones lost (sequential reconstruction; LeCun et al. 1990 and Hassibi and
Stork 1993 adjust weights that stay in the same spirit).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcluster.errors import InputError

__all__ = ["Calibration", "choose_heads", "gate_gradients", "refit", "write"]

RIDGE = 0.03
"""Of the mean square of inputs: how much projections are held back from moving."""
DRAWS = 3
"""Random projections of the output a batch."""

Run = Callable[[Any], Tensor]


class _Enough(Exception):
    """No error: what comes after in a forward is not needed."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a model is calibrated with.

    ``run(batch)`` gives (rows, dim) outputs that have to stay, with gradients where torch has them
    on; ``batches`` its inputs; ``projections`` the attention's output projections, ordered by
    depth, called with (rows, tokens, heads * dim); ``sums`` the modules whose input is the residual
    stream with a projection's output added (in BERT the norms behind them), or empty: then outputs
    of the projections themselves are held.

    Raises InputError where these do not fit together.
    """

    run: Run
    batches: Sequence[Any]
    projections: Sequence[nn.Linear]
    heads: int
    sums: Sequence[nn.Module] = field(default=())

    def __post_init__(self) -> None:
        if not self.projections or not all(isinstance(p, nn.Linear) for p in self.projections):
            raise InputError("wants at least one nn.Linear", field="projections")
        if isinstance(self.heads, bool) or self.heads < 1:
            raise InputError(f"wants at least 1, got {self.heads}", field="heads")
        for i, projection in enumerate(self.projections):
            if projection.in_features % self.heads:
                raise InputError(
                    f"{self.heads} heads do not divide the {projection.in_features} inputs of "
                    f"number {i}",
                    field="projections",
                )
        if len(self.sums) not in (0, len(self.projections)):
            raise InputError(
                f"{len(self.sums)} for {len(self.projections)} projections", field="sums"
            )
        if not self.batches:
            raise InputError("wants at least one", field="batches")

    def observe(self, layers: Sequence[int], *, stop: bool = False) -> list[tuple[Tensor, Tensor]]:
        """(inputs, sums) of the projections of these layers over all batches, rows of tokens;
        ``stop`` ends each forward there. Where there are no ``sums``, outputs stand for them.
        """
        seen: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
        with contextlib.ExitStack() as hooks:
            for (inputs, sums), layer in zip(seen, layers, strict=True):
                projection = self.projections[layer]

                def take_in(_m: nn.Module, args: Any, store: list[Tensor] = inputs) -> None:
                    store.append(_rows(args[0]))

                def take_out(_m: nn.Module, _a: Any, out: Any, store: list[Tensor] = sums) -> None:
                    store.append(_rows(out))
                    _stop(stop)

                def take_sum(_m: nn.Module, args: Any, store: list[Tensor] = sums) -> None:
                    store.append(_rows(args[0]))
                    _stop(stop)

                hooks.callback(projection.register_forward_pre_hook(take_in).remove)
                if self.sums:
                    handle = self.sums[layer].register_forward_pre_hook(take_sum)
                else:
                    handle = projection.register_forward_hook(take_out)
                hooks.callback(handle.remove)
            with torch.no_grad():
                for batch in self.batches:
                    with contextlib.suppress(_Enough):
                        self.run(batch)
        if not all(len(inputs) == len(self.batches) == len(sums) for inputs, sums in seen):
            raise InputError("each has to be called once a batch", field="projections")
        return [(torch.cat(inputs), torch.cat(sums)) for inputs, sums in seen]


def gate_gradients(calibration: Calibration, means: Sequence[Tensor], *, seed: int = 0) -> Tensor:
    """(samples, layers * heads): random projections of the normed outputs, differentiated by gates
    that fade each head to its mean over tokens, ``means`` (heads * dim,) a layer.

    Raises InputError where outputs are not (rows, dim) for the rows of the projections' inputs, or
    not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for batch in calibration.batches:
        with torch.enable_grad(), _gates(calibration, means) as gates:
            out = calibration.run(batch)
            rows = len(next(iter(gates.values()))) if gates else 0
            if out.dim() != 2 or len(out) != rows or not bool(torch.isfinite(out).all()):
                raise InputError(
                    f"gave {tuple(out.shape)}, wants finite ({rows}, dim)", field="run"
                )
            normed = out / out.norm(dim=1, keepdim=True).clamp(min=torch.finfo(out.dtype).tiny)
            for draw in range(DRAWS):
                along = torch.randn(normed.shape, generator=generator).to(normed)
                order = [gates[i] for i in range(len(calibration.projections))]
                parts = torch.autograd.grad(
                    (normed * along).sum(), order, retain_graph=draw + 1 < DRAWS
                )
                found.append(torch.cat([part.reshape(rows, -1) for part in parts], 1).double())
    return torch.cat(found).cpu()


def choose_heads(gradients: Tensor, goal: int) -> list[int]:
    """``goal`` columns of ``gradients`` (samples, all heads) whose sum is short, one after another:
    the next is the one that leaves the mean squared sum least. Ties go to the lower number.
    """
    gram = (gradients.T @ gradients / max(1, len(gradients))).numpy()
    cost = gram.diagonal().copy()
    order: list[int] = []
    for _ in range(goal):
        head = int(cost.argmin())
        order.append(head)
        cost += 2 * gram[head]
        cost[head] = np.inf
    return order


def refit(
    calibration: Calibration, kept: NDArray[np.bool_], targets: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (model, heads * dim) and biases (model,) of every projection, for ``kept`` (layers,
    heads) and the whole model's sums as ``targets``. The model is left as it was.
    """
    whole = [(p.weight, p.bias) for p in calibration.projections]
    weights, biases = [], []
    try:
        for i, projection in enumerate(calibration.projections):
            ((inputs, sums),) = calibration.observe([i], stop=True)
            columns = torch.from_numpy(np.repeat(kept[i], inputs.shape[1] // calibration.heads))
            w, b = _moved(projection, inputs, targets[i] - sums, columns)
            weights.append(w)
            biases.append(b)
            write(projection, w, b)
    finally:
        for projection, (weight, bias) in zip(calibration.projections, whole, strict=True):
            projection.weight, projection.bias = weight, bias
    return weights, biases


def write(projection: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """New parameters of the old ones' kind; a projection without bias gets one."""
    old = projection.weight
    for name, new in (("weight", weight), ("bias", bias)):
        value = new.to(old.device, old.dtype)
        setattr(projection, name, nn.Parameter(value, requires_grad=old.requires_grad))


def _moved(
    projection: nn.Linear, inputs: Tensor, missing: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights zero outside of ``columns``, and a bias, whose outputs are the projection's plus
    ``missing`` as nearly as least squares can; ridge towards the weights that are there.
    """
    x, w = inputs.double(), projection.weight.detach().double()
    wanted = x @ w.T + missing.double()
    if projection.bias is not None:
        wanted += projection.bias.detach().double()
    mean, level = x.mean(0), wanted.mean(0)
    columns = columns.to(x.device)
    centred, old = (x - mean)[:, columns], w[:, columns]
    square = centred.T @ centred
    found = torch.zeros_like(w)
    if len(square):
        ridge = RIDGE * square.diagonal().mean().clamp(min=torch.finfo(x.dtype).tiny)
        square.diagonal().add_(ridge)
        step = torch.linalg.solve(square, centred.T @ (wanted - level - centred @ old.T))
        found[:, columns] = old + step.T
    return found, level - found @ mean


@contextlib.contextmanager
def _gates(calibration: Calibration, means: Sequence[Tensor]) -> Iterator[dict[int, Tensor]]:
    """Inside, forwards pass gates of 1 that can be differentiated: (rows, 1, heads, 1) a layer."""
    gates: dict[int, Tensor] = {}
    with contextlib.ExitStack() as hooks:
        for i, (projection, mean) in enumerate(zip(calibration.projections, means, strict=True)):

            def through(
                _m: nn.Module, args: Any, i: int = i, mean: Tensor = mean
            ) -> tuple[Tensor, ...]:
                x = args[0]
                if x.dim() != 3:
                    raise InputError(
                        f"number {i} was called with {tuple(x.shape)}, "
                        "wants (rows, tokens, heads * dim)",
                        field="projections",
                    )
                gates[i] = x.new_ones(len(x), 1, calibration.heads, 1).requires_grad_()
                apart = (x - mean.to(x)).unflatten(-1, (calibration.heads, -1))
                return (mean.to(x) + (gates[i] * apart).flatten(-2),)

            hooks.callback(projection.register_forward_pre_hook(through).remove)
        yield gates


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1])


def _stop(stop: bool) -> None:
    if stop:
        raise _Enough
