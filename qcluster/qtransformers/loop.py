"""The training loop, without Ray: one process's part of a run, alone or among others.

A step takes the next global batch, seeds everything random from run, step and data rank, goes over
this worker's share in micro-batches, and moves the weights. Because nothing else is random, a run
that is killed and goes on from a checkpoint repeats the unbroken one bit for bit on a CPU, on the
same number of workers; on another number it sees the same samples in the same steps.

It does not start processes (``trainer.py`` does) and knows no model: a batch goes in by keyword and
a loss comes out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from qcluster.errors import InputError, SolverFailed
from qcluster.qtransformers import checkpoint as store
from qcluster.qtransformers.callbacks import Callback, EarlyStopping
from qcluster.qtransformers.data import Batch, Collate, as_source
from qcluster.qtransformers.head_attention import reseed
from qcluster.qtransformers.meters import Meters, draws_from, stop_on_sigterm
from qcluster.qtransformers.optimisation import (
    WeightAverage,
    learning_rate,
    make_optimizer,
    precision_of,
)
from qcluster.qtransformers.order import GlobalOrder, share, step_seed
from qcluster.qtransformers.resume import put_back, snapshot
from qcluster.qtransformers.stream import Stream
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.qtransformers.train_report import TrainReport
from qcluster.qtransformers.validation import Metrics, measure
from qcluster.qtransformers.workers import Workers, gradient_coder, wrap

__all__ = ["Loss", "TrainingLoop", "model_loss"]

Loss = Callable[[nn.Module, Batch], Tensor]

MEETING_S = 2.0
"""At most so many seconds of steps pass until workers ask each other whether to go on; they also do
wherever a line is logged."""


class TrainingLoop:
    """One worker's training of a model.

    Parameters
    ----------
    model: any module; ``model(**batch)`` gives a loss, see ``model_loss``.
    train_dataset, eval_dataset: what ``as_source`` accepts.
    config: a ``TrainingConfig``, a mapping of its fields, or None.
    collate: a list of samples to a batch; None stacks and pads.
    loss: ``(model, batch) -> scalar``, the mean over the batch; None: ``model_loss``.
    compute_metrics: ``(logits, labels) -> {name: number}`` over the whole evaluation set.
    callbacks: ``Callback`` objects, loggers among them.
    comm_hook: how gradients travel between workers; see ``resolve_comm_hook``.
    directory: of checkpoints; None writes none.
    device: None takes the current GPU, else the CPU.

    Raises InputError naming what is wrong with data or configuration.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        eval_dataset: Any = None,
        *,
        config: TrainingConfig | Mapping[str, Any] | None = None,
        collate: Collate | None = None,
        loss: Loss | None = None,
        compute_metrics: Metrics | None = None,
        callbacks: Iterable[Callback] = (),
        comm_hook: Callable[..., Any] | str | None = None,
        directory: str | Path | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"wanted a torch module, came {type(model).__name__}", field="model")
        self.config = c = TrainingConfig.read(config)
        self.train = as_source(train_dataset, collate, field="train_dataset")
        self.held_out = (
            None if eval_dataset is None else as_source(eval_dataset, collate, field="eval_dataset")
        )
        window = c.shuffle_window if isinstance(self.train, Stream) else None
        self.order = GlobalOrder(
            len(self.train), c.batch_size, seed=c.seed, shuffle=c.shuffle, window=window
        )
        self.total_steps = c.max_steps or c.epochs * self.order.steps_per_epoch
        self.workers = Workers.here(c, device)
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError("has no weights to train", field="model")
        self.coder = gradient_coder(c, comm_hook)
        self.wrapped = wrap(model, c, self.workers, self.coder or comm_hook)
        self.optimizer = make_optimizer(model, c)
        self.autocast, self.scaler = precision_of(c, self.workers.device)
        self.average = None if c.ema_decay is None else WeightAverage(model, c.ema_decay)
        self.loss_of, self.compute_metrics = loss or model_loss, compute_metrics
        self.callbacks = list(callbacks)
        if c.patience is not None:
            self.callbacks.append(EarlyStopping(c.patience, c.min_delta))
        self.directory = None if directory is None else Path(directory)
        if c.strategy == "fsdp":  # sharding puts other parameters in place of these
            self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.step, self.samples = 0, 0
        self.losses: list[float] = []
        self.evaluations: list[dict[str, Any]] = []
        self.memory: dict[str, Any] = {}
        self.meters = Meters()
        self.stopped: str | None = None
        self.last_checkpoint: Path | None = None
        self._pending: list[Tensor] = []
        self._next_meeting = 0

    def run(self, resume: bool | str | Path = False) -> TrainReport:
        """Train to the end; ``resume`` True goes on from the newest checkpoint of ``directory``,
        a path from that one.

        SIGTERM stores a checkpoint and ends the run. Raises SolverFailed where the loss is not a
        number, naming the step, and FormatError for a checkpoint that cannot be read.
        """
        began = time.perf_counter()
        resumed = self.restore(resume)
        startup = time.perf_counter() - began
        with draws_from(0), stop_on_sigterm(self.stop):
            for callback in self.callbacks:
                callback.on_start(self)
            self.model.train()
            self.meters.start()
            saved = self._steps()
            if self.held_out is not None and self._evaluated_at() != self.step:
                self.evaluate()
            if saved != self.step and self.directory is not None:
                self.save()
        report = self._report(resumed, startup)
        for source in (self.train, self.held_out):
            if isinstance(source, Stream):
                source.close()
        for callback in self.callbacks:
            callback.on_end(self, report)
        return report

    def stop(self, reason: str) -> None:
        """Ask for the end; the step under way is finished and a checkpoint written."""
        self.stopped = self.stopped or reason

    def _steps(self) -> int:
        """Steps to the end; returns the step of the last checkpoint, or -1."""
        c, saved = self.config, -1
        while self.step < self.total_steps and not self._ending():
            self.train_step()
            for callback in self.callbacks:
                callback.on_step(self)
            if self.step % c.log_every == 0 or self.step == self.total_steps:
                self._log()
            if c.eval_every and self.held_out is not None and self.step % c.eval_every == 0:
                self.evaluate()
            if c.save_every and self.directory is not None and self.step % c.save_every == 0:
                self.save()
                saved = self.step
        self._drain()
        return saved

    def _ending(self) -> bool:
        """Whether the run is to end; workers settle that, and what callbacks ask, together."""
        if self.step >= self._next_meeting or self.step % self.config.log_every == 0:
            asked, seconds = self.workers.most(
                float(self.stopped is not None), self.meters.recent_step_s()
            )
            if asked:
                self.stop("another worker asked for the end")
            self._next_meeting = self.step + (max(1, int(MEETING_S / seconds)) if seconds else 1)
            if not asked and self.step:
                for callback in self.callbacks:
                    callback.on_meeting(self)
            return self.stopped is not None
        return self.workers.world == 1 and self.stopped is not None

    def train_step(self) -> None:
        """One optimiser step on the next global batch."""
        begin = time.perf_counter()
        c = self.config
        chosen = self.order.batch(self.samples)
        if isinstance(self.train, Stream):
            self.train.passed(self.order.first_of_window(self.samples))
        mine = share(chosen, self.workers.data_rank, self.workers.data_world)
        seed = step_seed(c.seed, self.step, self.workers.data_rank)
        torch.manual_seed(seed)
        reseed(self.model, seed)
        batches = list(self._micro_batches(mine))
        total = self._total_weight([w for _, w in batches], len(chosen))
        read = time.perf_counter() - begin
        rate = learning_rate(self.step, self.total_steps, c)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._pending.append(self._backward(batches, total))
        norm = self._update()
        if self.average is not None:
            self.average.update()
        self.step, self.samples = self.step + 1, self.samples + len(chosen)
        self.meters.step(time.perf_counter() - begin, read, len(chosen), rate, norm)

    def _micro_batches(self, mine: Any) -> Iterator[tuple[Batch, int]]:
        if not len(mine):
            # Fewer samples than workers: take part in the exchange with nothing to say.
            yield self._read(np.zeros(1, dtype=np.int64)), 0
            return
        size = self.config.micro_batch_size or len(mine)
        for start in range(0, len(mine), size):
            rows = mine[start : start + size]
            batch = self._read(rows)
            yield batch, self._weight(batch, len(rows))

    def _read(self, rows: Any) -> Batch:
        device = self.workers.device
        batch = self.train.batch(rows)
        if device.type == "cpu":
            return batch
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def _weight(self, batch: Batch, rows: int) -> int:
        if self.train.labels_a_sample is not None:
            return rows * self.train.labels_a_sample
        weigh = getattr(self.model, "loss_weight", None)
        return rows if weigh is None or self.loss_of is not model_loss else int(weigh(batch))

    def _total_weight(self, weights: list[int], rows: int) -> float:
        if self.train.labels_a_sample is not None:
            return float(rows * self.train.labels_a_sample)
        if self.workers.world == 1:
            return float(max(1, sum(weights)))
        return max(1.0, float(self.workers.sum(torch.tensor(float(sum(weights)))).item()))

    def _backward(self, batches: list[tuple[Batch, int]], total: float) -> Tensor:
        """Gradients of the mean loss over the global batch; returns this worker's part of it."""
        value: Tensor | None = None
        # Workers' gradients are averaged, so each worker's part is scaled up by their number.
        scale_up = self.workers.data_world / total
        for index, (batch, weight) in enumerate(batches):
            with self._exchange(last=index == len(batches) - 1):
                with self._precision():
                    loss = self.loss_of(self.wrapped, batch)
                scaled = loss * (weight * scale_up)
                (scaled if self.scaler is None else self.scaler.scale(scaled)).backward()
            part = loss.detach().float() * (weight / total)
            value = part if value is None else value + part
        return cast(Tensor, value)

    def _exchange(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients travel once a step, with the last micro-batch."""
        if self.workers.world == 1:
            return contextlib.nullcontext()
        if isinstance(self.wrapped, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext() if last else self.wrapped.no_sync()
        cast(Any, self.wrapped).set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.workers.device.type, dtype=self.autocast)

    def _update(self) -> Tensor:
        """Clip and move the weights; returns the gradient's norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        largest = self.config.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, largest)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def _drain(self) -> None:
        """Turn waiting losses into numbers: one exchange and one wait for the device."""
        if not self._pending:
            return
        values = self.workers.sum(torch.stack(self._pending).double()).tolist()
        self._pending.clear()
        first = len(self.losses)
        self.losses += values
        for index, value in enumerate(values):
            if value != value and self.scaler is None:
                raise SolverFailed(
                    f"the loss of step {first + index + 1} is not a number: lower the learning "
                    "rate, clip the gradient or look at that step's data"
                )

    def _log(self) -> None:
        fresh = len(self._pending)
        self._drain()
        row = {"step": self.step, **self.meters.row(self.losses[-fresh:])}
        for callback in self.callbacks:
            callback.on_log(self, row)

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics over the held-out data, with averaged weights where there are any.

        Raises InputError where there are no held-out data.
        """
        if self.held_out is None:
            raise InputError("there are no data to evaluate on", field="eval_dataset")
        self._drain()
        if self.average is not None:
            self.average.swap()
        try:
            metrics = measure(self)
        finally:
            if self.average is not None:
                self.average.swap()
        self.evaluations.append({"step": self.step, **metrics})
        for callback in self.callbacks:
            callback.on_evaluate(self, metrics)
        return metrics

    def _evaluated_at(self) -> int:
        return int(self.evaluations[-1]["step"]) if self.evaluations else -1

    def save(self) -> Path | None:
        """Store a checkpoint; worker 0 writes and returns its path, the others None."""
        if self.directory is None:
            raise InputError("a checkpoint needs a directory", field="directory")
        self._drain()
        held = snapshot(self)
        path = None
        if self.workers.rank == 0:
            path = store.write(self.directory, held, keep=self.config.keep_checkpoints)
            self.last_checkpoint = path
        for callback in self.callbacks:
            callback.on_checkpoint(self, path)
        return path

    def restore(self, resume: bool | str | Path) -> int | None:
        """Go on from a checkpoint; returns its step, or None where there is none to go on from.

        Raises InputError where the checkpoint is of another seed, and FormatError where it cannot
        be read or is of another model.
        """
        if isinstance(resume, bool):
            if not resume or self.directory is None or store.latest(self.directory) is None:
                return None
            resume = self.directory
        return put_back(self, Path(resume))

    def _report(self, resumed: int | None, startup: float) -> TrainReport:
        ended = "all steps done" if self.step >= self.total_steps else self.stopped
        return TrainReport(
            steps=self.step,
            samples=self.samples,
            epochs=self.samples / self.order.size,
            workers=self.workers.world,
            losses=np.asarray(self.losses, dtype=np.float64),
            evaluations=tuple(self.evaluations),
            stopped=ended or "stopped",
            resumed_from=resumed,
            checkpoint=None if self.last_checkpoint is None else str(self.last_checkpoint),
            startup_s=startup,
            notes=() if self.coder is None else self.coder.notes(),
            **self.meters.summary(self.model, self.optimizer, self.workers.device),
        )


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss that ``model(**batch)`` gives: itself, its ``loss``, or its first element.

    Raises InputError where the model gives none, e.g. because the data have no labels.
    """
    out = model(**batch)
    loss = out if isinstance(out, Tensor) else getattr(out, "loss", None)
    if loss is None and isinstance(out, Mapping):
        loss = out.get("loss")
    if loss is None and isinstance(out, (tuple, list)) and out:
        loss = out[0]
    if not isinstance(loss, Tensor) or loss.dim():
        raise InputError(
            "the model gives no scalar loss; give samples with labels, or pass loss=...",
            field="model",
        )
    return loss
