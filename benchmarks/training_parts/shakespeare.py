"""Tiny Shakespeare: bits a character of our loop, of the plain loop, of a 4-gram; step times."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from harness import DATA, cached, paired, table

from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loop import TrainingLoop
from training_parts.ngram import NGram
from training_parts.plain import PlainLoop, bits_per_character, make_model

RECIPE = {
    "learning_rate": 6e-3, "weight_decay": 0.1, "warmup_steps": 60, "max_steps": 1500,
    "batch_size": 16, "length": 64,
}  # fmt: skip


def texts() -> tuple[bytes, bytes]:
    folder = DATA / "attention"
    return tuple((folder / f"tinyshakespeare_{part}.txt").read_bytes() for part in ("train", "val"))  # type: ignore[return-value]


def tensor(text: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())


def our_loop(seed: int, recipe: dict[str, Any], text: torch.Tensor) -> TrainingLoop:
    config = {k: v for k, v in recipe.items() if k != "length"} | {"seed": seed, "log_every": 50}
    # Windows at every offset, as in the plain loop.
    data = TokenWindows(text, int(recipe["length"]), stride=1)
    return TrainingLoop(make_model(seed), data, config=config)


def four_gram(fresh: bool) -> dict[str, float]:
    train, held_out = texts()

    def fit() -> dict[str, float]:
        start = time.process_time()
        bits = NGram(train, 4).bits_per_character(held_out)
        return {"bits": bits, "cpu_s": time.process_time() - start}

    return cached("training", ["4-gram", len(train), len(held_out), 1], fit, fresh=fresh)


def one_run(side: str, seed: int, recipe: dict[str, Any], fresh: bool) -> dict[str, float]:
    def train() -> dict[str, float]:
        text, held_out = (tensor(part) for part in texts())
        start = time.process_time()
        if side == "ours":
            loop = our_loop(seed, recipe, text)
            loop.run()
            model = loop.model
        else:
            plain = PlainLoop(make_model(seed), text, recipe, seed)
            plain.run()
            model = plain.model
        spent = time.process_time() - start
        return {"bits": bits_per_character(model, held_out, int(recipe["length"])), "cpu_s": spent}

    version = "v1" if side == "ours" else "same order"
    return cached("training", [side, seed, recipe, version], train, fresh=fresh)


def compare(seeds: int, recipe: dict[str, Any], budget_s: float, fresh: bool) -> dict[str, Any]:
    """Both loops on every seed, alternated; stops when the time is used up."""
    began, rows = time.monotonic(), []
    for seed in range(seeds):
        if rows and time.monotonic() - began > budget_s:
            break
        sides = ("ours", "plain") if seed % 2 == 0 else ("plain", "ours")
        found = {side: one_run(side, seed, recipe, fresh) for side in sides}
        rows.append({"seed": seed, **{f"{s}_{k}": v for s in found for k, v in found[s].items()}})
    means = {s: statistics.fmean(row[f"{s}_bits"] for row in rows) for s in ("ours", "plain")}
    return {"rows": rows, "ours": means["ours"], "plain": means["plain"],
            "difference": means["ours"] - means["plain"], "recipe": recipe}  # fmt: skip


def step_time(recipe: dict[str, Any], repeats: int, steps: int) -> dict[str, float]:
    """CPU time of ``steps`` steps, alternated; one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    text = tensor(texts()[0])
    ours = our_loop(0, recipe, text)
    plain = PlainLoop(make_model(0), text, recipe, 0)
    ours.model.train()
    plain.model.train()

    def run_ours() -> None:
        for _ in range(steps):
            ours.train_step()
        ours._drain()  # noqa: SLF001

    def run_plain() -> None:
        for _ in range(steps):
            plain.train_step()

    a, b = paired(run_ours, run_plain, repeats, time.process_time)
    return {"ours_ms": a / steps * 1e3, "plain_ms": b / steps * 1e3, "ratio": a / b}


def run_step(quick: bool, _fresh: bool) -> Any:
    found = step_time(RECIPE, 7, 5 if quick else 15)
    table("CPU time of a step against a plain loop of the same model (bar 1.05)",
          ("ours, ms", "plain, ms", "ratio"), [tuple(found.values())])  # fmt: skip
    return found


def run(quick: bool, fresh: bool) -> Any:
    """Parity on three seeds with a short recipe; then one longer run against the 4-gram."""
    gram = four_gram(fresh)
    short = {**RECIPE, "max_steps": 100 if quick else 200}
    found = compare(1 if quick else 3, short, 600, fresh)
    table(
        f"tiny Shakespeare, bits a character after {short['max_steps']} steps (bar: within 0.01)",
        ("seed", "ours", "plain", "ours, CPU s", "plain, CPU s"),
        [(r["seed"], r["ours_bits"], r["plain_bits"], r["ours_cpu_s"], r["plain_cpu_s"])
         for r in found["rows"]],
    )  # fmt: skip
    print(f"mean difference {found['difference']:+.4f}")
    long = {**RECIPE, "max_steps": 1500 if quick else 4500}
    whole = one_run("ours", 0, long, fresh)
    table("against a Kneser-Ney 4-gram fitted in this run", ("model", "bits", "CPU s"),
          [("4-gram", gram["bits"], gram["cpu_s"]),
           (f"ours, {long['max_steps']} steps", whole["bits"], whole["cpu_s"])])  # fmt: skip
    return {"short": found, "long": whole, "four_gram": gram}
