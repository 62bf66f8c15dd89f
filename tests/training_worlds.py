"""Child processes for tests of training: forked from one process that has torch already."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcluster.qtransformers.callbacks import Callback
from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loggers import CSVLogger
from qcluster.qtransformers.loop import TrainingLoop
from qcluster.qtransformers.model import ScalableQuantumTransformer

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.distributed.tensor", "torch._dynamo",
     "qcluster.qtransformers.loop", "qcluster.qtransformers.model"]
)  # fmt: skip


def tiny(**fields: Any) -> ScalableQuantumTransformer:
    """A decoder small enough that a step takes a few milliseconds; dropout is on."""
    torch.manual_seed(7)
    base = {"vocab_size": 17, "d_model": 16, "nhead": 2, "num_decoder_layers": 1, "dropout": 0.2}
    return ScalableQuantumTransformer({**base, "max_length": 16, **fields})


def text(tokens: int = 600) -> Tensor:
    return torch.randint(0, 17, (tokens,), generator=torch.Generator().manual_seed(1))


class Recorded(TokenWindows):
    """Windows that note which samples were read, in order."""

    def __init__(self, tokens: Tensor, length: int) -> None:
        super().__init__(tokens, length)
        self.read: list[list[int]] = []

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        self.read.append(indices.tolist())
        return super().batch(indices)


class StopAt(Callback):
    """Ends a run after a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def on_step(self, loop: TrainingLoop) -> None:
        if loop.step == self.at:
            loop.stop("as the test wants")


class Tick(Callback):
    """Tells the parent each step through a pipe."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def on_step(self, loop: TrainingLoop) -> None:
        self.pipe.send(loop.step)


CONFIG: Mapping[str, Any] = {
    "max_steps": 40, "batch_size": 6, "micro_batch_size": 4, "learning_rate": 0.01,
    "warmup_steps": 4, "ema_decay": 0.9, "eval_every": 8, "save_every": 3, "log_every": 2,
}  # fmt: skip


def train_here(directory: Path, pipe: Any = None) -> Any:
    """The run that gets killed, or goes on after a kill, or is never killed."""
    torch.set_num_threads(1)
    callbacks: list[Callback] = [CSVLogger(directory)]
    if pipe is not None:
        callbacks.append(Tick(pipe))
    loop = TrainingLoop(
        tiny(), TokenWindows(text(), 8), TokenWindows(text(200), 8), config=CONFIG,
        callbacks=callbacks, directory=directory / "checkpoints",
    )  # fmt: skip
    return loop.run(resume=True)


def train_and_tell(directory: str, pipe: Any) -> None:
    """Body of a child process."""
    train_here(Path(directory), pipe)
    pipe.send("done")


def _member(rank: int, world: int, meeting: str, out: str, body: str, options: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
        )
    try:
        result = globals()[body](rank, **options)
        (Path(out) / f"{rank}.json").write_text(json.dumps(result))
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


def in_world(world: int, body: str, **options: Any) -> list[Any]:
    """Run ``body(rank, **options)`` of this module on ``world`` gloo workers; their results."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as scratch:
        members = [
            CONTEXT.Process(
                target=_member,
                args=(rank, world, f"{scratch}/meeting", scratch, body, options),
            )
            for rank in range(world)
        ]
        for member in members:
            member.start()
        for member in members:
            member.join(300)
            if member.is_alive():
                member.kill()
        assert [member.exitcode for member in members] == [0] * world
        return [json.loads((Path(scratch) / f"{r}.json").read_text()) for r in range(world)]


def train_some(rank: int, directory: str, stop: int, **changes: Any) -> dict[str, Any]:
    """Go on up to step ``stop``; what was read in each step and the losses."""
    data = Recorded(text(), 8)
    loop = TrainingLoop(
        tiny(dropout=0.0), data,
        config={**CONFIG, "micro_batch_size": None, "eval_every": None, **changes},
        callbacks=[StopAt(stop)], directory=directory,
    )  # fmt: skip
    report = loop.run(resume=True)
    state = {name: value.double().sum().item() for name, value in _whole(loop).items()}
    return {"read": data.read, "losses": report.losses.tolist(), "weights": state}


def _whole(loop: TrainingLoop) -> dict[str, Tensor]:
    from qcluster.qtransformers.checkpoint import full

    return {name: full(value) for name, value in loop.model.state_dict().items()}


def draws(rank: int, tensor_ranks: int) -> list[str]:
    """A hash of the random numbers that a forward pass on this worker sees in each step."""
    import hashlib

    seen: list[str] = []

    def loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        drawn = torch.rand(64).numpy().tobytes() + batch["input_ids"].numpy().tobytes()
        seen.append(hashlib.sha256(drawn).hexdigest())
        return model(**batch).loss

    config = {"max_steps": 3, "batch_size": 8, "log_every": 1, "tensor_ranks": tensor_ranks}
    TrainingLoop(tiny(dropout=0.0), TokenWindows(text(), 8), config=config, loss=loss).run()
    return seen


def double_gradients(state: Any, bucket: Any) -> Any:
    """A communication hook that can be seen: the averaged gradient, times two."""
    tensor = bucket.buffer().div_(torch.distributed.get_world_size())
    work = torch.distributed.all_reduce(tensor, async_op=True)
    return work.get_future().then(lambda done: done.value()[0] * 2)


def one_sgd_step(rank: int, comm_hook: str | None) -> float:
    model = tiny(dropout=0.0)
    before = model.token.weight.detach().clone()
    config = {
        "max_steps": 1, "batch_size": 8, "optimizer": "sgd", "clip_norm": None, "momentum": 0.0,
        "weight_decay": 0.0, "schedule": "constant",
    }  # fmt: skip
    TrainingLoop(model, TokenWindows(text(), 8), config=config, comm_hook=comm_hook).run()
    return float((model.token.weight.detach() - before).norm())


def train_coded(rank: int, directory: str, stop: int, **changes: Any) -> dict[str, Any]:
    """As ``train_some`` with coded gradients; also what was sent."""
    loop = TrainingLoop(
        tiny(dropout=0.0), TokenWindows(text(), 8),
        config={**CONFIG, "micro_batch_size": None, "eval_every": None, **changes},
        callbacks=[StopAt(stop)], directory=directory,
    )  # fmt: skip
    report = loop.run(resume=True)
    state = {name: value.double().sum().item() for name, value in _whole(loop).items()}
    sent, plain = loop.coder.state.sent_bytes, loop.coder.state.plain_bytes
    return {"losses": report.losses.tolist(), "weights": state, "sent": sent, "plain": plain}
