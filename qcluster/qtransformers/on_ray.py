"""A run on the workers of Ray Train: the only file of the package that knows Ray.

It starts workers, hands each the model, the data and the configuration, gives every checkpoint to
Ray (which keeps it, and restarts from it when a worker or a node is lost), tells how far the
workers are, and brings the weights back.

Not known here: whether a cluster has the GPUs that it says it has, and how fast they are; nothing
about CUDA in this file was measured.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from qcluster.errors import InputError, SolverFailed
from qcluster.qtransformers import checkpoint as store
from qcluster.qtransformers.callbacks import Callback, Progress
from qcluster.qtransformers.loggers import make_logger
from qcluster.qtransformers.loop import TrainingLoop
from qcluster.qtransformers.stream import Stream
from qcluster.qtransformers.train_report import TrainReport
from qcluster.trainings import CLUSTER

__all__ = ["Asked", "NodeLeaves", "RayOptions", "train"]

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


@dataclass(frozen=True)
class Asked:
    """What a run is to have."""

    workers: Workers
    gpus: bool
    options: RayOptions
    keep: int
    """Checkpoints that are kept."""
    progress: bool


def train(
    work: Mapping[str, Any], asked: Asked, directory: Path | None, resume: str | Path | bool
) -> tuple[TrainReport, Mapping[str, Tensor]]:
    """Train on Ray's workers; the report and the trained weights.

    ``work``: what every worker gets, see ``_work``. Ray is the one that this process is connected
    to, else one of our own until the end. Raises SolverFailed where the workers fail too often.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        ray = stack.enter_context(_connected())
        place = directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="qcluster-train-"))
        )
        # A name of its own: Ray would go on from an older run of the same name by itself.
        run = place / f"ray-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09d}"
        run.mkdir(parents=True)
        if asked.progress:
            stack.enter_context(_followed(run / "progress"))
        rest = {"directory": str(place), "run": str(run), "progress": asked.progress,
                "resume": str(resume) if resume else None}  # fmt: skip
        streams = any(isinstance(work[name], Stream) for name in ("train", "eval"))
        result = _fit(ray.put({**work, **rest}), asked, run, streams)
        report, weights = _brought_back(result, run)
    seconds = time.perf_counter() - began
    return replace(report, startup_s=max(0.0, seconds - report.wall_s)), weights


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """Ray, started as the caller wants where it does not run yet."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        yield ray
        return
    start = CLUSTER.get()
    if start is not None:
        with start():
            yield importlib.import_module("ray")
        return
    ray = importlib.import_module("ray")
    ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _fit(work: Any, asked: Asked, run: Path, streams: bool) -> Any:
    """Run the workers to the end; their result as Ray Train gives it."""
    api, options = importlib.import_module("ray.train"), asked.options
    trainer = importlib.import_module("ray.train.torch").TorchTrainer(
        _work,
        train_loop_config={"work": [work]},
        scaling_config=api.ScalingConfig(
            num_workers=asked.workers,
            use_gpu=asked.gpus,
            resources_per_worker=_resources(asked, streams),
            elastic_resize_monitor_interval_s=options.resize_every_s,
        ),
        run_config=api.RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=api.FailureConfig(
                max_failures=options.max_failures,
                preemption_grace_s=options.preemption_grace_s,
            ),
            checkpoint_config=api.CheckpointConfig(num_to_keep=asked.keep),
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", **options.env}},
            logging_config=api.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        return trainer.fit()
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, InputError):
            raise cause from error
        text = str(cause).strip().splitlines()
        told = f"{type(cause).__name__}: {text[-1] if text else ''}"
        raise SolverFailed(f"training on Ray failed: {told}") from error


def _resources(asked: Asked, streams: bool) -> dict[str, float] | None:
    """Of one worker. Where data stream, a CPU must be left for Ray Data, or both wait for ever."""
    if asked.options.resources is not None:
        return dict(asked.options.resources)
    if not streams or asked.gpus:
        return None
    cpus = float(importlib.import_module("ray").cluster_resources().get("CPU", 1.0))
    most = asked.workers if isinstance(asked.workers, int) else asked.workers[1]
    left = (cpus - 1.0) / most
    return None if left >= 1 else {"CPU": max(0.01, math.floor(100 * left) / 100)}


def _brought_back(result: Any, run: Path) -> tuple[TrainReport, Mapping[str, Tensor]]:
    told = run / "report.json"
    if result.checkpoint is None or not told.exists():
        raise SolverFailed("the workers ended without a checkpoint")
    path = Path(result.checkpoint.path)
    report = TrainReport.from_dict(json.loads(told.read_text()))
    return replace(report, checkpoint=str(path)), store.read(path).parts["model"]


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
            callbacks.append(_Tell(Path(work["run"], "progress")))
        loop = TrainingLoop(
            work["model"], work["train"], work["eval"], config=work["config"],
            callbacks=callbacks, directory=scratch, device=device, **work["options"],
        )  # fmt: skip
        report = loop.run(_resume(train.get_checkpoint(), work["resume"], Path(scratch)))
    if rank == 0:
        Path(work["run"], "report.json").write_text(json.dumps(report.to_dict()))


def _resume(checkpoint: Any, asked: str | None, scratch: Path) -> str | bool:
    """Ray's own checkpoint of this run first, then the one that the user asked for."""
    if checkpoint is None:
        return asked or False
    target = scratch / "resumed"
    checkpoint.to_directory(str(target))
    return str(target)


class _Tell(Progress):
    """Leaves the progress line in a file, where the process that started the run looks."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def show(self, text: str) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self.path)


@contextlib.contextmanager
def _followed(path: Path) -> Iterator[None]:
    """Show what is in a progress file, while inside, as a run in this process would."""
    shown, ended = Progress(), threading.Event()

    def follow() -> None:
        last = ""
        while True:
            final = ended.wait(0.5)
            with contextlib.suppress(OSError):
                text = path.read_text()
                if text and text != last:
                    shown.show(text)
                    last = text
            if final:
                shown.end()
                return

    watcher = threading.Thread(target=follow, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
