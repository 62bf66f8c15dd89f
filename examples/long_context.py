"""One decode step over a long context, from attention's bytes to the watts of the boards.

    python examples/long_context.py [--quick]

Sampled attention reads part of the cached keys and values; what it reads of other GPUs' caches, and
what tokens send to their experts, is the traffic of one job on the fabric; the fabric plan places
that job beside another; and the power plan shares a budget among all boards, which the simulator
then obeys. Each part is switched off alone: all keys read, experts in order, ranks on the first
free GPUs, the same cap for every board.

Attention, placement, fabric plan and power plan are what the library answers. Around them stands a
model that is only arithmetic: bytes over memory bandwidth, tokens over the busiest GPU's rate,
seconds of the busiest link, and the mean speed that the simulator shows under the caps.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy import plan_energy
from qcluster.q_nvlink import Fabric, plan_fabric
from qcluster.q_routing import place_experts
from qcluster.telemetry import Job, Ring
from qcluster.telemetry.sources.simulate.simulator import Scenario, Simulator

NODES = 24  # a whole NVL72 rack and a third of the next one
RANKS, SLOTS = 16, 96
LAYERS, EXPERTS, PICKS = 8, 64, 6
REQUESTS, CONTEXT, KV_HEADS, HEAD = 64, 131_072, 8, 128
MEMORY_BYTES_S, TOKEN_S = 8e12, 2e-7
BUDGET_SHARE = 0.62


@dataclass(frozen=True)
class Part:
    """One part's figure on and off, in its own unit."""

    name: str
    unit: str
    on: float
    off: float


def attention_share(context: int) -> tuple[float, float]:
    """Share of the cache's bytes that sampled attention reads, and its error's norm."""
    import torch

    from qcluster.q_attention import attention

    draw = torch.Generator().manual_seed(0)
    q = torch.randn(1, 8, 4, 64, generator=draw)
    k = torch.randn(1, 2, context, 64, generator=draw).cumsum(dim=2)
    k = 2.0 * k / k.norm(dim=-1, keepdim=True)
    v = torch.randn(1, 2, context, 64, generator=draw)
    found = attention(q, k, v, budget=0.1, generator=draw)
    wide = [x.repeat_interleave(4, dim=1) for x in (k, v)]
    exact = torch.nn.functional.scaled_dot_product_attention(q, *wide)
    error = float((found.out - exact).norm() / exact.norm())
    # Every query reads the cache of its head once; a key and a value of two bytes a number.
    whole = q.shape[1] * q.shape[2] * context * 2 * 64 * 2
    return float(found.bytes_read) / whole, error


def expert_seconds(rng: np.random.Generator) -> tuple[Part, Any, Any]:
    """Seconds that the busiest GPUs compute, and both placements."""
    load = rng.zipf(1.25, (LAYERS, EXPERTS)).clip(max=60).astype(float)
    load *= REQUESTS * 256 * PICKS / load.sum(axis=1, keepdims=True)
    planned = place_experts(load, num_slots=SLOTS, num_gpus=RANKS)
    per = SLOTS // RANKS
    slots = np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1))
    copies = np.stack([np.bincount(row, minlength=EXPERTS) for row in slots])
    spread = np.take_along_axis(load / copies, slots, axis=1)
    in_order = spread.reshape(LAYERS, RANKS, per).sum(axis=2)
    mean = load.sum() / RANKS
    on, off = mean / planned.balancedness, in_order.max(axis=1).sum()
    return Part("expert placement", "ms", on * TOKEN_S * 1e3, off * TOKEN_S * 1e3), load, planned


def traffic(share: float, load: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bytes from rank to rank in a step: caches of other ranks that are read, tokens to experts."""
    cache = REQUESTS * CONTEXT * KV_HEADS * HEAD * 2 * 2 * LAYERS * share / 64
    tokens = load.sum() * 7168 * 2
    matrix = np.full((RANKS, RANKS), (cache + tokens) / RANKS**2)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def fabric_seconds(simulator: Simulator, matrix: NDArray[np.float64]) -> Part:
    """Seconds of the busiest link: where the plan puts the job, and on the first free GPUs."""
    fabric = Fabric.from_topology(simulator.topology)
    beside = Job(id="pretrain", gpus=64, kind="ring", bytes=1e8)
    plan = plan_fabric(fabric, [beside, Job(id="decode", gpus=RANKS, matrix=matrix)], deadline_s=3)
    return Part("fabric plan", "ms", plan.objective * 1e3, plan.baselines["first-fit"] * 1e3)


def speed_under(simulator: Simulator, caps: dict[str, float], steps: int) -> tuple[float, float]:
    """Mean speed of the boards under caps and the most they draw together, in the simulator."""
    low, high = simulator.rack.gpu.min_w, simulator.rack.gpu.max_w
    for gpu, watts in caps.items():
        simulator.set_power_limit((gpu,), float(np.clip(watts, low, high)))
    speeds, drawn = [], []
    for step in range(steps):
        simulator.step()
        if step >= steps // 2:  # the first half settles
            speeds.append(float(simulator.chips.speed.mean()))
            drawn.append(float(simulator.chips.power_w.sum()))
    return float(np.mean(speeds)), max(drawn)


def slowdown(seed: int, steps: int) -> tuple[Part, float, float]:
    """1 / mean speed under the planned caps and under one cap for all, with the same budget."""
    speeds, most = {}, {}
    caps: dict[str, dict[str, float]] = {}
    budget = 0.0
    for name in ("on", "off"):
        simulator = Simulator(Scenario(rack="nvl72", nodes=NODES, seed=seed), start_ts_s=1e9)
        ring = Ring()
        for _ in range(8):
            ring.add(simulator.step())
        if not caps:
            boards = len(simulator.gpu_ids)
            most_w = boards * simulator.rack.gpu.max_w + NODES * simulator.rack.gpu.host_w
            budget = BUDGET_SHARE * most_w
            plan = plan_energy(ring.snapshot(), budget_w=budget)
            caps["on"] = dict(zip(plan.gpus, plan.caps_w.tolist(), strict=True))
            same = (budget - plan.overhead_w) / boards
            caps["off"] = dict.fromkeys(simulator.gpu_ids, same)
        speeds[name], most[name] = speed_under(simulator, caps[name], steps)
    part = Part("power caps", "slowdown", 1 / speeds["on"], 1 / speeds["off"])
    return part, most["on"], budget


def step_ms(parts: dict[str, Part], off: frozenset[str], attention: tuple[float, float]) -> float:
    """A decode step: memory, experts at the boards' speed, the busiest link."""

    def value(name: str) -> float:
        return parts[name].off if name in off else parts[name].on

    memory = attention["sampled attention" in off]
    return memory + value("expert placement") * value("power caps") + value("fabric plan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a shorter context and fewer steps")
    quick = parser.parse_args().quick
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    share, error = attention_share(4096 if quick else 16_384)
    whole = REQUESTS * CONTEXT * KV_HEADS * HEAD * 2 * 2 * LAYERS / (RANKS * MEMORY_BYTES_S) * 1e3
    experts, load, _ = expert_seconds(rng)
    simulator = Simulator(Scenario(rack="nvl72", nodes=NODES))
    fabric = fabric_seconds(simulator, traffic(share, load))
    all_keys = fabric_seconds(simulator, traffic(1.0, load))
    power, drawn, budget = slowdown(0, 12 if quick else 40)
    parts = {part.name: part for part in (experts, fabric, power)}
    more = {**parts, "fabric plan": all_keys}
    memory = (whole * share, whole)
    on = step_ms(parts, frozenset(), memory)
    rows = [("sampled attention", f"{share:.3f} of the cache's bytes, error {error:.2%}",
             step_ms(more, frozenset({"sampled attention"}), memory))]  # fmt: skip
    rows += [
        (name, f"{part.on:.4g} {part.unit}, off {part.off:.4g}",
         step_ms(parts, frozenset({name}), memory))
        for name, part in parts.items()
    ]  # fmt: skip
    every = step_ms(more, frozenset({"sampled attention", *parts}), memory)
    print(f"{'part':<20}{'figure':<44}{'step without it':>18}")
    for name, figure, without in rows:
        print(f"{name:<20}{figure:<44}{without:>12.3f} ms {without / on:.2f}x")
    print(f"{'all on':<64}{on:>12.3f} ms")
    print(f"{'all off':<64}{every:>12.3f} ms {every / on:.2f}x")
    print(
        f"boards draw at most {drawn / 1e3:.1f} kW in the simulator, budget {budget / 1e3:.1f} kW"
    )
    print(f"took {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
