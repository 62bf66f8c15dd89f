"""One rank of the training in ddp.py: RANK MEETING WAY SEED STEPS RATE; prints one JSON line."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from training_parts.plain import bits_per_character, make_model
from training_parts.shakespeare import RECIPE, tensor, texts

from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loop import TrainingLoop

RANKS = 2


class Counted:
    """What goes through ``all_reduce`` while it is in place, as a ring sends it."""

    def __init__(self) -> None:
        self.sent = 0
        self.plain = dist.all_reduce

    def __call__(self, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.sent += 2 * (RANKS - 1) * value.numel() * value.element_size() // RANKS
        return self.plain(value, *args, **kwargs)


class PowerSGD:
    """PyTorch's own hook (Vogels and others, 2019) with error feedback and warm start."""

    def __init__(self, rank: int) -> None:
        self.counted = Counted()
        self.state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=rank, start_powerSGD_iter=4, min_compression_rate=1
        )

    def register(self, model: Any) -> None:
        def hook(state, bucket):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            dist.all_reduce = self.counted
            try:
                future = powerSGD_hook.powerSGD_hook(state, bucket)
                # Buckets one by one: gloo mixes up what two of them add up at a time.
                future.wait()
                return future
            finally:
                dist.all_reduce = self.counted.plain

        model.register_comm_hook(self.state, hook)


def main(rank: int, meeting: str, way: str, seed: int, steps: int, rate: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    text, held_out = (tensor(part) for part in texts())
    config = {k: v for k, v in RECIPE.items() if k != "length"}
    config |= {"seed": seed, "log_every": 50, "max_steps": steps, "learning_rate": rate}
    power = PowerSGD(int(way.split("-")[1])) if way.startswith("powersgd") else None
    if way == "coded":
        config["compression"] = {}
    length = int(RECIPE["length"])
    loop = TrainingLoop(make_model(seed), TokenWindows(text, length, stride=1), config=config,
                        comm_hook=power)  # fmt: skip
    start = time.process_time()
    loop.run()
    spent = time.process_time() - start
    plain = steps * 4 * sum(p.numel() for p in loop.parameters)
    sent = plain
    if power is not None:
        sent = power.counted.sent
    elif loop.coder is not None:
        sent = loop.coder.state.sent_bytes
    if rank == 0:
        loss = bits_per_character(loop.model, held_out, length) * math.log(2)
        print(json.dumps({"loss": loss, "plain": plain, "sent": sent, "cpu_s": spent}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:6]), float(sys.argv[6]))
