"""What a quantum backend is to the gateway, and the names under which there are some."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.quantum.backends.circuit import MAX_QUBITS, Circuit, sample_counts
from qcluster.record import Record
from qcluster.registry import Registry

__all__ = [
    "BACKENDS",
    "Backend",
    "BuiltinBackend",
    "Capabilities",
    "Counts",
    "LazyBackend",
    "Queue",
    "check_counts",
    "open_backend",
]

Counts = dict[int, int]
"""Index of a basis state (qubit 0 the least significant bit) -> how often it was measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Capabilities(Record):
    """Largest circuit and number of shots that are taken, and whether it is a simulator."""

    qubits: int
    max_shots: int
    simulator: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Queue(Record):
    """Whether the backend takes jobs now, how many wait, and the wait in seconds if known."""

    operational: bool
    pending: int = 0
    eta_s: float | None = None


class Backend(Protocol):
    """A place where circuits run. Calls may raise, lie or hang: the gateway copes."""

    name: str

    def capabilities(self) -> Capabilities:
        """What fits."""
        ...

    def queue(self) -> Queue:
        """How busy it is now."""
        ...

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        """Counts of each circuit; ``seeds``, one a circuit, where the backend can be seeded."""
        ...


class LazyBackend:
    """The backend that ``selector`` names, opened when it is first asked something.

    The gateway asks in a thread: a library that is missing or slow to import, or a service that
    hangs at log-in, is then a reason to fall back and no delay.
    """

    def __init__(self, selector: str) -> None:
        self.name = selector
        self._found: Backend | None = None

    def capabilities(self) -> Capabilities:
        return self._opened().capabilities()

    def queue(self) -> Queue:
        return self._opened().queue()

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        return self._opened().run(circuits, shots=shots, seeds=seeds, deadline=deadline)

    def _opened(self) -> Backend:
        if self._found is None:
            self._found = open_backend(self.name)
        return self._found


class BuiltinBackend:
    """The exact simulator of this package; always there."""

    name = "builtin"

    def capabilities(self) -> Capabilities:
        return Capabilities(qubits=MAX_QUBITS, max_shots=10**8, simulator=True)

    def queue(self) -> Queue:
        return Queue(operational=True)

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        pairs = zip(circuits, seeds, strict=True)
        return [sample_counts(circuit, shots, seed, deadline) for circuit, seed in pairs]


BACKENDS: Registry[Callable[[str], Backend]] = Registry("quantum backend", "qcluster.backends")
"""Family -> what opens a backend, given the part of its selector behind the colon."""


def open_backend(selector: str) -> Backend:
    """The backend that ``selector`` names: ``builtin``, ``pennylane:lightning.qubit``,
    ``ibm:fake_manila``, ``ibm:auto`` (least busy), ``aer:``, ``braket:local``, ``braket:<ARN>``, or
    a PennyLane device's bare name.

    Raises NotFound for an unknown family, MissingDependency where its library is not installed.
    """
    family, colon, rest = selector.partition(":")
    if not family:
        raise InputError("wants a backend's name", field="backend")
    if not colon and family not in BACKENDS.names():
        family, rest = "pennylane", selector
    return BACKENDS.get(family)(rest)


def check_counts(circuits: Sequence[Circuit], shots: int, results: object) -> list[Counts]:
    """``results`` if it is one dict of counts a circuit that sums to ``shots``.

    Raises SolverFailed naming what is wrong: a backend's word is not taken for it.
    """
    if not isinstance(results, list) or len(results) != len(circuits):
        raise SolverFailed(f"wrong results: wanted {len(circuits)} dicts of counts")
    for k, (circuit, counts) in enumerate(zip(circuits, results, strict=True)):
        whole = isinstance(counts, dict) and all(
            type(state) is int and type(number) is int and number >= 0
            for state, number in counts.items()
        )
        if not whole:
            raise SolverFailed(f"wrong counts of circuit {k}: not whole numbers by basis state")
        if not all(0 <= state < 2**circuit.qubits for state in counts):
            raise SolverFailed(f"wrong counts of circuit {k}: a state has too many qubits")
        if sum(counts.values()) != shots:
            raise SolverFailed(
                f"wrong counts of circuit {k}: {sum(counts.values())} shots, asked for {shots}"
            )
    return results


BACKENDS.register("builtin", lambda _: BuiltinBackend())
