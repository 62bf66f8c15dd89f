"""Two workers against one: throughput a worker, one thread each, without Ray's start-up.

Also in CPU time: on a machine that others use, two processes do not get two cores, and the work
that is added (exchange of gradients, divided batches) is what CPU time shows.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import table

from training_parts.shakespeare import RECIPE, our_loop, tensor, texts


def _worker(rank: int, world: int, meeting: str, out: str, steps: int, batch: int) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world
        )
    recipe = {**RECIPE, "batch_size": batch * world, "max_steps": 10_000}
    loop = our_loop(0, recipe, tensor(texts()[0]))
    loop.model.train()
    for _ in range(3):
        loop.train_step()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loop.train_step()
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    Path(out, f"{rank}.json").write_text(json.dumps(found))
    if world > 1:
        torch.distributed.destroy_process_group()


def _measure(world: int, steps: int, batch: int) -> list[dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        workers = [
            context.Process(
                target=_worker, args=(rank, world, f"{scratch}/meet", scratch, steps, batch)
            )
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(240)
        return [json.loads(Path(scratch, f"{rank}.json").read_text()) for rank in range(world)]


def run(quick: bool, _fresh: bool) -> Any:
    steps, rounds = (12, 3) if quick else (30, 5)
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(rounds):
        one, two = _measure(1, steps, 32)[0], _measure(2, steps, 32)
        for clock, values in ratios.items():
            values.append(one[clock] / max(part[clock] for part in two))
    found = {clock: statistics.median(values) for clock, values in ratios.items()}
    rows = [("CPU time", found["cpu"]), ("wall, as busy as the machine was", found["wall"])]
    table("two workers, 32 windows each, against one (bar 0.85)", ("clock", "efficiency"), rows)
    return {**found, "rounds": ratios}
