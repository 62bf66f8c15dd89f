"""A node of three is killed: until the hub knows, until there is a plan without it, and back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["BAR_S", "measure"]

BAR_S = 3.0


def measure(*, quick: bool) -> dict[str, Any]:
    """Seconds by round: ``noticed``, ``replanned``, ``limits_back`` and, for a new node, ``back``;
    starts Ray nodes of its own.
    """
    from nodes import Nodes

    rounds: list[dict[str, float]] = []
    with TemporaryDirectory() as directory, Nodes(Path(directory)) as nodes:
        nodes.until(lambda: nodes.planned() == 6)
        names = ["1", "2"]
        for number in range(2 if quick else 7):
            victim, name = nodes.nodes.pop(0), names.pop(0)
            nodes.until(lambda name=name: nodes.limits_w(name) != [700.0, 700.0])
            began = time.monotonic()
            nodes.kill(victim)
            killed = time.monotonic() - began
            nodes.until(lambda: int(nodes.hub.latest().alive.sum()) == 4, 30.0)
            noticed = time.monotonic() - began
            nodes.until(lambda: nodes.planned() == 4, 30.0)
            replanned = time.monotonic() - began
            nodes.until(lambda name=name: nodes.limits_w(name) == [700.0, 700.0], 60.0)
            limits_back = time.monotonic() - began
            began = time.monotonic()
            names.append(f"{number + 3}")
            nodes.add(names[-1])
            nodes.until(lambda: nodes.planned() == 6, 60.0)
            rounds.append(
                {
                    "killing": killed,
                    "noticed": noticed,
                    "replanned": replanned,
                    "limits_back": limits_back,
                    "back": time.monotonic() - began,
                    "load": os.getloadavg()[0],
                }
            )
            print(rounds[-1], flush=True)
    return {"rounds": rounds}
