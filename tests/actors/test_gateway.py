"""Requests share jobs, keep their own counts, and are answered within their own deadlines."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.gateway import QuantumGateway
from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum.backends import BuiltinBackend, Circuit, Counts, sample_counts

BELL = Circuit(2, (("h", (0,), 0.0), ("cx", (0, 1), 0.0)))


class Slow(BuiltinBackend):
    """Counts its jobs; each waits for ``gate`` to open."""

    name = "slow"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.jobs: list[int] = []

    def run(
        self, circuits: Sequence[Circuit], *, shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        self.jobs.append(len(circuits))
        self.gate.wait(20)
        return super().run(circuits, shots=shots, seeds=seeds, deadline=deadline)


def test_one_request_is_answered_and_seeded() -> None:
    result = QuantumGateway().run([BELL, BELL], shots=100, seed=4, deadline_s=5)
    assert result.counts == [sample_counts(BELL, 100, 4), sample_counts(BELL, 100, 5)]
    assert (result.backend, result.fallback_reason, result.seeds) == ("builtin", None, [4, 5])


def test_requests_at_a_time_share_a_job_and_keep_their_counts() -> None:
    backend = Slow()
    backend.gate.set()
    gateway = QuantumGateway([backend], window_s=1.0)
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(gateway.run, [BELL], 100, seed, 20.0) for seed in range(12)]
        results = [call.result() for call in calls]
    assert sum(backend.jobs) == 12
    assert len(backend.jobs) < 6
    for seed, result in enumerate(results):
        assert result.counts == [sample_counts(BELL, 100, seed)]
        assert result.seeds == [seed]
    assert gateway.status()["circuits"] == 12


def test_different_shots_or_deadlines_do_not_share() -> None:
    backend = Slow()
    backend.gate.set()
    gateway = QuantumGateway([backend], window_s=0.3)
    with ThreadPoolExecutor(3) as pool:
        calls = [
            pool.submit(gateway.run, [BELL], shots, 0, deadline_s)
            for shots, deadline_s in ((10, 20.0), (20, 20.0), (10, 100.0))
        ]
        assert [sum(c.result().counts[0].values()) for c in calls] == [10, 20, 10]
    assert backend.jobs == [1, 1, 1]


def test_a_full_job_leaves_no_room() -> None:
    backend = Slow()
    backend.gate.set()
    gateway = QuantumGateway([backend], window_s=0.2, max_batch=2)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gateway.run, [BELL], 10, seed, 20.0) for seed in range(4)]
        for call in calls:
            call.result()
    assert max(backend.jobs) <= 2


def test_a_hung_backend_delays_nobody_past_their_deadline() -> None:
    backend = Slow()
    gateway = QuantumGateway([backend], concurrency=2)
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(gateway.run, [BELL], 10, seed, 1.5) for seed in range(6)]
        results = [call.result() for call in calls]
    assert not backend.gate.is_set()  # it still hangs, and everybody has an answer
    assert {result.backend for result in results} == {"builtin"}
    assert all(result.fallback_reason for result in results)
    assert len(backend.jobs) <= 2
    assert gateway.status()["fallbacks"] >= 1
    backend.gate.set()


def test_a_circuit_that_is_refused_takes_nobody_with_it() -> None:
    gateway = QuantumGateway(window_s=0.3)
    with ThreadPoolExecutor(2) as pool:
        fine = pool.submit(gateway.run, [BELL], 10, 0, 20.0)
        wide = pool.submit(gateway.run, [Circuit(50, ())], 10, 0, 20.0)
        assert sum(fine.result().counts[0].values()) == 10
        with pytest.raises(InputError, match="bytes"):
            wide.result()


def test_an_unknown_backend_is_a_reason_not_an_error() -> None:
    gateway = QuantumGateway(["nowhere:machine"])
    result = gateway.run([BELL], 10, 0, 5.0)
    assert result.backend == "builtin"
    assert "nowhere:machine" in (result.fallback_reason or "")


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError):
        QuantumGateway(max_batch=0)
    with pytest.raises(InputError, match="shots"):
        QuantumGateway().run([BELL], shots=0)
    with pytest.raises(InputError, match="deadline"):
        QuantumGateway().run([BELL], deadline_s=-1)
