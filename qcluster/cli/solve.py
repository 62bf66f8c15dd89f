"""``qcluster solve``: an Ising or QUBO file to a certified solution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table, note

if TYPE_CHECKING:
    from qcluster.quantum import IsingProblem, Solution

__all__ = ["register"]

SPINS_SHOWN = 72


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("solve")(solve_command)


def solve_command(
    file: Path = typer.Argument(..., help="JSON, COO, G-set or DIMACS; JSON may hold a list."),
    solver: str = typer.Option("auto", help="auto, exact, greedy, annealing, qaoa, ..."),
    deadline_s: float = typer.Option(1.0, min=0.0, help="Seconds for each answer."),
    seed: int = typer.Option(0, min=0, help="Seed of everything random."),
    json_out: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Minimise an Ising problem, with baselines, bound and quantum gain beside the answer.

    Example: qcluster solve G1.txt --deadline-s 5

    With --json a file of one problem gives an object, a file of several a list of objects.
    """
    from qcluster.quantum.formats import read_problems
    from qcluster.quantum.solve import solve

    problems = read_problems(file)
    solutions = []
    for number, problem in enumerate(problems, 1):
        if len(problems) > 1:
            note(f"problem {number} of {len(problems)}: {problem.n} spins")
        solutions.append(solve(problem, solver=solver, deadline_s=deadline_s, seed=seed))
    if json_out:
        emit_json(solutions[0] if len(solutions) == 1 else solutions)
    elif len(solutions) == 1:
        _show(problems[0], solutions[0])
    else:
        _show_many(problems, solutions)


def _show(problem: IsingProblem, solution: Solution) -> None:
    rows: list[tuple[str, Any]] = [
        ("variables", problem.n),
        ("objective", solution.objective),
        ("lower bound", _or_reason(solution, "lower_bound")),
        ("gap", _percent(solution.gap)),
        ("solver", solution.solver),
        ("quantum gain", _or_reason(solution, "quantum_gain")),
        *((f"baseline {name}", value) for name, value in sorted(solution.baselines.items())),
        ("wall time", f"{solution.wall_s * 1e3:.3g} ms"),
    ]
    if problem.n and not problem.h.any() and not problem.groups and not problem.offset:
        rows.insert(2, ("cut, as MaxCut", (problem.weights.sum() - solution.objective) / 2))
    if solution.fallback_reason:
        rows.append(("fallback", solution.fallback_reason))
    if problem.n <= SPINS_SHOWN:
        rows.append(("spins", "".join("+" if spin > 0 else "-" for spin in solution.z)))
    emit_table(("", ""), rows)


def _show_many(problems: list[IsingProblem], solutions: list[Solution]) -> None:
    columns = ("problem", "n", "objective", "bound", "gap", "solver", "best baseline", "gain")
    emit_table(
        columns,
        [
            (
                number,
                problem.n,
                solution.objective,
                _or_dash(solution.lower_bound),
                _percent(solution.gap),
                solution.solver,
                min(solution.baselines.values()),
                _or_dash(solution.quantum_gain),
            )
            for number, (problem, solution) in enumerate(zip(problems, solutions, strict=True), 1)
        ],
    )


def _or_reason(solution: Solution, name: str) -> Any:
    value = getattr(solution, name)
    return f"none: {solution.reasons.get(name, 'unknown')}" if value is None else value


def _or_dash(value: float | None) -> Any:
    return "-" if value is None else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3%}"
