"""The worker's place among others, and the few collective calls that training needs.

Every function has a meaning for one worker alone, so the loop has no second path. Nothing here
starts a process group: whoever starts workers (Ray Train, torchrun, a test) has done that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from qcluster.errors import InputError
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.registry import Registry

__all__ = ["COMM_HOOKS", "Workers", "resolve_comm_hook", "wrap"]

COMM_HOOKS: Registry[Any] = Registry("communication hook", "qcluster.comm_hooks")
"""Names of DDP communication hooks; others are given as ``module:function``."""
COMM_HOOKS.register("compressed", "qcluster.q_compressor.ddp:CompressedGradients")


@dataclass(frozen=True)
class Workers:
    """Which worker this is. ``data_rank`` of ``data_world``: its share of each batch."""

    rank: int
    world: int
    device: torch.device
    tensor_ranks: int = 1

    @classmethod
    def here(cls, config: TrainingConfig, device: torch.device | None = None) -> Workers:
        """This process, as its process group says.

        Raises InputError where tensor groups do not divide the workers.
        """
        live = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if live else 0
        world = torch.distributed.get_world_size() if live else 1
        if world % config.tensor_ranks:
            raise InputError(
                f"{world} workers are no multiple of {config.tensor_ranks}", field="tensor_ranks"
            )
        if device is None:
            cuda = torch.cuda.is_available()
            device = torch.device("cuda", torch.cuda.current_device()) if cuda else None
        return cls(rank, world, device or torch.device("cpu"), config.tensor_ranks)

    @property
    def data_rank(self) -> int:
        """Place among the groups that see different data."""
        return self.rank // self.tensor_ranks

    @property
    def data_world(self) -> int:
        """Groups that see different data."""
        return self.world // self.tensor_ranks

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all workers, divided by the size of a tensor group (its members agree)."""
        if self.world == 1:
            return value
        value = value.to(self.device)
        torch.distributed.all_reduce(value)
        return value / self.tensor_ranks

    def most(self, *values: float) -> list[float]:
        """The largest of everybody's value, for each value."""
        if self.world == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return cast(list[float], found.tolist())

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, one a data group, in order of rank."""
        if self.world == 1:
            return [value]
        return self.everybody(value)[:: self.tensor_ranks]

    def everybody(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def barrier(self) -> None:
        """Wait for everybody."""
        if self.world > 1:
            torch.distributed.barrier()


def gradient_coder(config: TrainingConfig, comm_hook: Any = None) -> Any:
    """The hook that codes gradients as ``config.compression`` says, or None.

    Raises InputError naming the option that is wrong.
    """
    if config.compression is None:
        return None
    if config.strategy == "fsdp":
        raise InputError("sharded training sends no coded gradients", field="config.compression")
    if comm_hook is not None:
        raise InputError("gradients are coded or go through comm_hook", field="config.compression")
    # Adam's metric is no use to SGD, which needs what rounding took to come back.
    plain = {"metric": "plain", "feedback": 1.0} if config.optimizer == "sgd" else {}
    try:
        return resolve_comm_hook("compressed")({**plain, **config.compression})
    except InputError as error:
        field = str(error.field).removeprefix("config.")
        raise InputError(error.message, field=f"config.compression.{field}") from None


def wrap(
    model: nn.Module, config: TrainingConfig, workers: Workers, comm_hook: Any = None
) -> nn.Module:
    """The model as several workers train it: copies (DDP) or shards (FSDP).

    ``comm_hook``: see ``resolve_comm_hook``. Raises InputError for a hook with sharded weights.
    """
    model.to(workers.device)
    if workers.world == 1:
        return model
    if config.strategy == "fsdp":
        if comm_hook is not None:
            raise InputError("sharded training takes no communication hook", field="comm_hook")
        return _shard(model)
    cuda = workers.device.type == "cuda"
    copies = nn.parallel.DistributedDataParallel(
        model, device_ids=[workers.device] if cuda else None, gradient_as_bucket_view=True
    )
    hook = resolve_comm_hook(comm_hook)
    if hasattr(hook, "register"):
        hook.register(copies)
    elif hook is not None:
        copies.register_comm_hook(None, _without_annotations(hook))
    return copies


def resolve_comm_hook(hook: Callable[..., Any] | str | None) -> Any:
    """A DDP communication hook: a callable ``(state, bucket) -> Future``, an object with
    ``register(ddp)``, a name in ``COMM_HOOKS``, or ``module:function``.

    Raises InputError where the text leads to nothing.
    """
    if not isinstance(hook, str):
        return hook
    if ":" not in hook:
        found = COMM_HOOKS.get(hook)
        return resolve_comm_hook(found) if isinstance(found, str) and ":" in found else found
    module, _, name = hook.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"'{hook}' cannot be loaded: {error}", field="comm_hook") from None


def _without_annotations(hook: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch compares a hook's annotations with types, and in most modules they are text."""

    def call(state, bucket):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return hook(state, bucket)

    return call


def _shard(model: nn.Module) -> nn.Module:
    """Shard every block, then the rest (fully sharded data parallel, Zhao et al. 2023)."""
    from torch.distributed.fsdp import fully_shard

    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block)
    fully_shard(model)
    return model
