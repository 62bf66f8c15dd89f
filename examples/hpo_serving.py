"""Tune serving settings of which most crash, without a cluster: a study asked and told by hand.

    python examples/hpo_serving.py

The objective is a stand-in with the shape of a real one: throughput rises with batch and memory
share until the server runs out of memory, and the crash teaches the searcher where that is.
"""

from __future__ import annotations

from typing import Any

from qcluster.q_hpo import Study

SPACE = {
    "max_running_requests": {"type": "lograndint", "low": 16, "high": 2048},
    "memory_share": {"type": "uniform", "low": 0.5, "high": 0.98},
    "prefill": {
        "chunked": {"type": "choice", "values": [True, False]},
        "chunk": {
            "type": "qlograndint",
            "low": 512,
            "high": 16384,
            "q": 512,
            "when": {"parent": "prefill/chunked", "in": [True]},
        },
    },
}


def throughput(config: dict[str, Any]) -> float:
    """Tokens per second; raises MemoryError where the settings do not fit."""
    requests, share = config["max_running_requests"], config["memory_share"]
    chunk = config["prefill"].get("chunk", 32768)
    if share + requests / 4096 + chunk / 65536 > 1.15:
        raise MemoryError("out of memory")
    return float(1000 * share * requests / (requests + 200) * (1 - abs(chunk - 8192) / 40000))


def main() -> None:
    study = Study(SPACE, mode="max", seed=0)
    for _ in range(40):
        trial = study.ask()
        try:
            study.tell(trial.id, throughput(trial.config))
        except MemoryError:
            study.tell(trial.id, None, "failed")
    failed = sum(t.status == "failed" for t in study.history)
    assert study.best is not None
    print(
        f"{failed} of 40 trials crashed; best {study.best.value:.1f} tokens/s: {study.best.config}"
    )


if __name__ == "__main__":
    main()
