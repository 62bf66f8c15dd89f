"""The four channels against Qiskit Aer's density matrices."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import harness
import numpy as np

from qcluster.quantum import noise

SCRIPT = Path(__file__).resolve().parent.parent / "opponents" / "aer_channels.py"


def run(_quick: bool, _fresh: bool) -> Any:
    """Ten random two-qubit states through each channel on qubit 1."""
    python = os.environ.get("QCLUSTER_OPPONENTS_QUANTUM")
    if not python:
        print("\nnoise: QCLUSTER_OPPONENTS_QUANTUM names no interpreter with Aer; left out")
        return None
    generator = np.random.default_rng(0)
    cases = []
    for _ in range(10):
        p, gamma, lamda, excited = generator.uniform(0, 1, size=4).tolist()
        t1 = float(generator.uniform(2e-5, 9e-5))
        t2 = float(generator.uniform(0.2, 1.99) * t1)
        state = generator.normal(size=4) + 1j * generator.normal(size=4)
        state /= np.linalg.norm(state)
        cases.append({"p": p, "gamma": gamma, "lambda": lamda, "excited": excited / 2, "t1": t1,
                      "t2": t2, "t": float(generator.uniform(0, 5e-5)),
                      "state": [state.real.tolist(), state.imag.tolist()]})  # fmt: skip
    done = subprocess.run([python, str(SCRIPT)], input=json.dumps(cases), text=True, check=True,
                          capture_output=True, timeout=300)  # fmt: skip
    worst = dict.fromkeys(noise.CHANNELS, 0.0)
    for case, answer in zip(cases, json.loads(done.stdout), strict=True):
        psi = np.array(case["state"][0]) + 1j * np.array(case["state"][1])
        channels = {
            "depolarizing": noise.depolarizing(case["p"]),
            "amplitude_damping": noise.amplitude_damping(case["gamma"]),
            "phase_damping": noise.phase_damping(case["lambda"]),
            "thermal": noise.thermal(
                case["t"], t1_s=case["t1"], t2_s=case["t2"], excited=case["excited"]
            ),
        }
        for name, channel in channels.items():
            ours = noise.apply_channel(np.outer(psi, psi.conj()), channel, [1])
            theirs = np.array(answer[name][0]) + 1j * np.array(answer[name][1])
            worst[name] = max(worst[name], float(np.abs(ours - theirs).max()))
    rows = list(worst.items())
    harness.table("largest difference from Aer (wanted: 1e-12)", ("channel", "difference"), rows)
    return rows
