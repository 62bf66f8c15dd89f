"""A contrastive trainer for projections: each query should find its own key.

    L = mean_i -log(exp(q_i k_i / T) / sum_j exp(q_i k_j / T))

(InfoNCE: van den Oord et al., 2018), with log-sum-exp, so that large scores do not overflow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcluster.errors import FormatError, InputError

if TYPE_CHECKING:
    import torch

__all__ = ["ContrastiveTrainer", "contrastive_loss"]


def contrastive_loss(
    q: torch.Tensor, k: torch.Tensor, *, temperature: float = 1.0, symmetric: bool = False
) -> torch.Tensor:
    """The mean loss of pairs (n, d) and (n, d); ``symmetric`` averages both directions."""
    from torch.nn import functional

    if q.dim() != 2 or q.shape != k.shape or not q.shape[0]:
        raise InputError(f"wants two of (n, d), got {tuple(q.shape)} and {tuple(k.shape)}",
                         field="k")  # fmt: skip
    if not temperature > 0:
        raise InputError(f"wants a positive number, got {temperature}", field="temperature")
    import torch

    scores = q @ k.T / temperature
    own = torch.arange(len(q), device=q.device)
    loss = functional.cross_entropy(scores, own)
    return (loss + functional.cross_entropy(scores.T, own)) / 2 if symmetric else loss


class ContrastiveTrainer:
    """Trains maps of queries and keys (d, d) by stochastic gradient descent, from the identity.

    Parameters
    ----------
    lr, steps, batch, momentum: of the descent. temperature, symmetric: of the loss. seed: of the
    batches.

    ``w_q`` and ``w_k`` are the maps, ``history`` the loss of every step.
    """

    def __init__(
        self,
        *,
        lr: float = 0.05,
        steps: int = 200,
        batch: int = 64,
        momentum: float = 0.9,
        temperature: float | None = None,
        symmetric: bool = True,
        seed: int = 0,
    ) -> None:
        for name, value in (("lr", lr), ("steps", steps), ("batch", batch)):
            if not value > 0:
                raise InputError(f"wants a positive number, got {value}", field=name)
        self.lr, self.steps, self.batch, self.momentum = lr, steps, batch, momentum
        self.temperature, self.symmetric, self.seed = temperature, symmetric, seed
        self.w_q: torch.Tensor | None = None
        self.w_k: torch.Tensor | None = None
        self.history: list[float] = []

    def fit(self, q: Any, k: Any) -> ContrastiveTrainer:
        """Pairs (n, d) and (n, d), arrays or tensors. Raises InputError for other shapes."""
        import torch

        queries, keys = (torch.as_tensor(x).detach().float() for x in (q, k))
        contrastive_loss(queries, keys)  # checks
        d = queries.shape[1]
        # One unit of temperature is the usual deviation of a score.
        temperature = self.temperature or max(1e-6, float((queries @ keys.T).std().nan_to_num(1)))
        maps = [torch.eye(d, requires_grad=True) for _ in range(2)]
        descent = torch.optim.SGD(maps, lr=self.lr, momentum=self.momentum)
        generator = torch.Generator().manual_seed(self.seed)
        self.history = []
        for _ in range(self.steps):
            rows = torch.randperm(len(queries), generator=generator)[: self.batch]
            loss = contrastive_loss(
                queries[rows] @ maps[0], keys[rows] @ maps[1],
                temperature=temperature, symmetric=self.symmetric,
            )  # fmt: skip
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(maps, 1.0)
            descent.step()
            self.history.append(float(loss.detach()))
        self.w_q, self.w_k = (m.detach() for m in maps)
        return self

    def transform(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mapped queries and keys (..., d). Raises InputError before ``fit``."""
        if self.w_q is None or self.w_k is None:
            raise InputError("is not trained: call fit or load", field="contrastive")
        return q @ self.w_q.to(q), k @ self.w_k.to(k)

    def recall(self, q: Any, k: Any) -> float:
        """Share of queries whose own key scores highest, after the maps."""
        import torch

        a, b = self.transform(torch.as_tensor(q).float(), torch.as_tensor(k).float())
        return float(((a @ b.T).argmax(1) == torch.arange(len(a))).double().mean())

    def save(self, path: str | Path) -> None:
        """Write ``path``.safetensors and ``path``.json."""
        from safetensors.torch import save_file

        if self.w_q is None or self.w_k is None:
            raise InputError("is not trained: call fit or load", field="contrastive")
        save_file({"w_q": self.w_q, "w_k": self.w_k}, f"{path}.safetensors")
        options = {
            "lr": self.lr, "steps": self.steps, "batch": self.batch, "momentum": self.momentum,
            "temperature": self.temperature, "symmetric": self.symmetric, "seed": self.seed,
        }  # fmt: skip
        Path(f"{path}.json").write_text(json.dumps(options))

    @classmethod
    def load(cls, path: str | Path) -> ContrastiveTrainer:
        """Read what ``save`` wrote. Raises FormatError naming the file."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            trainer = cls(**json.loads(Path(f"{path}.json").read_text()))
            maps = load_file(f"{path}.safetensors")
            trainer.w_q, trainer.w_k = maps["w_q"], maps["w_k"]
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise FormatError(f"is no contrastive trainer: {error}", file=path) from None
        return trainer
