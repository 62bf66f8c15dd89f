"""Telemetry: samples a second into the ring, bounded memory, and the exposition parser.

    python benchmarks/telemetry.py [--quick]

One process, one core. "Samples" are single values (one metric of one GPU at one time). The parser
stands beside prometheus_client's on the same texts, value for value, in alternated runs.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
from harness import DATA, arguments, paired, save, table
from prometheus_client.parser import text_string_to_metric_families

from qcluster.telemetry import METRICS, Batch, Block, Node, Ring, Topology
from qcluster.telemetry.sources.endpoint import Endpoint
from qcluster.telemetry.sources.exposition import Reader
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.samples import parse_samples

GPUS, PER_NODE = 720, 4
BAR = 100_000


def cluster() -> Topology:
    return Topology(nodes=tuple(Node(id=f"n{i}", gpus=PER_NODE) for i in range(GPUS // PER_NODE)))


def columns(topology: Topology, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = [m.name for m in METRICS.values() if m.entity == "gpu"]
    return {name: rng.random(len(topology.gpu_ids)) for name in names}


def exposition(topology: Topology, seed: int) -> str:
    """What DCGM exporters of the whole cluster would serve together."""
    rng, lines = np.random.default_rng(seed), []
    for metric in METRICS.values():
        if metric.dcgm is None:
            continue
        lines += [f"# HELP {metric.dcgm} {metric.help}", f"# TYPE {metric.dcgm} {metric.kind}"]
        for serial, gpu in enumerate(topology.gpu_ids):
            node, _, index = gpu.rpartition("/")
            labels = (
                f'gpu="{index}",UUID="GPU-{serial:032x}",pci_bus_id="00000000:1B:00.0",'
                f'device="nvidia{index}",modelName="NVIDIA GB200",Hostname="{node}"'
            )
            lines.append(f"{metric.dcgm}{{{labels}}} {rng.random() * 100:.4f}")
    return "\n".join(lines) + "\n"


def best(call: Any, repeats: int = 5) -> float:
    """Median seconds of processor time of a call: what one core of its own would need."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def rates(ticks: int) -> list[dict[str, Any]]:
    """Samples a second through each way in, all ending in the ring and a snapshot a tick."""
    topology = cluster()
    cols = columns(topology)
    ids, size = topology.gpu_ids, GPUS * len(cols)
    whole = Block.of("gpu", ids, cols)
    parts = [
        Block.of("gpu", ids[i : i + PER_NODE], {k: v[i : i + PER_NODE] for k, v in cols.items()})
        for i in range(0, GPUS, PER_NODE)
    ]
    wide = "\n".join(
        json.dumps({"ts_s": 5.0, "node": gpu.split("/")[0], "gpu": int(gpu.split("/")[1]),
                    **{name: float(values[i]) for name, values in cols.items()}})
        for i, gpu in enumerate(ids)
    ).encode()  # fmt: skip
    tall = json.dumps(
        {"ts_s": 5.0, "ids": list(ids), "columns": {k: v.tolist() for k, v in cols.items()}}
    ).encode()
    endpoint, texts = Endpoint("h", general), [exposition(topology, s) for s in range(2)]
    scraped = sum(block.values.size for block in endpoint.blocks(texts[0], 1.0))

    def run(make: Any) -> float:
        ring = Ring()
        ring.add(Batch(source="bench", ts_s=0.5, topology=topology))

        def once() -> None:
            for tick in range(1, ticks + 1):
                for blocks in make(tick):
                    ring.add(Batch(source="bench", ts_s=ring.ts_s + 1e-3, blocks=blocks))
                ring.snapshot()

        return best(once) / ticks

    ways = [
        ("blocks of the whole cluster", size, lambda _: [(whole,)]),
        ("a block a node (180 batches)", size, lambda _: [(part,) for part in parts]),
        ("DCGM text, parsed", scraped, lambda t: [endpoint.blocks(texts[t % 2], 1.0)]),
        ("pushed JSON columns, parsed", size, lambda _: [b.blocks for b in parse_samples(tall)]),
        ("pushed JSON lines, parsed", size, lambda _: [b.blocks for b in parse_samples(wide)]),
    ]
    return [{"way": name, "samples": n, "per_s": n / run(make)} for name, n, make in ways]


def memory(ticks: int) -> dict[str, float]:
    """Megabytes held after a warm-up and after many more ticks, with unknown senders mixed in."""
    topology = cluster()
    cols, ids = columns(topology), topology.gpu_ids
    ring = Ring(history=600)
    ring.add(Batch(source="bench", ts_s=0.0, topology=topology))
    tracemalloc.start()

    def feed(start: int, stop: int) -> float:
        for tick in range(start, stop):
            block = Block.of("gpu", ids, {k: v + tick for k, v in cols.items()})
            odd = Block.of("gpu", (f"elsewhere{tick}/0",), {"power_w": np.ones(1)})
            load = np.full((16, 128), float(tick))
            ring.add(Batch(source="bench", ts_s=float(tick), blocks=(block, odd), expert_load=load))
        return tracemalloc.get_traced_memory()[0] / 1e6

    warm = feed(1, 700)
    end = feed(700, 700 + ticks)
    tracemalloc.stop()
    return {"warm_mb": warm, "end_mb": end, "ticks": ticks,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}  # fmt: skip


def parsers(repeats: int) -> list[dict[str, Any]]:
    """Our reader against prometheus_client's: first scrape (cold) and every later one (warm)."""
    texts = {"DCGM, 720 GPUs x 14": exposition(cluster(), 0)}
    real = DATA / "ray" / "ray-2.60-metrics.prom"
    if real.exists():
        texts["Ray 2.60, real scrape"] = real.read_text()
    out = []
    for name, text in texts.items():
        warm = Reader()
        check(text, warm)

        def theirs(text: str = text) -> Any:
            return [s for family in text_string_to_metric_families(text) for s in family.samples]

        samples = len(theirs())
        ours_warm, reference = paired(lambda: warm.parse(text), theirs, repeats)  # noqa: B023
        ours_cold, again = paired(lambda: Reader().parse(text), theirs, repeats)  # noqa: B023
        out.append(
            {"text": name, "samples": samples, "ours_us": ours_warm / samples * 1e6,
             "theirs_us": reference / samples * 1e6, "warm_ratio": reference / ours_warm,
             "cold_ratio": again / ours_cold}
        )  # fmt: skip
    return out


def check(text: str, reader: Reader) -> None:
    """Both readers agree on every name, label and value.

    prometheus_client adds ``_total`` to a counter that lacks it, as DCGM's do; ours keeps names.
    """
    theirs = [s for family in text_string_to_metric_families(text) for s in family.samples]
    ours = reader.parse(text)
    sides = [
        [(one.name.removesuffix("_total"), one.labels) for one in side]
        for side in (theirs, ours.series)
    ]
    assert sides[0] == sides[1]
    assert np.array_equal([s.value for s in theirs], ours.values, equal_nan=True)


def import_seconds() -> float:
    """Seconds that importing the package adds to NumPy's."""
    code = (
        "import time, numpy; t = time.perf_counter(); import qcluster.telemetry;"
        "print(time.perf_counter() - t)"
    )
    runs = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                 check=True).stdout) for _ in range(5)]  # fmt: skip
    return statistics.median(runs)


def main() -> None:
    quick = arguments(__doc__ or "").quick
    found = rates(5 if quick else 30)
    table(
        f"Into the ring, {GPUS} GPUs, one core (bar {BAR:,} samples/s)",
        ("way", "samples a tick", "samples/s", "times the bar"),
        [(r["way"], r["samples"], f"{r['per_s']:,.0f}", r["per_s"] / BAR) for r in found],
    )
    parsed = parsers(7 if quick else 15)
    table(
        "Prometheus text against prometheus_client (alternated medians)",
        ("text", "samples", "ours us/sample", "theirs us/sample", "warm ratio", "cold ratio"),
        [(r["text"], r["samples"], r["ours_us"], r["theirs_us"], r["warm_ratio"], r["cold_ratio"])
         for r in parsed],
    )  # fmt: skip
    held = memory(2_000 if quick else 20_000)
    table("Memory of a ring with 600 ticks of history", tuple(held), [tuple(held.values())])
    seconds = import_seconds()
    table("Import", ("qcluster.telemetry beyond numpy, s",), [(seconds,)])
    save(
        "telemetry",
        {"rates": found, "parsers": parsed, "memory": held, "import_s": seconds},
        ("prometheus_client",),
    )


if __name__ == "__main__":
    main()
