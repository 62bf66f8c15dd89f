"""Which heads can go.

joint      of a whole model, by what a set of heads does to the model's output, with the heads that
           stay refitted layer by layer (``fit_model``; see ``model_pruner``)
literal    the leading singular value of W_Q W_K^T, heads below a threshold go. It knows nothing of
           the inputs, and removes the wrong heads (docs/claims/attention.md)
whitened   the leading singular value of C^(1/2) W_O: C is the covariance of a head's context on
           calibration data, given the contexts of the heads that stay, so that what others can say
           as well does not count. The least goes, one after another over all layers; the output
           projections that stay take over what they can (least squares), means go to the bias

Michel et al. (2019) remove by a gradient of a loss; here calibration inputs suffice, no labels.
The whitened rule sees layers, not what the model makes of them: on a real model the joint one is
better by far, and the literal one is worse than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

if TYPE_CHECKING:
    from qcluster.q_attention.model_pruner import Calibration

__all__ = ["Pruned", "QSVDHeadPruner", "leading_values"]

Floats = NDArray[np.float64]

RIDGE = 1e-2
MODES = ("joint", "whitened", "literal")


@dataclass(frozen=True, eq=False)
class Pruned:
    """``kept`` (layers, heads) True for heads that stay; ``w_o`` a (model, heads * dim) output
    projection a layer, zero in the columns of heads that go, and ``bias`` (model,) a layer, to be
    added to the projection's own. ``order`` lists (layer, head) as they went.
    """

    kept: NDArray[np.bool_]
    w_o: list[Floats]
    bias: list[Floats]
    order: list[tuple[int, int]]

    def install(self, projections: Sequence[Any]) -> None:
        """Write projections and biases into torch's Linear modules, one a layer.

        Raises InputError for other shapes.
        """
        import torch

        from qcluster.q_attention.model_pruner import write

        shapes = [tuple(p.weight.shape) for p in projections]
        if shapes != [w.shape for w in self.w_o]:
            raise InputError(f"{shapes} for {[w.shape for w in self.w_o]}", field="projections")
        for projection, w, b in zip(projections, self.w_o, self.bias, strict=True):
            bias = torch.from_numpy(b)
            if projection.bias is not None:
                bias = bias + projection.bias.detach().cpu().double()
            write(projection, torch.from_numpy(w), bias)


class QSVDHeadPruner:
    """Removes heads.

    Parameters
    ----------
    share: of all heads that go (joint, whitened).
    threshold: heads whose leading singular value is below it go (literal).
    mode: joint (``fit_model``), whitened (``fit``) or literal (``heads``).

    Raises InputError naming the argument.
    """

    def __init__(
        self, share: float = 0.25, *, threshold: float | None = None, mode: str = "whitened"
    ) -> None:
        if mode not in MODES:
            raise InputError(f"'{mode}' is none of {', '.join(MODES)}", field="mode")
        if not 0 <= share < 1:
            raise InputError(f"wants a share in [0, 1), got {share}", field="share")
        if (threshold is None) == (mode == "literal"):
            raise InputError("goes with the literal mode, and only with it", field="threshold")
        self.share, self.threshold, self.mode = share, threshold, mode

    def heads(self, w_q: Any, w_k: Any) -> NDArray[np.bool_]:
        """Literal mode: (heads,) True for those that stay, from W_Q and W_K (heads, model, dim)."""
        if self.threshold is None:
            raise InputError(f"is '{self.mode}', this is of 'literal'", field="mode")
        return leading_values(w_q, w_k) >= self.threshold

    def fit(self, contexts: Sequence[Any], w_o: Sequence[Any]) -> Pruned:
        """Whitened mode.

        ``contexts``: for each layer (tokens, heads, dim), weights times values on calibration data;
        ``w_o``: its output projection (model, heads * dim), as torch's Linear holds it. Raises
        InputError for shapes that do not fit or fewer than 2 tokens.
        """
        if self.mode != "whitened":
            raise InputError(f"is '{self.mode}', this is of 'whitened'", field="mode")
        layers = [_Layer(c, w, i) for i, (c, w) in enumerate(zip(contexts, w_o, strict=True))]
        order: list[tuple[int, int]] = []
        values = [layer.values() for layer in layers]
        for _ in range(self.goal(sum(layer.heads for layer in layers))):
            at = min(range(len(layers)), key=lambda i: float(values[i].min()))
            head = int(values[at].argmin())
            layers[at].drop(head)
            values[at] = layers[at].values()
            order.append((at, head))
        kept = np.stack([layer.kept for layer in layers])
        folded = [layer.fold() for layer in layers]
        return Pruned(kept, [w for w, _ in folded], [b for _, b in folded], order)

    def fit_model(self, calibration: Calibration, *, seed: int = 0) -> Pruned:
        """Joint mode: heads of all layers together, and refitted projections (``model_pruner``).

        The model is left as it was; ``Pruned.install`` changes it. Raises InputError for a
        calibration that does not fit the model.
        """
        from qcluster.q_attention.model_pruner import choose_heads, gate_gradients, refit

        if self.mode != "joint":
            raise InputError(f"is '{self.mode}', this is of 'joint'", field="mode")
        layers, heads = len(calibration.projections), calibration.heads
        seen = calibration.observe(range(layers))
        means = [inputs.mean(0) for inputs, _ in seen]
        gradients = gate_gradients(calibration, means, seed=seed)
        order = [divmod(at, heads) for at in choose_heads(gradients, self.goal(layers * heads))]
        kept = np.ones((layers, heads), bool)
        kept[tuple(np.array(order, int).reshape(-1, 2).T)] = False
        weights, biases = refit(calibration, kept, [sums for _, sums in seen])
        added = [
            b if p.bias is None else b - p.bias.detach().to(b)
            for b, p in zip(biases, calibration.projections, strict=True)
        ]
        return Pruned(
            kept, [w.cpu().numpy() for w in weights], [b.cpu().numpy() for b in added], order
        )

    def goal(self, heads: int) -> int:
        """How many of ``heads`` go."""
        return round(self.share * heads)


def leading_values(w_q: Any, w_k: Any) -> Floats:
    """(heads,) leading singular values of W_Q W_K^T, for W_Q and W_K (heads, model, dim)."""
    q, k = np.asarray(w_q, np.float64), np.asarray(w_k, np.float64)
    if q.ndim != 3 or q.shape != k.shape:
        raise InputError(f"wants two of (heads, model, dim), got {q.shape}, {k.shape}", field="w_q")
    return np.array(
        [np.linalg.svd(a @ b.T, compute_uv=False)[0] for a, b in zip(q, k, strict=True)]
    )


class _Layer:
    """A layer's contexts and what removing heads would cost."""

    def __init__(self, contexts: Any, w_o: Any, number: int) -> None:
        c, self.w = np.asarray(contexts, np.float64), np.asarray(w_o, np.float64)
        wanted = (self.w.shape[0], c.shape[1] * c.shape[2]) if c.ndim == 3 else None
        if c.ndim != 3 or len(c) < 2 or self.w.shape != wanted or not np.isfinite(c).all():
            raise InputError(
                f"layer {number}: contexts {c.shape}, projection {self.w.shape}", field="contexts"
            )
        self.heads, self.dim = c.shape[1], c.shape[2]
        flat = c.reshape(len(c), -1)
        self.mean = flat.mean(0)
        self.cov = np.cov(flat.T).reshape(self.heads * self.dim, -1)
        self.kept = np.ones(self.heads, bool)

    def columns(self, heads: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.flatnonzero(np.repeat(heads, self.dim))

    def values(self) -> Floats:
        """Leading singular value of each head that is left; infinite for the others."""
        found = np.full(self.heads, np.inf)
        gone = self.columns(~self.kept)
        for head in np.flatnonzero(self.kept):
            without = self.kept.copy()
            without[head] = False
            own = np.concatenate([self.columns(self.kept & ~without), gone])
            left = self._left(own, self.columns(without))
            out = self.w[:, own] @ left @ self.w[:, own].T
            found[head] = np.sqrt(max(np.linalg.eigvalsh(out)[-1], 0))
        return found

    def drop(self, head: int) -> None:
        self.kept[head] = False

    def fold(self) -> tuple[Floats, Floats]:
        """The projection of those that stay, and the bias, that come closest to the whole."""
        stay, go = self.columns(self.kept), self.columns(~self.kept)
        w = np.zeros_like(self.w)
        w[:, stay] = self.w[:, stay] + self.w[:, go] @ self._explained(go, stay)
        return w, self.w @ self.mean - w @ self.mean

    def _explained(self, of: NDArray[np.int64], by: NDArray[np.int64]) -> Floats:
        """Regression of contexts ``of`` on contexts ``by``."""
        if not len(by) or not len(of):
            return np.zeros((len(of), len(by)))
        square = self.cov[np.ix_(by, by)]
        ridge = RIDGE * max(float(np.trace(square)) / len(by), 1e-30)
        found = np.linalg.solve(square + ridge * np.eye(len(by)), self.cov[np.ix_(by, of)])
        return np.asarray(found.T)

    def _left(self, own: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
        """Covariance of ``own`` contexts that the others do not explain."""
        return np.asarray(
            self.cov[np.ix_(own, own)]
            - self._explained(own, others) @ self.cov[np.ix_(others, own)]
        )
