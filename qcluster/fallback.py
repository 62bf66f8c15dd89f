"""The one chain that every domain solves through.

A domain states its problem and names *stages*: solvers that take the problem and give a
``Candidate``. ``certified`` runs the deterministic fallback first (it is cheap and always
answers), then the requested stages in order until one delivers, under one deadline; checks the
answer with the domain's verifier; keeps whichever is better; computes the bound; then runs the
baselines with the same time budget; and returns value and certificate together. Seeds, timers,
circuit breakers and reasons live here, so no domain has its own.

The circuit breaker follows Nygard (Release It!, 2007): after ``threshold`` failures in a row a
stage is skipped until ``cooldown_s`` has passed, then tried once.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError, SolverFailed
from qcluster.plan import Certificate, SolverRef, certify

__all__ = [
    "Candidate",
    "Certified",
    "CircuitBreaker",
    "Stage",
    "certified",
    "stage_seed",
]

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """What a stage brings back: a value, its objective (minimised) and, if it has one, a bound.

    ``lower_bound`` must hold for the problem, not just for this stage. ``notes`` go into the
    plan's parameters (angles, iterations, energies).
    """

    value: T
    objective: float
    lower_bound: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage(Generic[P, T]):
    """A named solver.

    ``run(problem, deadline=, seed=, incumbent=)`` returns a Candidate, its best when the deadline
    comes. It may raise; the chain then goes on and remembers why.
    """

    name: str
    run: Callable[..., Candidate[T]]
    quantum: bool = False


@dataclass(frozen=True)
class Certified(Generic[T]):
    """An answer with its proof."""

    value: T
    certificate: Certificate
    solver: SolverRef
    wall_s: float
    notes: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


class CircuitBreaker:
    """Skips stages that keep failing. Safe to share between threads; one a process and domain."""

    def __init__(self, threshold: int = 3, cooldown_s: float = 30.0) -> None:
        self.threshold, self.cooldown_s = threshold, cooldown_s
        self._failures: dict[str, int] = {}
        self._opened: dict[str, float] = {}
        self._lock = threading.Lock()

    def allows(self, name: str) -> bool:
        """Whether to try the stage: closed, or open for longer than the cool-down."""
        with self._lock:
            opened = self._opened.get(name)
            return opened is None or time.monotonic() - opened >= self.cooldown_s

    def record(self, name: str, ok: bool) -> None:
        """Tell how a try went."""
        with self._lock:
            if ok:
                self._failures.pop(name, None)
                self._opened.pop(name, None)
                return
            self._failures[name] = self._failures.get(name, 0) + 1
            if self._failures[name] >= self.threshold:
                self._opened[name] = time.monotonic()


def certified(
    problem: P,
    *,
    stages: Sequence[Stage[P, T]],
    fallback: Stage[P, T],
    baselines: Sequence[Stage[P, T]] = (),
    bound: Callable[[P], float | None] | None = None,
    verify: Callable[[P, T], None] | None = None,
    deadline: Deadline,
    seed: int = 0,
    breaker: CircuitBreaker | None = None,
    bound_reason: str = "no bound is known for this problem",
) -> Certified[T]:
    """Solve ``problem`` through the chain and certify the answer.

    Parameters
    ----------
    stages: what was asked for, best first; empty means the fallback alone was asked for.
    fallback: deterministic, fast, never fails on valid input. Its objective is the floor: the
        answer is never worse.
    baselines: classical solvers to stand beside the answer. They run after it, each with as much
        time as the answer took (at least 10 ms), and never delay it past ``deadline`` by design:
        the deadline covers the answer alone.
    bound: a proven lower bound on the objective of any answer.
    verify: raises SolverFailed when a value is not a valid answer.

    Raises InputError when the problem itself is bad; never because of a solver.
    """
    started = time.perf_counter()
    run = _run_stages(problem, stages, fallback, verify, deadline, seed, breaker)
    wall_s = time.perf_counter() - started
    beside = _baselines(problem, baselines, fallback, run.floor, wall_s, seed, verify)
    return Certified(
        value=run.best.value,
        certificate=certify(
            run.best.objective,
            lower_bound=_best_bound(problem, bound, run.found),
            baselines=beside,
            quantum_used=run.quantum,
            bound_reason=bound_reason,
        ),
        solver=SolverRef(
            requested=stages[0].name if stages else fallback.name,
            used=run.used.name,
            fallback_reason="; ".join(run.reasons) or None,
        ),
        wall_s=wall_s,
        notes=dict(run.best.notes),
    )


@dataclass
class _Run(Generic[P, T]):
    """How the chain went: everything found, the best of it, and why stages were passed over."""

    floor: Candidate[T]
    best: Candidate[T]
    used: Stage[P, T]
    found: list[Candidate[T]]
    reasons: list[str] = field(default_factory=list)
    quantum: bool = False


def _run_stages(
    problem: P,
    stages: Sequence[Stage[P, T]],
    fallback: Stage[P, T],
    verify: Callable[[P, T], None] | None,
    deadline: Deadline,
    seed: int,
    breaker: CircuitBreaker | None,
) -> _Run[P, T]:
    floor = _attempt(fallback, problem, deadline, seed, None, verify)
    run = _Run(floor, floor, fallback, [floor])
    for position, stage in enumerate(stages):
        if breaker is not None and not breaker.allows(stage.name):
            run.reasons.append(f"{stage.name}: circuit breaker open after repeated failures")
            continue
        # The last stage may use all the time, the others leave some to those behind them.
        share = deadline if position == len(stages) - 1 else deadline.share(0.7)
        found, reason = _try(stage, problem, share, seed, run.best, verify, breaker)
        if found is None:
            run.reasons.append(f"{stage.name}: {reason}")
            continue
        run.quantum = stage.quantum
        run.found.append(found)
        if found.objective <= run.best.objective:
            run.best, run.used = found, stage
        else:
            run.reasons.append(f"{stage.name}: worse than {run.used.name}, which is kept")
        break
    return run


def stage_seed(seed: int, name: str) -> int:
    """A seed for one stage, so that adding a stage does not change what the others draw."""
    return (seed * 0x9E3779B1 + zlib.crc32(name.encode())) % 2**63


def _attempt(
    stage: Stage[P, T],
    problem: P,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[T] | None,
    verify: Callable[[P, T], None] | None,
) -> Candidate[T]:
    found = stage.run(
        problem, deadline=deadline, seed=stage_seed(seed, stage.name), incumbent=incumbent
    )
    if verify is not None:
        verify(problem, found.value)
    return found


def _try(
    stage: Stage[P, T],
    problem: P,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[T],
    verify: Callable[[P, T], None] | None,
    breaker: CircuitBreaker | None,
) -> tuple[Candidate[T] | None, str]:
    try:
        deadline.check()
        found = _attempt(stage, problem, deadline, seed, incumbent, verify)
        reason = ""
    except DeadlineExceeded:
        # Not the stage's fault when there was no time left to begin with.
        return None, "no time left before the deadline"
    except InputError as error:
        # A stage that does not fit the problem (too many qubits, say) refuses with InputError;
        # bad input as such was already refused when the problem was built.
        return None, str(error)
    except Exception as error:
        found, reason = None, f"{type(error).__name__}: {error}"
    if breaker is not None:
        breaker.record(stage.name, found is not None)
    return found, reason


def _best_bound(
    problem: P, bound: Callable[[P], float | None] | None, found: Sequence[Candidate[T]]
) -> float | None:
    bounds = [c.lower_bound for c in found if c.lower_bound is not None]
    if bound is not None and (own := bound(problem)) is not None:
        bounds.append(own)
    return max(bounds, default=None)


def _baselines(
    problem: P,
    baselines: Sequence[Stage[P, T]],
    fallback: Stage[P, T],
    floor: Candidate[T],
    budget_s: float,
    seed: int,
    verify: Callable[[P, T], None] | None,
) -> dict[str, float]:
    found = {fallback.name: floor.objective}
    for stage in baselines:
        try:
            deadline = Deadline.after(max(budget_s, 0.01))
            found[stage.name] = _attempt(stage, problem, deadline, seed, None, verify).objective
        except (InputError, SolverFailed, DeadlineExceeded):
            # A baseline that does not fit the problem is left out; it proves nothing either way.
            continue
    return found
