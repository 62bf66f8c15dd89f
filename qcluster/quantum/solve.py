"""``solve``: an Ising problem to a certified solution, through the one chain of all domains."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError, NotFound, SolverFailed
from qcluster.fallback import Candidate, Certified, Stage, certified
from qcluster.quantum import annealing, exact, greedy, lns, qaoa, recursive  # noqa: F401
from qcluster.quantum.convex_bounds import best_bound
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solver import SOLVERS, IsingSolver, Solution
from qcluster.quantum.space import Space

__all__ = ["ising_stage", "solve", "verify_spins", "warm_up"]

Spins = NDArray[np.int8]

# Enumeration takes about 2 ns a configuration: 10 ms and 40 ms at these sizes.
ENUMERATED_BY_AUTO = 2**22
ENUMERATED_AS_BASELINE = 2**24
ENUMERATED_AS_BOUND = 2**20

_TINY = IsingProblem([1.0, -1.0, 0.5, 0.0], {(0, 1): 1.0, (1, 2): -1.0}, groups=[[2, 3]])


def solve(
    problem: IsingProblem, *, solver: str = "auto", deadline_s: float = 1.0, seed: int = 0
) -> Solution:
    """Minimise an Ising problem.

    Parameters
    ----------
    solver: a name in ``SOLVERS``, or ``auto``: enumeration up to 2^22 feasible configurations, the
        strongest classical search above. ``auto`` never takes a quantum path, since none simulated
        here has won against them.
    deadline_s: time for the answer, in seconds. Baselines run after it for as long as it took;
        compiling kernels (seconds, once a machine; ``warm_up`` does it ahead) comes before it.
    seed: of everything random.

    Returns a Solution that is never worse than descent (``greedy``), with a proven bound,
    classical baselines and, when a quantum solver ran, its gain over the best of them.

    Raises
    ------
    InputError: unknown solver, or a deadline or seed that makes no sense.
    """
    if not isinstance(problem, IsingProblem):
        raise InputError(f"wants an IsingProblem, got {type(problem).__name__}", field="problem")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"wants a whole number of at least 0, got {seed!r}", field="seed")
    Deadline.after(deadline_s)  # refuses a bad time before anything is done
    names = _chain(problem, solver)
    _load_kernels()
    if ising_stage(names[0]).quantum:
        _load_engines()
    deadline = Deadline.after(deadline_s)
    result = certified(
        problem,
        stages=[ising_stage(name) for name in names],
        fallback=ising_stage("greedy"),
        deadline=deadline,
        seed=int(seed),
        baselines=[_baseline(name) for name in _baselines(problem, names[0])],
        bound=_bound,
        verify=verify_spins,
    )
    return _solution(result, solver, int(seed))


def ising_stage(name: str) -> Stage[IsingProblem, Spins]:
    """The solver of this name as a stage of the chain; its energies are recomputed here.

    Raises InputError for an unknown name.
    """
    try:
        solver = SOLVERS.get(name)
    except NotFound as error:
        raise InputError(str(error), field="solver") from None

    def run(
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        incumbent: Candidate[Spins] | None = None,
    ) -> Candidate[Spins]:
        return _run(solver, problem, deadline, seed, incumbent)

    return Stage(name, run, quantum=solver.quantum)


def verify_spins(problem: IsingProblem, z: Spins) -> None:
    """Raise SolverFailed unless z is (n,) of +-1 and satisfies every one-hot group."""
    spins = np.asarray(z)
    if spins.shape != (problem.n,) or not np.isin(spins, (-1, 1)).all():
        raise SolverFailed(f"wants {problem.n} spins of +-1")
    if not problem.feasible(spins):
        raise SolverFailed("a one-hot group has not exactly one +1")


def warm_up() -> None:
    """Load (or, the first time on a machine, compile) everything that ``solve`` uses."""
    solve(_TINY, solver="qaoa", deadline_s=5.0)
    best_bound(IsingProblem(_TINY.h, {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.0}))


@functools.cache
def _load_kernels() -> None:
    """Once a process, before the clock starts: a deadline is for solving, not for compiling."""
    for problem in (_TINY, IsingProblem(_TINY.h)):
        for solver in (greedy.GreedySolver(), annealing.AnnealingSolver(visits=1000, patience=1)):
            solver.solve(problem, deadline=Deadline.never(), seed=0)


@functools.cache
def _load_engines() -> None:
    """As above, for what simulates circuits; scipy's optimiser comes with it."""
    one = (1, 1)  # layers and shots
    for problem in (_TINY, IsingProblem(_TINY.h), IsingProblem(_TINY.h, groups=[[0, 1, 2]])):
        for solver in (
            qaoa.QAOASolver(*one), qaoa.WarmStartQAOASolver(*one), qaoa.MultiAngleQAOASolver(*one)
        ):  # fmt: skip
            solver.solve(problem, deadline=Deadline.after(0.0), seed=0)


def _run(
    solver: IsingSolver,
    problem: IsingProblem,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Spins] | None,
) -> Candidate[Spins]:
    reason = solver.refuses(problem)
    if reason is not None:
        raise InputError(reason)
    start = None if incumbent is None else incumbent.value
    found = solver.solve(problem, deadline=deadline, seed=seed, start=start)
    z = np.asarray(found.z, dtype=np.int8)
    verify_spins(problem, z)
    energy = float(problem.energy(z))
    if abs(energy - found.energy) > 1e-9 * max(1.0, problem.scale, abs(problem.offset)):
        raise SolverFailed(f"says energy {found.energy!r}, its spins have {energy!r}")
    return Candidate(z, energy, found.lower_bound, dict(found.notes))


def _chain(problem: IsingProblem, solver: str) -> list[str]:
    if solver != "auto":
        return [solver] if solver == "annealing" else [solver, "annealing"]
    small = Space.of(problem).size <= ENUMERATED_BY_AUTO
    return ["exact", "annealing"] if small else ["annealing"]


def _bound(problem: IsingProblem) -> float:
    """The minimum itself where enumerating takes a few milliseconds."""
    if Space.of(problem).size <= ENUMERATED_AS_BOUND:
        return exact.ExactSolver().solve(problem, deadline=Deadline.never(), seed=0).energy
    return best_bound(problem)


def _baselines(problem: IsingProblem, first: str) -> list[str]:
    names = ["annealing"]
    if Space.of(problem).size <= ENUMERATED_AS_BASELINE:
        names.append("exact")
    return [name for name in names if name != first]


def _baseline(name: str) -> Stage[IsingProblem, Spins]:
    """As a stage, but an enumeration that was cut short is left out: it would not be exact."""
    stage = ising_stage(name)

    def run(problem: IsingProblem, **arguments: Any) -> Candidate[Spins]:
        found = stage.run(problem, **arguments)
        if found.notes.get("complete") is False:
            raise DeadlineExceeded("enumeration was cut short")
        return found

    return Stage(name, run, quantum=stage.quantum)


def _solution(result: Certified[Spins], requested: str, seed: int) -> Solution:
    certificate = result.certificate
    notes: dict[str, Any] = dict(result.notes)
    return Solution(
        z=result.value,
        objective=certificate.objective,
        lower_bound=certificate.lower_bound,
        gap=certificate.gap,
        solver=result.solver.used,
        requested=requested,
        baselines=certificate.baselines,
        quantum_gain=certificate.quantum_gain,
        reasons=certificate.reasons,
        fallback_reason=result.solver.fallback_reason,
        notes=notes,
        seed=seed,
        wall_s=result.wall_s,
    )
