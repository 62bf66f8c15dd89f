"""``QuantumTrainer``: the loop in this process, or on the workers of Ray Train.

The only file of the package that knows Ray. It starts workers, hands each the model, the data and
the configuration, gives every checkpoint to Ray (which keeps it, and restarts from it when a worker
or a node is lost), and brings the weights back.

Not known here: whether a cluster has the GPUs that it says it has, and how fast they are; nothing
about CUDA in this file was measured.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from qcluster.errors import InputError, SolverFailed
from qcluster.qtransformers import checkpoint as store
from qcluster.qtransformers.callbacks import Callback, Progress
from qcluster.qtransformers.data import Collate, Items, as_source
from qcluster.qtransformers.loggers import make_logger
from qcluster.qtransformers.loop import Loss, TrainingLoop
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.qtransformers.train_report import TrainReport
from qcluster.qtransformers.validation import Metrics
from qcluster.qtransformers.workers import gradient_coder

__all__ = ["QuantumTrainer", "RayOptions"]

log = logging.getLogger(__name__)

Workers = int | tuple[int, int]


@dataclass(frozen=True)
class RayOptions:
    """What Ray Train is asked for."""

    max_failures: int = 3
    """Lost workers that a run recovers from."""
    resize_every_s: float = 60.0
    """How often an elastic run looks for more workers."""
    resources: Mapping[str, float] | None = None
    """Of one worker; None: one CPU, or one GPU where there are any."""
    preemption_grace_s: float = 0.0
    """Time for survivors after a node's announced end."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the workers."""


class QuantumTrainer:
    """Trains a model, on one process or on many.

    Parameters
    ----------
    model: any module that gives a loss for a batch, e.g. ``ScalableQuantumTransformer``.
    train_dataset, eval_dataset: a torch data set, columns, a list, token windows, Ray Data.
    multi_gpu: train on all GPUs of the cluster; without GPUs on CPU workers, and it says so.
    mixed_precision: True takes bfloat16 where the device has it, else float16.
    num_workers: workers of Ray Train, or ``(least, most)`` for an elastic run; None: one process
        here without Ray, or with ``multi_gpu`` as many as there are GPUs, else CPUs up to two.
    config: a ``TrainingConfig`` or its fields; further fields may be given as keywords.
    directory: of checkpoints and logs; on several machines it is shared storage. None: nothing is
        kept but the weights in the model.
    loggers: of ``csv``, ``tensorboard``, ``mlflow``.
    comm_hook: how gradients travel; see ``workers.resolve_comm_hook``.
    progress: a line on stderr.
    collate, loss, compute_metrics, callbacks: as in ``TrainingLoop``.

    ``notes`` says what was asked for and is done otherwise. Raises InputError naming what is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        eval_dataset: Any = None,
        *,
        multi_gpu: bool = False,
        mixed_precision: bool | str = False,
        num_workers: Workers | None = None,
        config: TrainingConfig | Mapping[str, Any] | None = None,
        directory: str | Path | None = None,
        loggers: Iterable[str] = (),
        collate: Collate | None = None,
        loss: Loss | None = None,
        compute_metrics: Metrics | None = None,
        callbacks: Iterable[Callback] = (),
        comm_hook: Callable[..., Any] | str | None = None,
        progress: bool = False,
        ray: RayOptions | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"wanted a torch module, came {type(model).__name__}", field="model")
        given = dict(config) if config is not None else {}
        if mixed_precision is not False:
            given["mixed_precision"] = "auto" if mixed_precision is True else mixed_precision
        self.config = TrainingConfig.read({**given, **fields})
        self.model = model
        self.train_dataset = as_source(train_dataset, collate, field="train_dataset")
        self.eval_dataset = (
            None if eval_dataset is None else as_source(eval_dataset, collate, field="eval_dataset")
        )
        _masked_labels(model, self.train_dataset, self.eval_dataset)
        self.options = {
            "loss": loss, "compute_metrics": compute_metrics, "comm_hook": comm_hook,
        }  # fmt: skip
        gradient_coder(self.config, comm_hook)
        self.callbacks, self.loggers = list(callbacks), tuple(loggers)
        self.progress, self.ray = progress, ray or RayOptions()
        self.notes: list[str] = []
        self.directory = None if directory is None else Path(directory).resolve()
        self.num_workers, self.gpus = self._workers(multi_gpu, num_workers)
        for name in self.loggers:
            make_logger(name, self.directory or ".")
        if self.loggers and self.directory is None:
            raise InputError("loggers need one to write to", field="directory")
        self.report: TrainReport | None = None

    def train(self, resume_from_checkpoint: bool | str | Path = False) -> TrainReport:
        """Train; the model of this object has the trained weights afterwards.

        ``resume_from_checkpoint`` True goes on from the newest checkpoint of ``directory``. Raises
        SolverFailed where the loss is not a number or Ray's workers fail too often.
        """
        if self.num_workers is None:
            self.report = self._train_here(resume_from_checkpoint)
        else:
            self.report = self._train_on_ray(resume_from_checkpoint)
        return self.report

    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the present weights, in this process."""
        return self._loop([]).evaluate()

    def _workers(self, multi_gpu: bool, asked: Workers | None) -> tuple[Workers | None, bool]:
        if isinstance(asked, bool) or (asked is not None and min(_pair(asked)) < 1):
            raise InputError(f"wanted 1 or more, came {asked}", field="num_workers")
        if asked is not None and _pair(asked)[0] > _pair(asked)[1]:
            raise InputError(f"the least of {asked} is above the most", field="num_workers")
        gpus = _gpus_in_reach() if (multi_gpu or asked is not None) else 0
        if not multi_gpu:
            return asked, gpus > 0
        if gpus:
            return asked or gpus, True
        count = asked or min(2, os.cpu_count() or 1)
        note = f"multi_gpu was asked for and there is no GPU: training on CPU workers ({count})"
        self.notes.append(note)
        log.warning(note)
        return count, False

    def _loop(self, callbacks: Iterable[Callback]) -> TrainingLoop:
        return TrainingLoop(
            self.model,
            self.train_dataset,
            self.eval_dataset,
            config=self.config,
            callbacks=callbacks,
            directory=None if self.directory is None else self.directory / "checkpoints",
            **cast(Any, self.options),
        )

    def _train_here(self, resume: bool | str | Path) -> TrainReport:
        report = self._loop(self._callbacks()).run(self._resume_from(resume))
        return replace(report, notes=tuple(self.notes))

    def _resume_from(self, asked: bool | str | Path) -> str | Path | bool:
        if asked is not True:
            return asked
        return False if self.directory is None else _newest(self.directory) or False

    def _callbacks(self) -> list[Callback]:
        place = self.directory or Path()
        found = [*self.callbacks, *(make_logger(name, place) for name in self.loggers)]
        return [*found, Progress()] if self.progress else found

    def _train_on_ray(self, resume: bool | str | Path) -> TrainReport:
        ray = importlib.import_module("ray")
        began, own = time.perf_counter(), not ray.is_initialized()
        if own:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        try:
            with contextlib.ExitStack() as stack:
                place = self.directory or Path(
                    stack.enter_context(tempfile.TemporaryDirectory(prefix="qcluster-train-"))
                )
                # A name of its own: Ray would go on from an older run of the same name by itself.
                run = place / f"ray-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
                result = self._fit(ray, run, self._resume_from(resume))
                report = self._bring_back(result, run)
        finally:
            if own:
                ray.shutdown()
        seconds = time.perf_counter() - began
        return replace(report, startup_s=max(0.0, seconds - report.wall_s))

    def _fit(self, ray: Any, run: Path, resume: str | Path | bool) -> Any:
        """Run the workers to the end; their result as Ray Train gives it."""
        train = importlib.import_module("ray.train")
        work = ray.put(
            {
                "model": self.model, "train": self.train_dataset, "eval": self.eval_dataset,
                "config": self.config.model_dump(), "options": self.options,
                "callbacks": self.callbacks, "loggers": self.loggers,
                "directory": str(run.parent), "report": str(run / "report.json"),
                "progress": self.progress, "resume": str(resume) if resume else None,
            }
        )  # fmt: skip
        resources = None if self.ray.resources is None else dict(self.ray.resources)
        trainer = importlib.import_module("ray.train.torch").TorchTrainer(
            _work,
            train_loop_config={"work": [work]},
            scaling_config=train.ScalingConfig(
                num_workers=self.num_workers,
                use_gpu=self.gpus,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=self.ray.resize_every_s,
            ),
            run_config=train.RunConfig(
                name=run.name,
                storage_path=str(run.parent),
                failure_config=train.FailureConfig(
                    max_failures=self.ray.max_failures,
                    preemption_grace_s=self.ray.preemption_grace_s,
                ),
                checkpoint_config=train.CheckpointConfig(num_to_keep=self.config.keep_checkpoints),
                worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **self.ray.env}},
                logging_config=train.LoggingConfig(log_level="WARNING"),
            ),
        )
        try:
            return trainer.fit()
        except Exception as error:
            raise SolverFailed(f"training on Ray failed: {_innermost(error)}") from error

    def _bring_back(self, result: Any, run: Path) -> TrainReport:
        told = run / "report.json"
        if result.checkpoint is None or not told.exists():
            raise SolverFailed("the workers ended without a checkpoint")
        path = Path(result.checkpoint.path)
        store.restore_model(self.model, store.read(path).parts["model"], path)
        report = TrainReport.from_dict(json.loads(told.read_text()))
        kept = None if self.directory is None else str(path)
        return replace(report, notes=tuple(self.notes), checkpoint=kept)


class NodeLeaves(RuntimeError):
    """Ends the workers of a node that was announced to go; Ray Train starts them elsewhere."""


class _ToRay(Callback):
    """Gives checkpoints to Ray Train, and stores one when a node's end is announced."""

    def __init__(self) -> None:
        self.train = importlib.import_module("ray.train")

    def on_meeting(self, loop: TrainingLoop) -> None:
        if self.train.get_preemption_info() is not None:
            # Steps after this checkpoint would be made twice, so the workers end here.
            loop.save()
            raise NodeLeaves(f"a node is announced to go, step {loop.step} is stored")

    def on_checkpoint(self, loop: TrainingLoop, path: Path | None) -> None:
        metrics = {"step": loop.step, "loss": loop.losses[-1] if loop.losses else None}
        held = None if path is None else self.train.Checkpoint.from_directory(str(path))
        self.train.report(metrics, checkpoint=held)


def _work(config: Mapping[str, Any]) -> None:
    """What every worker runs, after every start and restart."""
    ray, train = importlib.import_module("ray"), importlib.import_module("ray.train")
    work = ray.get(config["work"][0])
    rank = train.get_context().get_world_rank()
    device = importlib.import_module("ray.train.torch").get_device()
    directory = Path(work["directory"])
    with tempfile.TemporaryDirectory(prefix="qcluster-worker-") as scratch:
        callbacks = [*work["callbacks"], _ToRay()]
        callbacks += [make_logger(name, directory) for name in work["loggers"]]
        if work["progress"]:
            callbacks.append(Progress())
        loop = TrainingLoop(
            work["model"], work["train"], work["eval"], config=work["config"],
            callbacks=callbacks, directory=scratch, device=device, **work["options"],
        )  # fmt: skip
        report = loop.run(_resume(train.get_checkpoint(), work["resume"], Path(scratch)))
    if rank == 0:
        target = Path(work["report"])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report.to_dict()))


def _resume(checkpoint: Any, asked: str | None, scratch: Path) -> str | bool:
    """Ray's own checkpoint of this run first, then the one that the user asked for."""
    if checkpoint is None:
        return asked or False
    target = scratch / "resumed"
    checkpoint.to_directory(str(target))
    return str(target)


def _newest(directory: Path) -> str | None:
    """The checkpoint with most steps, of runs in one process and of runs on Ray."""
    found = [*directory.glob("checkpoints/step-*"), *directory.glob("ray-*/checkpoint_*")]
    whole = [path for path in found if (path / "state.json").exists()]
    if not whole:
        return None
    newest = max(whole, key=lambda p: json.loads((p / "state.json").read_text())["step"])
    return str(newest)


def _pair(workers: Workers) -> tuple[int, int]:
    return (workers, workers) if isinstance(workers, int) else workers


def _gpus_in_reach() -> int:
    """GPUs of the Ray cluster this process is connected to, else of this machine."""
    import torch

    ray = importlib.import_module("ray")
    if ray.is_initialized():
        return int(ray.cluster_resources().get("GPU", 0))
    return torch.cuda.device_count()


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1] if text else ''}"


def _masked_labels(model: nn.Module, *sources: Any) -> None:
    """An encoder that is given token ids alone learns to fill in masked ones."""
    config = getattr(model, "config", None)
    if getattr(config, "kind", None) != "encoder" or getattr(config, "head", None) != "lm":
        return
    for source in sources:
        if isinstance(source, Items) and source.collate.__name__ == "join" and len(source):
            first = source.items[0]
            if isinstance(first, Tensor):
                from qcluster.qtransformers.masking import mask_tokens

                source.collate = mask_tokens(cast(Any, config))
