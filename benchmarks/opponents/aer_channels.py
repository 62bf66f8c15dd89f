"""Cases as JSON on stdin, density matrices by Qiskit Aer as JSON on stdout."""

from __future__ import annotations

import json
import sys

import numpy as np
from qiskit import QuantumCircuit
from qiskit_aer import AerSimulator
from qiskit_aer.noise import (
    amplitude_damping_error,
    depolarizing_error,
    phase_damping_error,
    thermal_relaxation_error,
)


def main() -> None:
    simulator = AerSimulator(method="density_matrix")
    answers = []
    for case in json.load(sys.stdin):
        state = np.array(case["state"][0]) + 1j * np.array(case["state"][1])
        errors = {
            "depolarizing": depolarizing_error(case["p"], 1),
            "amplitude_damping": amplitude_damping_error(case["gamma"]),
            "phase_damping": phase_damping_error(case["lambda"]),
            "thermal": thermal_relaxation_error(case["t1"], case["t2"], case["t"], case["excited"]),
        }
        answer = {}
        for name, error in errors.items():
            circuit = QuantumCircuit(2)
            circuit.set_density_matrix(np.outer(state, state.conj()))
            circuit.append(error.to_instruction(), [1])
            circuit.save_density_matrix()
            rho = np.asarray(simulator.run(circuit).result().data()["density_matrix"])
            answer[name] = [rho.real.tolist(), rho.imag.tolist()]
        answers.append(answer)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
