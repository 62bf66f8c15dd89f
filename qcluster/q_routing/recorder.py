"""Recording a router trace from a running model.

Torch is not imported: its modules are watched through their forward hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_routing.problem import count
from qcluster.q_routing.traces import Trace

__all__ = ["Recorder"]


class Recorder:
    """Collects a trace from a running model, layer by layer, in bounded memory.

    ``limit`` tokens are kept, the newest. ``logits`` and ``hidden`` say whether these are kept
    too; they take tens of times the room of the picks.
    """

    def __init__(
        self,
        layers: int,
        experts: int,
        k: int,
        *,
        limit: int = 65_536,
        logits: bool = False,
        hidden: bool = False,
    ) -> None:
        self.layers, self.experts = count(layers, "layers"), count(experts, "experts")
        self.k, self.limit = count(k, "k"), count(limit, "limit")
        if self.k > self.experts:
            raise InputError(f"is more than {experts} experts", field="k")
        self._keep = {"logits": logits, "hidden": hidden}
        self._blocks: list[dict[str, NDArray[Any]]] = []
        self._open: list[dict[str, NDArray[Any]]] = []

    def add(
        self,
        layer: int,
        logits: ArrayLike,
        hidden: ArrayLike | None = None,
        expert_ids: ArrayLike | None = None,
    ) -> None:
        """Gate logits (tokens, experts) of one layer, and what the gate saw (tokens, width).

        Layers come in order from 0. ``expert_ids`` (tokens, k) are the picks; without them, the k
        largest logits. Raises InputError for
        another order, shape or number of tokens, and for values that are not finite; the tokens
        that are under way are then given up.
        """
        try:
            self._add(layer, np.asarray(logits), hidden, expert_ids)
        except InputError:
            self._open = []
            raise
        if layer == self.layers - 1:
            names = self._open[0]
            self._blocks.append({n: np.stack([row[n] for row in self._open], 1) for n in names})
            self._open = []
            while len(self._blocks) > 1 and len(self) - _size(self._blocks[0]) >= self.limit:
                del self._blocks[0]

    def _add(
        self,
        layer: int,
        logits: NDArray[Any],
        hidden: ArrayLike | None,
        expert_ids: ArrayLike | None,
    ) -> None:
        if layer != len(self._open):
            raise InputError(f"layer {len(self._open)} comes next, got {layer}", field="layer")
        tokens = _size(self._open[0]) if self._open else max(len(logits), 1) if logits.ndim else 1
        if logits.dtype.kind not in "iuf" or logits.shape != (tokens, self.experts):
            message = f"wants ({tokens}, {self.experts}) numbers, got {logits.shape}"
            raise InputError(message, field="logits")
        if not np.isfinite(logits).all():
            raise InputError("holds a value that is not finite", field="logits")
        if expert_ids is None:
            top = np.argsort(-logits, axis=1, kind="stable")[:, : self.k]
        else:
            top = np.asarray(expert_ids)
            in_range = top.dtype.kind in "iu" and top.size and 0 <= top.min() <= top.max()
            if top.shape != (tokens, self.k) or not in_range or top.max() >= self.experts:
                message = f"wants ({tokens}, {self.k}) experts below {self.experts}"
                raise InputError(message, field="expert_ids")
        row: dict[str, NDArray[Any]] = {"expert_ids": np.sort(top, axis=1).astype(np.int64)}
        if self._keep["logits"]:
            row["logits"] = logits.astype(np.float32)
        if self._keep["hidden"]:
            seen = np.asarray(hidden)
            if hidden is None or seen.ndim != 2 or len(seen) != tokens:
                raise InputError(f"wants ({tokens}, width) numbers", field="hidden")
            row["hidden"] = seen.astype(np.float32)
        self._open.append(row)

    def watch(self, gates: Sequence[Any]) -> list[Any]:
        """Record from torch modules, one gate a layer in order, whose output is the logits.

        Returns the hooks; call ``remove()`` on each to stop.
        """
        if len(gates) != self.layers:
            raise InputError(f"wants {self.layers} gates, got {len(gates)}", field="gates")

        def hook(layer: int) -> Any:
            def seen(module: Any, given: Any, output: Any) -> None:
                del module
                first = output[0] if isinstance(output, tuple) else output
                self.add(layer, _rows(first), _rows(given[0]))

            return seen

        return [gate.register_forward_hook(hook(x)) for x, gate in enumerate(gates)]

    def __len__(self) -> int:
        return sum(map(_size, self._blocks))

    def trace(self) -> Trace:
        """What was recorded, oldest first. Raises InputError when that is nothing."""
        if not self._blocks:
            raise InputError("nothing was recorded yet", field="trace")
        names = self._blocks[0]
        whole = {n: np.concatenate([b[n] for b in self._blocks])[-self.limit :] for n in names}
        return Trace(num_experts=self.experts, **whole)


def _size(block: dict[str, NDArray[Any]]) -> int:
    return len(block["expert_ids"])


def _rows(tensor: Any) -> NDArray[Any]:
    """A torch tensor as (tokens, last axis)."""
    return np.asarray(tensor.detach().float().cpu().reshape(-1, tensor.shape[-1]).numpy())
