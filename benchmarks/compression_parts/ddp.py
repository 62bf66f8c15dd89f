"""Two gloo processes train the small GPT: plain, coded gradients, PowerSGD at as many bytes.

The model and the recipe are those of benchmarks/training.py (tiny Shakespeare). Bytes are what a
rank hands to the collective calls, times what a ring sends of it; nothing is left out.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import cached, table
from training_parts.shakespeare import RECIPE

HERE = Path(__file__).resolve().parent
STEPS = 600
# The recipe's rate is high for so few steps: a lower one says whether coding gains by that.
LOWER_RATE, LOWER_SEED = 3e-3, 11
Run = dict[str, float]


def _run(way: str, seed: int, steps: int, rate: float = RECIPE["learning_rate"]) -> Run:
    """Validation loss (nats), bytes and CPU seconds of rank 0."""

    def compute() -> Run:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
                           "PYTHONPATH": f"{HERE.parent.parent}:{HERE.parent}"}  # fmt: skip
            ranks = [
                subprocess.Popen(
                    [sys.executable, str(HERE / "ddp_rank.py"), str(rank), f"{folder}/meet", way,
                     str(seed), str(steps), str(rate)],
                    stdout=subprocess.PIPE, env=environment, text=True,
                )
                for rank in range(2)
            ]  # fmt: skip
            try:
                told = [rank.communicate(timeout=560)[0] for rank in ranks]
            finally:
                for rank in ranks:
                    rank.kill()
        found: Run = json.loads(told[0].strip().splitlines()[-1])
        return found

    key: list[Any] = ["ddp", way, seed, steps, 2]
    return cached("compression", key + ([] if rate == RECIPE["learning_rate"] else [rate]), compute)


def _powersgd_bytes(rank: int, steps: int, start: int = 4) -> int:
    """What PowerSGD sends: two factors of each matrix where they are smaller, the rest plain."""
    from training_parts.plain import make_model

    shapes = [(p.shape[0], p.numel() // p.shape[0]) for p in make_model(0).parameters()]
    plain = sum(n * m for n, m in shapes)
    coded = sum(min((n + m) * rank, n * m) for n, m in shapes)
    return 4 * (start * plain + (steps - start) * coded)


def ddp(quick: bool) -> Any:
    """Loss and bytes of three seeds; the rank of PowerSGD is the least that sends as much."""
    seeds, steps = (1, 300) if quick else (3, STEPS)
    rows: list[dict[str, float]] = []
    for seed in range(seeds):
        plain, ours = _run("plain", seed, steps), _run("coded", seed, steps)
        rank = next(r for r in range(1, 33) if _powersgd_bytes(r, steps) >= ours["sent"])
        power = _run(f"powersgd-{rank}", seed, steps)
        rows.append(
            {"seed": seed, "plain": plain["loss"], "coded": ours["loss"], "powersgd": power["loss"],
             "ratio": ours["plain"] / ours["sent"], "rank": rank,
             "powersgd_ratio": power["plain"] / power["sent"], "plain_cpu_s": plain["cpu_s"],
             "coded_cpu_s": ours["cpu_s"], "powersgd_cpu_s": power["cpu_s"]}
        )  # fmt: skip
    means = {k: statistics.fmean(row[k] for row in rows) for k in ("plain", "coded", "powersgd")}
    more = {k: means[k] / means["plain"] - 1 for k in ("coded", "powersgd")}
    table(
        f"validation loss after {steps} steps on two processes (bar: coded within 0.5 % at 25x)",
        ("seed", "plain", "coded", "PowerSGD", "ratio", "its ratio", "its rank", "CPU s", "coded",
         "PowerSGD"),
        [(r["seed"], r["plain"], r["coded"], r["powersgd"], r["ratio"], r["powersgd_ratio"],
          r["rank"], r["plain_cpu_s"], r["coded_cpu_s"], r["powersgd_cpu_s"]) for r in rows],
    )  # fmt: skip
    print(f"mean: coded {more['coded']:+.2%}, PowerSGD {more['powersgd']:+.2%}")
    plain, ours = (_run(way, LOWER_SEED, steps, LOWER_RATE) for way in ("plain", "coded"))
    more_lower = ours["loss"] / plain["loss"] - 1
    lower = {"rate": LOWER_RATE, "seed": LOWER_SEED, "plain": plain["loss"], "coded": ours["loss"],
             "more": more_lower, "ratio": ours["plain"] / ours["sent"]}  # fmt: skip
    table(
        f"the same at a learning rate of {LOWER_RATE:g} instead of {RECIPE['learning_rate']:g}",
        ("seed", "plain", "coded", "more, %", "ratio"),
        [(LOWER_SEED, plain["loss"], ours["loss"], 100 * more_lower, lower["ratio"])],
    )
    return {"rows": rows, "means": means, "more": more, "steps": steps, "lower": lower}
