"""A pass over held-out data: loss, and the user's metrics over all predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcluster.qtransformers.head_attention import reseed
from qcluster.qtransformers.order import share, step_seed
from qcluster.qtransformers.stream import Stream

if TYPE_CHECKING:
    from qcluster.qtransformers.data import Batch, Source
    from qcluster.qtransformers.loop import TrainingLoop

__all__ = ["Metrics", "measure"]

Metrics = Callable[[NDArray[Any], NDArray[Any]], Mapping[str, float]]


@torch.no_grad()
def measure(loop: TrainingLoop) -> dict[str, float]:
    """``loss`` (mean over labels, nats) and what ``compute_metrics`` says.

    The same on every worker. Random draws (sampled attention) are seeded by run and data rank, so
    that two evaluations of the same weights agree.
    """
    source = cast("Source", loop.held_out)
    workers, c = loop.workers, loop.config
    training = loop.model.training
    loop.model.eval()
    seed = step_seed(c.seed, "evaluation", workers.data_rank)
    torch.manual_seed(seed)
    reseed(loop.model, seed)
    sums = torch.zeros(2, dtype=torch.float64)
    kept: list[tuple[NDArray[Any], NDArray[Any]]] = []
    try:
        for start in range(0, len(source), c.batch_size):
            rows = np.arange(start, min(start + c.batch_size, len(source)))
            if isinstance(source, Stream):
                source.passed(start)
            mine = share(rows, workers.data_rank, workers.data_world)
            for part in _pieces(mine, c.micro_batch_size):
                loss, weight, out = _forward(loop, source, part if len(part) else rows[:1])
                if len(part):
                    sums += torch.tensor([loss * weight, weight], dtype=torch.float64)
                    kept += out
    finally:
        loop.model.train(training)
    total = workers.sum(sums)
    metrics = {"loss": float(total[0] / total[1].clamp_min(1.0))}
    if loop.compute_metrics is not None:
        found = [piece for pieces in workers.gather(kept) for piece in pieces]
        logits, labels = (_join([pair[i] for pair in found]) for i in (0, 1))
        metrics |= {k: float(v) for k, v in loop.compute_metrics(logits, labels).items()}
    return metrics


def _pieces(rows: NDArray[np.int64], size: int | None) -> list[NDArray[np.int64]]:
    if size is None or len(rows) <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _forward(
    loop: TrainingLoop, source: Source, rows: NDArray[np.int64]
) -> tuple[float, int, list[tuple[NDArray[Any], NDArray[Any]]]]:
    device = loop.workers.device
    batch = {name: value.to(device) for name, value in source.batch(rows).items()}
    autocast = torch.autocast(device.type, dtype=loop.autocast, enabled=loop.autocast is not None)
    kept: list[Any] = []

    def watch(_: Any, __: Any, output: Any) -> None:
        found = output.get("logits") if isinstance(output, Mapping) else None
        kept.append(getattr(output, "logits", found))

    wanted = loop.compute_metrics is not None
    hook = loop.model.register_forward_hook(watch) if wanted else None
    try:
        with autocast:
            loss = loop.loss_of(loop.model, batch)
    finally:
        if hook is not None:
            hook.remove()
    weigh = getattr(loop.model, "loss_weight", None)
    weight = len(rows) if weigh is None or "labels" not in batch else int(weigh(batch))
    if not wanted or not kept or kept[-1] is None:
        return float(loss), weight, []
    return float(loss), weight, [(_numpy(kept[-1]), _numpy(_labels(batch, len(rows))))]


def _labels(batch: Batch, rows: int) -> Tensor:
    return batch["labels"] if "labels" in batch else torch.full((rows,), -1)


def _numpy(value: Tensor) -> NDArray[Any]:
    return (
        value.detach().float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
    )


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0)
