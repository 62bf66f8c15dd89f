"""A communication hook for DistributedDataParallel: every rank's gradient, coded, to all others.

A bucket is one blob: a checksum, four bytes a tensor and the levels. All blobs are gathered, each
rank decodes the others' and all add up in order of rank, so all ranks step alike. Everything is
remembered by parameter, so DDP may rebuild its buckets, and a run may be resumed.
Importing this loads torch, which looks at the hook's annotations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from qcluster.q_compressor.gradients import GradientCoder, GradientConfig

__all__ = ["CompressedGradients", "HookState", "compression_hook"]

F32 = NDArray[np.float32]


@dataclass
class HookState:
    """What the hook remembers between steps; it can be pickled for a resume.

    Parameters
    ----------
    process_group: of torch.distributed; None is the default one.
    config: a ``GradientConfig``, its fields, or None.
    names: of parameters by ``id``, so that what is remembered survives new objects.
    """

    process_group: Any = None
    config: Any = None
    names: dict[int, str] = field(default_factory=dict)
    step: int = 0
    sent_bytes: int = 0
    """What this rank sent: blobs with what pads them, lengths, and plain gradients at first."""
    plain_bytes: int = 0
    """What it would have sent in a ring that adds up plain gradients."""
    coder: GradientCoder = field(init=False)

    def __post_init__(self) -> None:
        self.config = GradientConfig.read(self.config)
        self.coder = GradientCoder(self.config)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": None, "names": {}}


class CompressedGradients:
    """What ``wrap`` of a training loop registers: the hook, and its memory for checkpoints."""

    def __init__(self, config: Mapping[str, Any] | GradientConfig | None = None) -> None:
        self.state = HookState(config=config)

    def register(self, model: Any) -> None:
        """Put the hook on a DistributedDataParallel model."""
        self.state.names = {id(p): name for name, p in model.module.named_parameters()}
        model.register_comm_hook(self.state, compression_hook)

    def notes(self) -> tuple[str, ...]:
        """How much less was sent, in words."""
        if not self.state.sent_bytes:
            return ("one worker alone sends no gradients: compression had nothing to do",)
        ratio = self.state.plain_bytes / self.state.sent_bytes
        return (
            f"gradients took {self.state.sent_bytes} bytes, {ratio:.1f} times fewer than plain",
        )

    def snapshot(
        self, gather: Callable[[Any], list[Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON for a checkpoint; ``gather`` gives every rank's value in order."""
        shared, own = self.state.coder.state()
        everybody = gather(own)
        tensors = {f"square/{name}": torch.from_numpy(value) for name, value in shared.items()}
        told: list[dict[str, Any]] = []
        for rank, known in enumerate(everybody):
            told.append({name: [m["seen"], m["step"]] for name, m in known.items()})
            for name, m in known.items():
                if m["error"] is not None:
                    tensors[f"error-{rank}/{name}"] = torch.from_numpy(m["error"])
        return tensors, {"step": self.state.step, "ranks": told}

    def put_back(
        self, tensors: Mapping[str, torch.Tensor], told: Mapping[str, Any], rank: int, ranks: int
    ) -> None:
        """Go on from ``snapshot``. On another number of ranks each takes the mean of what was owed,
        so that in the mean over ranks nothing of it is lost.
        """
        self.state.step = int(told["step"])
        shared = {name.removeprefix("square/"): value.numpy()
                  for name, value in tensors.items() if name.startswith("square/")}  # fmt: skip
        same = len(told["ranks"]) == ranks
        known = told["ranks"][rank if same else 0]
        own = {}
        for name, (seen, step) in known.items():
            debtors = [rank] if same else range(len(told["ranks"]))
            keys = [f"error-{r}/{name}" for r in debtors]
            owed = [tensors[key].numpy() for key in keys if key in tensors]
            mean = np.mean(owed, axis=0, dtype=np.float32) if owed else None
            own[name] = {"seen": seen, "step": step, "error": mean}
        self.state.coder.put_back(shared, own)


def compression_hook(
    state: HookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """For ``model.register_comm_hook(HookState(), compression_hook)``; a future of the mean."""
    group = state.process_group or dist.group.WORLD
    ranks = dist.get_world_size(group)
    flat = bucket.buffer()
    # In a ring each rank sends 2 (n - 1) / n of what is added up.
    ring = 2 * (ranks - 1) * flat.numel() * flat.element_size() // ranks
    state.plain_bytes += ring
    step = state.step
    if bucket.is_last():
        state.step += 1
    names = _names(state, bucket)
    if step < state.config.start_step:
        state.sent_bytes += ring
        dist.all_reduce(flat.div_(ranks), group=group)
        state.coder.learn(_by_name(names, bucket))
        return _done(flat)
    gradients = _by_name(names, bucket)
    blob, mine = state.coder.encode(gradients)
    blobs, carried = _gathered(blob, ranks, group, flat.device)
    state.sent_bytes += (ranks - 1) * carried
    shapes = {name: g.shape for name, g in gradients.items()}
    here = dist.get_rank(group)
    parts = [mine if r == here else state.coder.decode(b, shapes) for r, b in enumerate(blobs)]
    means = {}
    for name in gradients:
        total = parts[0][name]
        for part in parts[1:]:
            total = total + part[name]
        means[name] = total / np.float32(ranks)
    state.coder.learn(means)
    flat.copy_(torch.from_numpy(np.concatenate([m.ravel() for m in means.values()])))
    return _done(flat)


def _names(state: HookState, bucket: Any) -> list[str]:
    parameters = bucket.parameters()
    for parameter in parameters:
        state.names.setdefault(id(parameter), f"#{len(state.names)}")
    return [state.names[id(parameter)] for parameter in parameters]


def _by_name(names: list[str], bucket: Any) -> dict[str, F32]:
    tensors = [tensor.detach().cpu().float().numpy() for tensor in bucket.gradients()]
    return dict(zip(names, tensors, strict=True))


def _done(flat: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(flat)
    return future


def _gathered(blob: bytes, ranks: int, group: Any, device: torch.device) -> tuple[list[bytes], int]:
    """Every rank's blob, in order of rank, and the bytes that one rank's took."""
    at = device if dist.get_backend(group) == "nccl" else torch.device("cpu")
    mine = torch.tensor([len(blob)], dtype=torch.int32, device=at)
    lengths = [torch.zeros_like(mine) for _ in range(ranks)]
    dist.all_gather(lengths, mine, group=group)
    sizes = [int(n) for n in lengths]
    longest = max(sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(blob)] = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
    padded = padded.to(at)
    blobs = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(blobs, padded, group=group)
    found = [b[:n].cpu().numpy().tobytes() for b, n in zip(blobs, sizes, strict=True)]
    return found, longest + 4
