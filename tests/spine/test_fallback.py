from __future__ import annotations

from typing import Any

import pytest

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.fallback import Candidate, CircuitBreaker, Stage, certified, stage_seed


def stage(name: str, objective: float, *, quantum: bool = False, bound: float | None = None) -> Any:
    def run(problem: str, **_: Any) -> Candidate[str]:
        return Candidate(f"{name}:{problem}", objective, bound, {"by": name})

    return Stage(name, run, quantum)


def raising(name: str, error: Exception) -> Any:
    def run(*_: Any, **__: Any) -> Candidate[str]:
        raise error

    return Stage(name, run)


FLOOR = stage("hash", 10.0)


def solve(stages: list[Any], **more: Any) -> Any:
    more.setdefault("deadline", Deadline.after(5))
    return certified("p", stages=stages, fallback=more.pop("fallback", FLOOR), **more)


def test_the_requested_stage_answers() -> None:
    found = solve([stage("lpt", 4.0, bound=3.0)])
    assert found.value == "lpt:p"
    assert (found.solver.requested, found.solver.used) == ("lpt", "lpt")
    assert found.solver.fallback_reason is None
    assert found.certificate.lower_bound == 3.0
    assert found.certificate.baselines == {"hash": 10.0}
    assert found.notes == {"by": "lpt"}


def test_never_worse_than_the_fallback() -> None:
    found = solve([stage("bad", 11.0)])
    assert found.value == "hash:p"
    assert found.solver.used == "hash"
    assert "worse than hash" in found.solver.fallback_reason


def test_a_failing_stage_is_passed_over_with_its_reason() -> None:
    found = solve([raising("qaoa", RuntimeError("boom")), stage("lpt", 4.0)])
    assert found.solver.requested == "qaoa"
    assert found.solver.used == "lpt"
    assert "qaoa: RuntimeError: boom" in found.solver.fallback_reason


def test_an_invalid_answer_counts_as_a_failure() -> None:
    def verify(_: str, value: str) -> None:
        if value.startswith("cheat"):
            raise SolverFailed("not a valid answer")

    found = solve([stage("cheat", 1.0), stage("lpt", 4.0)], verify=verify)
    assert found.solver.used == "lpt"
    assert "not a valid answer" in found.solver.fallback_reason


def test_after_the_deadline_the_fallback_answers() -> None:
    found = solve([stage("lpt", 4.0)], deadline=Deadline(0.0))
    assert found.solver.used == "hash"
    assert "no time left" in found.solver.fallback_reason


def test_no_stage_means_the_fallback_was_asked_for() -> None:
    found = solve([])
    assert found.solver.requested == found.solver.used == "hash"
    assert found.solver.fallback_reason is None


def test_quantum_gain_only_when_a_quantum_stage_ran() -> None:
    gained = solve([stage("qaoa", 5.0, quantum=True)], baselines=[stage("anneal", 4.0)])
    assert gained.certificate.quantum_gain == -1.0
    plain = solve([stage("lpt", 5.0)], baselines=[stage("anneal", 4.0)])
    assert plain.certificate.quantum_gain is None


def test_a_refusing_baseline_is_left_out() -> None:
    found = solve([stage("lpt", 5.0)], baselines=[raising("exact", InputError("too large"))])
    assert set(found.certificate.baselines) == {"hash"}


def test_the_best_bound_counts() -> None:
    found = solve([stage("lpt", 5.0, bound=2.0)], bound=lambda _: 3.0)
    assert found.certificate.lower_bound == 3.0
    none = solve([stage("lpt", 5.0)], bound=lambda _: None, bound_reason="too large to bound")
    assert none.certificate.reasons["lower_bound"] == "too large to bound"


def test_bad_input_of_the_fallback_reaches_the_caller() -> None:
    with pytest.raises(InputError):
        solve([], fallback=raising("hash", InputError("empty")))


def test_breaker_opens_after_failures_and_tries_again_after_the_cooldown() -> None:
    breaker = CircuitBreaker(threshold=2, cooldown_s=60)
    bad = raising("qaoa", RuntimeError("boom"))
    for _ in range(2):
        solve([bad], breaker=breaker)
    found = solve([bad], breaker=breaker)
    assert "circuit breaker open" in found.solver.fallback_reason
    breaker.cooldown_s = 0.0
    assert breaker.allows("qaoa")
    assert solve([stage("qaoa", 1.0)], breaker=breaker).solver.used == "qaoa"


def test_refusals_do_not_open_the_breaker() -> None:
    breaker = CircuitBreaker(threshold=1)
    solve([raising("qaoa", InputError("30 qubits"))], breaker=breaker)
    assert breaker.allows("qaoa")


def test_stage_seeds_differ_by_name_and_seed_and_stay() -> None:
    assert stage_seed(1, "a") == stage_seed(1, "a")
    assert len({stage_seed(s, n) for s in (0, 1, 2) for n in ("a", "b")}) == 6


def test_stages_get_the_incumbent_and_their_own_seed() -> None:
    seen: dict[str, Any] = {}

    def run(_: str, *, deadline: Deadline, seed: int, incumbent: Any) -> Candidate[str]:
        seen.update(seed=seed, incumbent=incumbent.objective, left=deadline.remaining())
        return Candidate("x", 1.0)

    solve([Stage("s", run)], seed=7)
    assert seen["seed"] == stage_seed(7, "s")
    assert seen["incumbent"] == 10.0
    assert seen["left"] <= 5
