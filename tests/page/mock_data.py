"""Deterministic content for the page: clusters, snapshots, plans and events, without any planner.

Values depend on the tick alone; only the times are the clock's, because freshness is under test.
"""

from __future__ import annotations

import math
from typing import Any

Json = dict[str, Any]
PLANNERS = ("routing", "energy", "nvlink", "joint")


def wave(tick: int, index: int, low: float, high: float) -> float:
    """A smooth value between low and high, another course for each index."""
    phase = math.sin(tick / 9 + index * 2.399) * 0.6 + math.sin(tick / 23 + index * 0.7) * 0.4
    return low + (high - low) * (0.5 + 0.5 * phase)


class Scene:
    """One cluster. ``gpus`` are ids ``node/index``; ``pairs`` are links (source, target, GB/s)."""

    def __init__(
        self, nodes: list[str], per_node: int, pairs: list[tuple[str, str, float]]
    ) -> None:
        self.nodes = nodes
        self.gpus = [f"{node}/{i}" for node in nodes for i in range(per_node)]
        self.pairs = pairs
        self.dead: set[str] = set()
        self.down: set[str] = set()
        self.budget_w = 880.0 * len(self.gpus) + 1000.0 * len(nodes)

    def snapshot(self, tick: int, ts_s: float) -> Json:
        alive = [gpu not in self.dead for gpu in self.gpus]
        power = [
            round(wave(tick, i, 520, 1080), 1) if alive[i] else None for i in range(len(alive))
        ]
        per_node = len(self.gpus) // len(self.nodes)
        links = []
        for index, (source, target, bandwidth) in enumerate(self.pairs):
            name = f"{source}->{target}"
            up = name not in self.down
            load = round(wave(tick, index * 3, 0.02, 0.97) ** 2, 3) if up else None
            link = {"id": name, "source": source, "target": target, "up": up, "load": load}
            links.append({**link, "bandwidth_gb_s": bandwidth})
        return {
            "seq": tick,
            "ts_s": ts_s,
            "simulated": True,
            "sources": ["simulate:nvl72"],
            "gpus": self.gpus,
            "alive": alive,
            "power_w": power,
            "utilization": [round(wave(tick, i, 0.3, 1.0), 3) for i in range(len(alive))],
            "node_ids": self.nodes,
            "node_power_w": [
                sum(w or 0 for w in power[i * per_node : (i + 1) * per_node]) + 900
                for i in range(len(self.nodes))
            ],
            "links": links,
            "events": self.events(1_700_000_000.0),
        }

    def events(self, start: float) -> list[Json]:
        rows = [("power_step", self.nodes[0], "jobs started on 3 nodes")]
        rows += [("gpu_lost", gpu, "no sample for 3 periods") for gpu in sorted(self.dead)]
        rows += [("link_down", link, "counter stands still") for link in sorted(self.down)]
        return [
            {"ts_s": start + 2 * i, "kind": kind, "subject": subject, "detail": detail}
            for i, (kind, subject, detail) in enumerate(rows)
        ]

    def plan(self, planner: str, tick: int, now: float) -> Json:
        objective, bound, baselines = _figures(planner, tick)
        fell_back = planner == "routing" and tick % 4 == 1
        quantum = planner == "nvlink"
        plan = {
            "schema_version": 1,
            "plan_id": f"{int(tick * 1000):011x}-{planner[:4]}",
            "created_at": now,
            "planner": planner,
            "config": {"qaoa": quantum, "layers": 2, "deterministic": False},
            "seed": 7,
            "telemetry": {"snapshot_hash": f"{tick:016x}", "age_s": 0.4, "simulated": True},
            "wall_s": 0.031 + 0.002 * (tick % 7),
            "solver": _solver(planner, fell_back),
            "objective": objective,
            "lower_bound": bound,
            "gap": None if bound is None else (objective - bound) / abs(objective),
            "baselines": baselines,
            "quantum_gain": min(baselines.values()) - objective if quantum else None,
            "reasons": {} if quantum else {"quantum_gain": "no quantum solver ran"},
            "warnings": ["telemetry is simulated: this plan cannot be applied"],
            "expires_at": now + 60,
            **self._module(planner, tick),
        }
        if bound is None:
            plan["reasons"]["lower_bound"] = "no bound is known for this problem"
        return plan

    def _module(self, planner: str, tick: int) -> Json:
        n = len(self.gpus)
        if planner == "routing":
            before = [100 * wave(tick // 5, i * 5, 0.35, 1.9) for i in range(n)]
            mean = sum(before) / n
            after = [mean * (1 + 0.03 * math.sin(i * 1.7 + tick)) for i in range(n)]
            loads = {"gpu_load_before": before, "gpu_load_after": after, "moved_slots": 14}
            return {
                **loads,
                "balancedness_before": 0.7042,
                "balancedness_after": 0.9612,
                "upper_bound": 0.9731,
            }
        if planner == "energy":
            caps = [round(wave(tick, i, 700, 1000)) for i in range(n)]
            own = {"budget_w": self.budget_w, "gpus": self.gpus, "caps_w": caps}
            predicted = {"p50": 0.9 * self.budget_w, "p95": 0.97 * self.budget_w}
            return {**own, "predicted_power_w": predicted}
        if planner == "joint":
            return self._joint(tick)
        half = n // 2
        load = {
            f"{a}->{b}": round(wave(tick, i, 0.05, 0.8), 3)
            for i, (a, b, _) in enumerate(self.pairs)
        }
        jobs = {"train-70b": self.gpus[:half], "serve-moe": self.gpus[half : half + n // 4]}
        return {"assignment": jobs, "link_loads": load}

    def _joint(self, tick: int) -> Json:
        objective, bound, baselines = _figures("joint", tick)
        conflict = {
            "kind": "power",
            "between": ["energy", "routing"],
            "what": "caps leave GPUs between 84.1% and 100.0% of full speed",
            "resolution": "power follows placement",
            "before": baselines["apart"],
            "after": objective,
        }
        return {
            **{name: self.plan(name, tick, 0.0) for name in ("routing", "energy")},
            "nvlink": None,
            "measure": "experts",
            "relative_speed": 1 / objective,
            "upper_bound": 1 / bound if bound else None,
            "absent": {"nvlink": "telemetry knows no links yet"},
            "made_here": ["energy"],
            "conflicts": [conflict],
        }


def _figures(planner: str, tick: int) -> tuple[float, float | None, Json]:
    drift = 1 + 0.004 * math.sin(tick)
    if planner == "routing":
        return (
            1.0404 * drift,
            1.0276 * drift,
            {"unchanged": 1.42, "round_robin": 1.31, "LPT": 1.047 * drift},
        )
    if planner == "energy":
        objective = -61250.0 * drift
        return objective, objective * 1.0008, {"common cap": -58020.0, "proportional": -60110.0}
    if planner == "joint":
        return 1.0155 * drift, 1.0084, {"apart": 1.0388 * drift, "both": 1.0157 * drift}
    return 0.412 * drift, None, {"first fit": 0.63, "greedy": 0.411 * drift}


def _solver(planner: str, fell_back: bool) -> Json:
    if fell_back:
        return {
            "requested": "qaoa",
            "used": "lpt_swaps",
            "fallback_reason": "deadline of 0.2 s passed",
        }
    names = {
        "routing": "lpt_swaps",
        "energy": "concave_hull",
        "nvlink": "qaoa",
        "joint": "coordinated",
    }
    return {"requested": "auto", "used": names[planner], "fallback_reason": None}


def nvl72() -> Scene:
    """18 trays of 4 GPUs around one switch domain; one GPU and one link are out."""
    nodes = [f"nvl72-tray-{i:02d}" for i in range(18)]
    scene = Scene(
        nodes, 4, [(f"{node}/{i}", "nvswitch", 900.0) for node in nodes for i in range(4)]
    )
    scene.dead, scene.down = {"nvl72-tray-05/2"}, {"nvl72-tray-11/1->nvswitch"}
    return scene


def dgx() -> Scene:
    """Eight nodes of 8 GPUs, each with 4 switches of its own, joined by two leaf switches."""
    nodes = [f"dgx-{i:02d}" for i in range(8)]
    pairs = [
        (f"{node}/{i}", f"{node}-nvs{s}", 112.5)
        for node in nodes
        for i in range(8)
        for s in range(4)
    ]
    pairs += [(f"{node}-nvs0", f"leaf{k}", 200.0) for node in nodes for k in range(2)]
    return Scene(nodes, 8, pairs)


def mesh() -> Scene:
    """One node of 8 GPUs with direct links, no switch."""
    pairs = [("n/0", "n/1"), ("n/0", "n/2"), ("n/0", "n/3"), ("n/0", "n/4"), ("n/1", "n/2")]
    pairs += [("n/1", "n/3"), ("n/1", "n/5"), ("n/2", "n/3"), ("n/2", "n/6"), ("n/3", "n/7")]
    pairs += [("n/4", "n/5"), ("n/4", "n/6"), ("n/5", "n/7"), ("n/6", "n/7")]
    return Scene(["n"], 8, [(a, b, 25.0) for a, b in pairs])


def racks() -> Scene:
    """40 racks of 18 trays of 4 GPUs: 2,880 GPUs, one switch a rack."""
    nodes = [f"r{r:02d}-t{t:02d}" for r in range(40) for t in range(18)]
    return Scene(
        nodes, 4, [(f"{node}/{i}", f"sw-{node[:3]}", 900.0) for node in nodes for i in range(4)]
    )


SCENES = {"nvl72": nvl72, "dgx": dgx, "mesh": mesh, "racks": racks}
