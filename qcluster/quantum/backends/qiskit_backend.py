"""Qiskit's samplers as backends: IBM machines and their fakes (``ibm:``), Aer (``aer:``).

``ibm:`` needs qiskit-ibm-runtime, ``aer:`` qiskit-aer. Credentials stay where Qiskit keeps them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import MissingDependency, NotFound
from qcluster.quantum.backends.backend import BACKENDS, Capabilities, Counts, Queue
from qcluster.quantum.backends.circuit import Circuit

__all__ = ["QiskitBackend", "open_aer", "open_ibm", "to_qiskit"]


class QiskitBackend:
    """A Qiskit ``device`` (BackendV2) through ``sampler(device, seed)``, which makes a SamplerV2.

    Circuits are compiled for the device at optimisation level 1. Jobs take the first circuit's
    seed, where the sampler takes one: a job has one.
    """

    def __init__(self, name: str, device: Any, sampler: Callable[[Any, int], Any]) -> None:
        self.name, self._device, self._sampler = name, device, sampler

    def capabilities(self) -> Capabilities:
        # A simulator may have no limit, which Qiskit says as None.
        qubits = self._device.num_qubits or 24
        shots = getattr(self._device, "max_shots", None) or 100_000
        simulator = bool(getattr(self._device, "simulator", True)) or "fake" in self.name
        return Capabilities(qubits=int(qubits), max_shots=int(shots), simulator=simulator)

    def queue(self) -> Queue:
        status = getattr(self._device, "status", None)
        if status is None:
            return Queue(operational=True)
        found = status()
        return Queue(operational=bool(found.operational), pending=int(found.pending_jobs))

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        from qiskit import generate_preset_pass_manager

        if not circuits:
            return []
        compile_ = generate_preset_pass_manager(
            optimization_level=1, backend=self._device, seed_transpiler=seeds[0]
        )
        compiled = [compile_.run(to_qiskit(circuit)) for circuit in circuits]
        deadline.check()
        job = self._sampler(self._device, seeds[0]).run(compiled, shots=shots)
        return [
            {int(bits, 2): int(number) for bits, number in part.data.meas.get_counts().items()}
            for part in job.result()
        ]


def to_qiskit(circuit: Circuit) -> Any:
    """The circuit as Qiskit's QuantumCircuit, all qubits measured into ``meas``."""
    from qiskit import QuantumCircuit

    made = QuantumCircuit(circuit.qubits)
    for name, qubits, angle in circuit.gates:
        angles = (angle,) if name in ("rx", "ry", "rz", "rzz") else ()
        getattr(made, name)(*angles, *qubits)
    made.measure_all()
    return made


def open_ibm(rest: str) -> QiskitBackend:
    """``auto`` (the least busy machine), a machine's name, or a fake's (``fake_manila``).

    Raises MissingDependency without qiskit-ibm-runtime, NotFound for an unknown fake.
    """
    try:
        runtime = importlib.import_module("qiskit_ibm_runtime")
        fakes = importlib.import_module("qiskit_ibm_runtime.fake_provider")
    except ImportError:
        raise MissingDependency(
            "qiskit-ibm-runtime", needed_for="IBM's backends", extra="ibm"
        ) from None
    if rest.startswith("fake_"):
        devices = {d.name: d for d in fakes.FakeProviderForBackendV2().backends()}
        if rest not in devices:
            raise NotFound(f"no fake IBM backend called '{rest}'")
        device = devices[rest]
    else:
        service = runtime.QiskitRuntimeService()
        device = service.least_busy() if rest in ("", "auto") else service.backend(rest)

    def sampler(mode: Any, seed: int) -> Any:
        made = runtime.SamplerV2(mode=mode)
        if rest.startswith("fake_"):
            made.options.simulator.seed_simulator = seed
        return made

    return QiskitBackend(f"ibm:{device.name}", device, sampler)


def open_aer(rest: str) -> QiskitBackend:
    """Aer's simulator with ``rest`` as its method (``statevector``, ...; empty: automatic).

    Raises MissingDependency without qiskit-aer.
    """
    try:
        aer = importlib.import_module("qiskit_aer")
        primitives = importlib.import_module("qiskit_aer.primitives")
    except ImportError:
        raise MissingDependency("qiskit-aer", needed_for="Aer", extra="aer") from None
    return QiskitBackend(
        "aer",
        aer.AerSimulator(method=rest or "automatic"),
        lambda device, seed: primitives.SamplerV2.from_backend(device, seed=seed),
    )


BACKENDS.register("ibm", open_ibm)
BACKENDS.register("aer", open_aer)
