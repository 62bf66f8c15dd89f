"""GLUE and SuperGLUE tasks: what a line of their files means, and readers for local files.

Read are the files as the benchmarks distribute them (TSV with a header, JSON lines with the
benchmarks' field names), CoLA's four columns without a header, and ``label sentence`` lines of
SST-2. With the ``datasets`` library installed a task can also be loaded by name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, MissingDependency, NotFound
from qcluster.text_file import read_text

__all__ = ["TASKS", "Example", "Task", "from_hub", "load_task"]


@dataclass(frozen=True)
class Example:
    """One item. ``texts`` has one entry, or one for each choice; each is a sentence or a pair."""

    texts: tuple[tuple[str, ...], ...]
    label: int
    group: str
    """Items of a group (mirrored twins) stay in the same fold."""


@dataclass(frozen=True)
class Task:
    """A task's fields, labels and metric."""

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metric: str
    hub: tuple[str, str]
    """Path and name for the ``datasets`` library."""
    hub_fields: tuple[str, ...] | None = None

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.labels)


_GLUE, _SUPER = "nyu-mll/glue", "aps/super_glue"
_ENTAILS = ("entailment", "not_entailment")
_THREE = ("entailment", "contradiction", "neutral")
_PAIR = ("sentence1", "sentence2")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("0", "1"), "matthews", (_GLUE, "cola")),
        Task("sst2", ("sentence",), ("0", "1"), "accuracy", (_GLUE, "sst2")),
        Task("mrpc", _PAIR, ("0", "1"), "f1", (_GLUE, "mrpc")),
        Task("qqp", ("question1", "question2"), ("0", "1"), "f1", (_GLUE, "qqp")),
        Task("qnli", ("question", "sentence"), _ENTAILS, "accuracy", (_GLUE, "qnli")),
        Task("rte", _PAIR, _ENTAILS, "accuracy", (_GLUE, "rte")),
        Task("wnli", _PAIR, ("0", "1"), "accuracy", (_GLUE, "wnli")),
        Task("boolq", ("question", "passage"), ("false", "true"), "accuracy", (_SUPER, "boolq")),
        Task("cb", ("premise", "hypothesis"), _THREE, "macro_f1", (_SUPER, "cb")),
        Task("copa", ("premise", "choice1", "choice2", "question"), ("0", "1"), "accuracy",
             (_SUPER, "copa")),
    )
}  # fmt: skip

_OTHER_NAMES = {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}


def load_task(name: str, path: str | Path) -> list[Example]:
    """Examples of a task from a local file.

    Raises NotFound for another task and FormatError naming file, row and field.
    """
    task = _task(name)
    path = Path(path)
    text = read_text(path)
    examples = []
    for number, row in _rows(task, path, text):
        try:
            examples.append(_example(task, row, number))
        except FormatError as error:
            raise error.at(file=path, row=number) from None
    if not examples:
        raise FormatError("holds no examples", file=path)
    return examples


def from_hub(name: str, split: str = "validation") -> list[Example]:
    """Examples of a task through the ``datasets`` library.

    Raises MissingDependency where it is not installed.
    """
    task = _task(name)
    try:
        import datasets
    except ImportError:
        raise MissingDependency("datasets", needed_for="tasks that are not local files") from None
    rows = datasets.load_dataset(*task.hub, split=split)
    return [_example(task, row, number) for number, row in enumerate(rows, 1)]


def _task(name: str) -> Task:
    if name not in TASKS:
        raise NotFound(f"no task called '{name}'; there are: {', '.join(sorted(TASKS))}")
    return TASKS[name]


def _rows(task: Task, path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text.splitlines()
    if path.suffix in {".jsonl", ".json"}:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _json(line, path, number)
        return
    first = lines[0].split("\t") if lines else []
    if task.name == "cola" and len(first) == 4 and "sentence" not in first:
        for number, line in enumerate(lines, 1):
            yield (
                number,
                _columns(line.split("\t"), ("source", "label", "mark", "sentence"), number),
            )
        return
    if task.name == "sst2" and len(first) == 1:
        for number, line in enumerate(lines, 1):
            label, _, sentence = line.partition(" ")
            yield number, {"label": label, "sentence": sentence}
        return
    # Quotes are part of the sentences in these files.
    for number, row in enumerate(csv.reader(lines[1:], delimiter="\t", quoting=csv.QUOTE_NONE), 2):
        if row:
            yield number, _columns(row, first, number)


def _json(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", file=path, row=number) from None
    if not isinstance(row, dict):
        raise FormatError("is not a JSON object", file=path, row=number)
    return row


def _columns(row: list[str], names: Any, number: int) -> Mapping[str, str]:
    if len(row) != len(names):
        raise FormatError(f"{len(row)} columns where {len(names)} are wanted", row=number)
    return dict(zip(names, row, strict=True))


def _example(task: Task, row: Mapping[str, Any], number: int) -> Example:
    values = {name: _text(row, name) for name in task.fields}
    label = _label(task, row)
    if task.name != "copa":
        return Example((tuple(values.values()),), label, str(number))
    link = "because" if values["question"] == "cause" else "so"
    premise = values["premise"].rstrip(".")
    choices = tuple((f"{premise} {link}", values[f"choice{i}"]) for i in (1, 2))
    # Twins of Balanced COPA: item i and its mirror image 1000 + i.
    index = row.get("idx", number)
    group = str(index % 1000) if isinstance(index, int) else str(index)
    return Example(choices, label, group)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, row.get(_OTHER_NAMES.get(name, name)))
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"wanted text, came {value!r}", field=name)
    return value


def _label(task: Task, row: Mapping[str, Any]) -> int:
    value = row.get("label", row.get(_OTHER_NAMES["label"]))
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, int) and 0 <= value < task.classes:
        return value
    if str(value) in task.labels:
        return task.labels.index(str(value))
    raise FormatError(f"wanted one of {', '.join(task.labels)}, came {value!r}", field="label")
