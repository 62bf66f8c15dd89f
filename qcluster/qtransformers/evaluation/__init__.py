"""GLUE and SuperGLUE with statistics: tasks, metrics, tests of differences, reports."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Comparison": "report",
    "EvaluationReport": "report",
    "TASKS": "tasks",
    "Task": "tasks",
    "compare": "significance",
    "evaluate": "run",
    "load_task": "tasks",
}

__all__ = [
    "TASKS",
    "Comparison",
    "EvaluationReport",
    "Task",
    "compare",
    "evaluate",
    "load_task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
