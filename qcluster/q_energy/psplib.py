"""Task sets from PSPLIB's ``.sm`` and ``.mm`` project files (Kolisch and Sprecher 1996).

The power of a task is the sum of its demands of renewable resources, one watt a unit unless told
otherwise; a ``.mm`` file's modes become power modes, whose demands of other resources (budgets
that all tasks share) are not kept. The dummy source and sink stay, as tasks of
duration 0.
"""

from __future__ import annotations

from pathlib import Path

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.problem import Task

__all__ = ["parse_psplib", "read_psplib"]


def read_psplib(path: str | Path, *, watts_per_unit: float = 1.0) -> tuple[Task, ...]:
    """The tasks of a PSPLIB file; ids are the job numbers, as text.

    Raises FormatError naming file and row; InputError naming file and task.
    """
    try:
        text = Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    try:
        return parse_psplib(text, watts_per_unit=watts_per_unit)
    except InputError as error:
        raise error.at(file=path) from None


def parse_psplib(text: str, *, watts_per_unit: float = 1.0) -> tuple[Task, ...]:
    """The tasks in a PSPLIB text."""
    lines = text.splitlines()
    _one_project(lines)
    renewable, others = _resources(lines)
    after: dict[int, list[int]] = {}
    declared: dict[int, int] = {}
    for row, numbers in _section(lines, "PRECEDENCE RELATIONS"):
        if len(numbers) < 3 or len(numbers) != 3 + numbers[2]:
            raise FormatError("wants job, modes, count and that many successors", row=row)
        after.setdefault(numbers[0], [])
        declared[numbers[0]] = numbers[1]
        for successor in numbers[3:]:
            after.setdefault(successor, []).append(numbers[0])
    modes: dict[int, list[tuple[int, float]]] = {}
    job = 0
    for row, numbers in _section(lines, "REQUESTS/DURATIONS"):
        # A job's second and later modes leave out its number.
        wanted = 3 + renewable + others
        first = len(numbers) == wanted
        if first:
            job = numbers[0]
        mode = numbers[1:] if first else numbers
        if len(mode) < wanted - 1 or not job:
            raise FormatError(f"wants a mode, a duration and {renewable + others} demands", row=row)
        watts = watts_per_unit * sum(mode[2 : 2 + renewable])
        modes.setdefault(job, []).append((mode[1], watts))
    if set(modes) != set(after):
        odd = min(set(modes) ^ set(after))
        raise FormatError(f"job {odd} stands in only one of the two tables")
    for job, count in declared.items():
        if len(modes[job]) != count:
            raise FormatError(f"job {job} has {len(modes[job])} modes where it should have {count}")
    return tuple(
        Task(
            str(job),
            *choices[0],
            tuple(map(str, after[job])),
            tuple(choices) if len(choices) > 1 else (),
        )
        for job, choices in modes.items()
    )


def _one_project(lines: list[str]) -> None:
    for row, line in enumerate(lines, 1):
        words = line.lower().split(":")
        if words[0].strip() == "projects" and words[-1].strip() != "1":
            raise FormatError(f"wants one project, got '{words[-1].strip()}'", row=row)
    found = [row for row, line in enumerate(lines, 1) if _is_title(line, "PRECEDENCE RELATIONS")]
    if len(found) > 1:
        raise FormatError("has a second project; put each in a file", row=found[1])


def _is_title(line: str, title: str) -> bool:
    return line.strip().upper().startswith(title)


def _resources(lines: list[str]) -> tuple[int, int]:
    """How many renewable resources there are, and how many of the other kinds."""
    counts = {"renewable": -1, "nonrenewable": 0, "doubly constrained": 0}
    for row, line in enumerate(lines, 1):
        for kind in counts:
            if line.strip().lower().startswith(f"- {kind}"):
                words = line.partition(":")[2].split()
                if not words or not words[0].isdigit():
                    message = f"wants a count of resources, got '{line.strip()}'"
                    raise FormatError(message, row=row)
                counts[kind] = int(words[0])
    if counts["renewable"] < 0:
        raise FormatError("is not a PSPLIB file: no line '- renewable'")
    return counts["renewable"], counts["nonrenewable"] + counts["doubly constrained"]


def _section(lines: list[str], title: str) -> list[tuple[int, list[int]]]:
    """Rows of whole numbers below a title, up to the line of stars."""
    found: list[tuple[int, list[int]]] = []
    inside = False
    for row, line in enumerate(lines, 1):
        if _is_title(line, title):
            inside = True
        elif inside and line.strip().startswith("*"):
            break
        elif inside:
            words = line.split()
            if words and words[0].lstrip("-").isdigit():
                try:
                    found.append((row, [int(word) for word in words]))
                except ValueError:
                    raise FormatError(f"wants whole numbers, got '{line}'", row=row) from None
    if not found:
        raise FormatError(f"has no rows under '{title}'")
    return found
