"""What users do to a study that no example shows: nothing is lost, and nothing is made up."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import FormatError, InputError, Refused
from qcluster.q_hpo import Study
from qcluster.q_hpo import journal as journal_module

U: dict[str, Any] = {"type": "uniform", "low": 0, "high": 1}
LR: dict[str, Any] = {"type": "loguniform", "low": 1e-5, "high": 0.1}
SPACE: dict[str, Any] = {"x": U, "lr": LR, "k": 7}


def bowl(config: Mapping[str, Any]) -> float:
    return float((config["x"] - 0.3) ** 2 + abs(math.log10(config["lr"]) + 3))


def run(study: Study, n: int) -> Study:
    for _ in range(n):
        trial = study.ask()
        study.tell(trial.id, bowl(trial.config))
    return study


def test_a_study_does_not_go_on_in_another_space(tmp_path: Path) -> None:
    """Its points mean other configurations there: values would belong to what was never tried."""
    path = tmp_path / "j.jsonl"
    run(Study(SPACE, journal=path), 3).close()
    for other, name in (
        ({**SPACE, "lr": {**LR, "high": 100}}, "lr"),
        ({"x": U, "lr": LR}, "k"),
        ({**SPACE, "y": U}, "y"),
        ({"lr": LR, "x": U, "k": 7}, "space"),
    ):
        with pytest.raises(InputError, match=f"field '{name}': is not what it was") as found:
            Study.load(path, space=other, journal=True)
        assert str(path) in str(found.value)
    same = Study.load(path, space=dict(SPACE), journal=True)
    assert len(same.history) == 3
    same.close()


def test_values_that_no_file_holds_are_compared_by_their_number(tmp_path: Path) -> None:
    space = {"f": {"type": "choice", "values": [math.sin, math.cos]}, "t": {
        "type": "choice", "values": [(1, 2), (3,)]}}  # fmt: skip
    study = Study(space)
    asked = [study.ask().config for _ in range(3)]
    study.save(tmp_path / "s")
    again = Study.load(tmp_path / "s", space=space)
    assert [t.config for t in again.history] == asked
    three = {**space, "f": {"type": "choice", "values": [math.sin, math.cos, math.tan]}}
    with pytest.raises(InputError, match="'f'"):
        Study.load(tmp_path / "s", space=three)


def test_saving_onto_the_own_journal_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    study = run(Study(SPACE, journal=path), 2)
    study.save(path)
    run(study, 2).close()
    assert [t.value for t in Study.load(path).history] == [t.value for t in study.history]
    with pytest.raises(Refused, match="is closed"):
        study.ask()
    assert len(study.history) == 4


def test_a_file_that_is_no_study_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text('{"x": 1}')  # one line without an end, like a line cut short
    for _ in range(2):
        with pytest.raises(FormatError):
            Study.load(path, journal=True)
        with pytest.raises(InputError, match="exists"):
            Study(SPACE, journal=path)
    assert path.read_text() == '{"x": 1}'
    with pytest.raises(InputError):
        Study(SPACE, journal=tmp_path)
    with pytest.raises(FormatError, match="directory"):
        Study.load(tmp_path, journal=True)


def test_a_journal_cut_in_its_first_line_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    run(Study(SPACE, journal=path), 1).close()
    whole = path.read_bytes()
    for end in (0, 5, 40, whole.index(b"\n")):
        path.write_bytes(whole[:end])
        run(Study(SPACE, journal=path), 1).close()
        assert path.read_bytes() == whole
    path.write_bytes(whole[: whole.index(b"\n") + 1])
    with pytest.raises(InputError, match="exists"):
        Study(SPACE, journal=path)


class FullDisk:
    """A file on a disk that takes ``room`` more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = int(self._file.write(data[: self.room]))
        self.room -= taken
        return taken


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_full_disk_ends_in_an_error_and_goes_on_when_there_is_room(
    room: int, tmp_path: Path
) -> None:
    path = tmp_path / "j.jsonl"
    study = run(Study(SPACE, journal=path), 3)
    assert study._journal is not None
    full = FullDisk(study._journal._file, room)
    study._journal._file = full  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            study.ask()
    full.room = 10**6
    run(study, 3).close()
    again = Study.load(path)
    assert [(t.config, t.value) for t in again.history] == [
        (t.config, t.value) for t in run(Study(SPACE), 6).history
    ]
    assert len(again.history) == 6


def test_a_lock_is_refused_and_the_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    study = run(Study(SPACE, journal=path), 1)
    with pytest.raises(Refused, match="another process"):
        Study.load(path, journal=True)
    with pytest.raises(Refused, match="another process"):
        journal_module.Journal(path)
    run(study, 1).close()
    assert len(Study.load(path).history) == 2


def test_given_configurations_are_run_as_given_before_and_after_a_restart(tmp_path: Path) -> None:
    """To the bit; with their constants, on their steps, and without what is inactive."""
    space = {**SPACE, "q": {"type": "quniform", "low": 0, "high": 1, "q": 0.1},
             "act": {"type": "choice", "values": ["a", "b"]},
             "slope": {**U, "when": {"parent": "act", "in": ["b"]}}}  # fmt: skip
    given = [{"x": 0.1, "lr": 0.001, "q": 0.34, "act": "a", "slope": 0.5},
             {"x": 1 / 3, "lr": 3e-4, "q": 1, "act": "b", "slope": 0.7}]  # fmt: skip
    wanted = [{"x": 0.1, "lr": 0.001, "k": 7, "q": 0.3, "act": "a"},
              {"x": 1 / 3, "lr": 3e-4, "k": 7, "q": 1.0, "act": "b", "slope": 0.7}]  # fmt: skip
    path = tmp_path / "j.jsonl"
    study = Study(space, points=given[:1], journal=path)
    study.enqueue(given[1:])
    study.add({**given[1], "lr": 7e-3}, 1.0)
    first = study.ask()
    study.close()
    again = Study.load(path, journal=True)
    assert [first.config, again.ask().config] == wanted
    assert again.history[0].config == {**wanted[1], "lr": 7e-3}
    assert again.history[1].config == first.config
    again.close()
    assert [t.config for t in Study.load(path).history] == [t.config for t in again.history]


def test_a_users_changes_to_a_configuration_stay_the_users() -> None:
    study = run(Study({"m": {"x": U}, "lr": LR}), 0)
    trial = study.ask()
    kept = json.loads(json.dumps(trial.config))
    trial.config["lr"] = 99
    trial.config["m"]["x"] = "gone"
    study.tell(trial, 1.0)  # the trial itself is as good as its name
    study.top(1)[0].config.clear()
    assert study.best is not None
    assert study.best.config == study.history[0].config == kept


def test_names_of_trials_never_collide() -> None:
    study = Study(SPACE)
    study.ask(id="t0001")
    names = [study.ask().id for _ in range(3)]
    assert len({*names, "t0001"}) == 4


def test_counts_and_priors_are_checked() -> None:
    study = run(Study(SPACE), 2)
    for k in ("a", None, 1.5, -1, True):
        with pytest.raises(InputError, match="'k'"):
            study.top(k)  # type: ignore[arg-type]
    assert study.top(0) == []
    assert len(study.ask(np.int64(2))) == 2  # type: ignore[call-overload]
    for prior in ("trials.csv", [1]):
        with pytest.raises(InputError, match="load_prior"):
            Study(SPACE, prior=prior)  # type: ignore[arg-type]


def test_tensors_and_arrays_of_one_number_are_values() -> None:
    torch = pytest.importorskip("torch")
    study = Study(SPACE)
    for value in (torch.tensor(0.5, requires_grad=True), np.array([0.5]), np.float32(0.5)):
        assert study.tell(study.ask().id, value).value == 0.5
    for value in (torch.zeros(2), np.zeros(2), [0.5]):
        with pytest.raises(InputError, match="wants a number"):
            study.tell(study.ask().id, value)


@pytest.mark.parametrize(
    "strategy", ["gp", "vqc", "hybrid", {"name": "vqc", "mode": "variational"}]
)
def test_values_at_both_ends_of_the_floats_are_searched(strategy: Any) -> None:
    study = Study(SPACE, strategy=strategy)
    ends = [1e308, -1e308, math.nan, 0.0, 1e-300]
    for i in range(10):
        study.tell(study.ask().id, ends[i % 5])
    assert study.best is not None
    assert study.best.value == -1e308


def test_long_histories_are_modelled_by_their_best_and_their_latest() -> None:
    """A process of 5,000 values would take minutes a suggestion; nothing tried is tried again."""
    study, rng = Study(SPACE, mode="max"), np.random.default_rng(0)
    values = rng.random(1200)
    for value in values:
        study.add({"x": rng.random(), "lr": 0.01}, value)
    view = study.view()
    assert len(view.values) == 500
    assert len(view.early) == 700
    assert len(view.taken) == 1200
    modelled = set((-view.values).tolist())
    assert set(np.sort(values)[-250:].tolist()) <= modelled
    assert set(values[-200:].tolist()) <= modelled
    assert list(-view.values) == [v for v in values.tolist() if v in modelled]


@pytest.mark.parametrize("points", [False, 0, "", {}])
def test_points_that_are_no_list_are_refused_even_when_empty(points: Any) -> None:
    with pytest.raises(InputError, match="'points': wants a list"):
        Study({"x": {"type": "uniform", "low": 0, "high": 1}}, points=points)
