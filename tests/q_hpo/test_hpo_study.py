"""Studies: ask, tell, resume, and what becomes of every kind of outcome."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import FormatError, InputError, NotFound, Refused
from qcluster.q_hpo import Prior, Study

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": -5, "high": 5},
    "y": {"type": "loguniform", "low": 1e-3, "high": 10},
    "k": {"type": "choice", "values": ["a", "b"]},
}
STRATEGIES = ["gp", "sobol", "random"]


def loss(config: dict[str, Any]) -> float:
    return (config["x"] - 1) ** 2 + math.log(config["y"]) ** 2 + (config["k"] == "b")


def run(study: Study, n: int) -> list[dict[str, Any]]:
    asked = []
    for _ in range(n):
        trial = study.ask()
        asked.append(trial.config)
        study.tell(trial.id, loss(trial.config))
    return asked


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_search(strategy: str) -> None:
    assert run(Study(SPACE, strategy=strategy, seed=3), 14) == run(
        Study(SPACE, strategy=strategy, seed=3), 14
    )
    assert run(Study(SPACE, strategy=strategy, seed=3), 3) != run(
        Study(SPACE, strategy=strategy, seed=4), 3
    )


def test_gp_finds_the_minimum() -> None:
    study = Study(SPACE, seed=0)
    run(study, 30)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.01


def test_mode_max_mirrors_min() -> None:
    low, high = Study(SPACE, seed=0), Study(SPACE, seed=0, mode="max")
    for _ in range(14):
        a, b = low.ask(), high.ask()
        assert a.config == b.config
        low.tell(a.id, loss(a.config))
        high.tell(b.id, -loss(b.config))
    assert low.best is not None
    assert high.best is not None
    assert low.best.id == high.best.id


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_batch_is_spread(strategy: str) -> None:
    study = Study(SPACE, strategy=strategy, seed=1)
    run(study, 12)
    batch = study.ask(8)
    assert len({json.dumps(t.config) for t in batch}) == 8
    assert [t.id for t in study.running] == [t.id for t in batch]


def test_given_points_come_first_in_order() -> None:
    points = [{"x": 0.0, "y": 1.0, "k": "b"}, {"x": 1.0, "y": 2.0, "k": "a"}]
    study = Study(SPACE, points=points)
    assert [study.ask().config, study.ask().config] == points
    assert study.ask().arm != "given"


def test_a_pool_is_all_there_is() -> None:
    pool = [{"x": float(i), "y": 1.0, "k": k} for i in range(-4, 5) for k in "ab"]
    study = Study(SPACE, pool=pool, seed=0)
    asked = run(study, 18)
    assert sorted(map(str, asked)) == sorted(map(str, pool))
    assert run(study, 1)[0] in pool


def test_outcomes_of_every_kind() -> None:
    study = Study(SPACE, seed=0)
    a, b, c, d = study.ask(4)
    study.tell(a.id, 1.0)
    assert study.tell(b.id, float("inf")).status == "nan"
    study.tell(c.id, None, "failed")
    study.tell(d.id, None, "abandoned")
    assert [t.status for t in study.history] == ["ok", "nan", "failed", "abandoned"]
    assert study.running == []
    assert study.best is not None
    assert study.best.id == a.id


def test_values_of_numpy_are_numbers() -> None:
    study = Study(SPACE)
    assert study.tell(study.ask().id, np.float32(0.5)).value == 0.5
    assert study.tell(study.ask().id, np.array([2])).value == 2.0


def test_telling_twice_counts_once() -> None:
    study = Study(SPACE)
    trial = study.ask()
    study.tell(trial.id, 1.0)
    study.tell(trial.id, 1.0)
    with pytest.raises(InputError, match="is finished"):
        study.tell(trial.id, 2.0)
    assert len(study.history) == 1


@pytest.mark.parametrize(
    ("value", "status", "step"),
    [("1", "ok", None), (True, "ok", None), (None, "ok", None), (1.0, "done", None),
     (1.0, "ok", -1), (1.0, "ok", 1.5), ([1, 2], "ok", None)],
)  # fmt: skip
def test_impossible_outcomes_are_refused(value: Any, status: str, step: Any) -> None:
    study = Study(SPACE)
    trial = study.ask()
    with pytest.raises(InputError):
        study.tell(trial.id, value, status, step)
    assert study.running[0].id == trial.id


def test_unknown_trials_and_bad_arguments() -> None:
    study = Study(SPACE)
    with pytest.raises(NotFound):
        study.tell("t9999", 1.0)
    for n in (0, -1, True, 1.5):
        with pytest.raises(InputError):
            study.ask(n)  # type: ignore[call-overload]
    study.ask(id="mine")
    with pytest.raises(InputError, match="already"):
        study.ask(id="mine")
    for wrong in ({"mode": "down"}, {"seed": -1}, {"strategy": "magic"}, {"pool": []},
                  {"strategy": {"name": "gp", "desing": 3}}, {"points": [{"x": 99}]}):  # fmt: skip
        with pytest.raises(InputError):
            Study(SPACE, **wrong)


@pytest.mark.parametrize("outcome", ["failed", "nan", "same"])
def test_hopeless_objectives_do_not_stop_the_search(outcome: str) -> None:
    study = Study(SPACE, seed=0)
    for _ in range(16):
        trial = study.ask()
        study.tell(
            trial.id, 3.0 if outcome == "same" else None, "ok" if outcome == "same" else outcome
        )
    assert len({json.dumps(t.config) for t in study.history}) == 16


def test_a_finite_space_is_tried_whole_before_anything_twice() -> None:
    study = Study({"a": {"type": "randint", "low": 0, "high": 6}, "b": {"type": "choice",
                   "values": ["x", "y"]}}, seed=0)  # fmt: skip
    seen = []
    for _ in range(12):
        trial = study.ask()
        seen.append(json.dumps(trial.config))
        study.tell(trial.id, trial.config["a"])
    assert len(set(seen)) == 12
    assert study.ask().config["a"] in range(6)


def test_low_fidelity_is_never_the_best() -> None:
    study = Study(SPACE, max_step=10)
    a, b = study.ask(2)
    study.tell(a.id, 0.0, step=2)
    study.tell(b.id, 1.0, step=10)
    assert study.best is not None
    assert study.best.id == b.id


def test_top_holds_different_configurations() -> None:
    study = Study(SPACE, seed=0)
    run(study, 5)
    worst = study.top(5)[-1]
    study.add(worst.config, -1.0)
    assert len(study.top(10)) == 5
    assert study.top(1)[0].value == -1.0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("at", [0, 4, 11, 15])
def test_a_saved_study_goes_on_as_if_nothing_happened(
    strategy: str, at: int, tmp_path: Path
) -> None:
    whole = run(Study(SPACE, strategy=strategy, seed=5), 18)
    study = Study(SPACE, strategy=strategy, seed=5)
    first = run(study, at)
    study.save(tmp_path / "study.jsonl")
    assert first + run(Study.load(tmp_path / "study.jsonl"), 18 - at) == whole


def test_a_saved_study_keeps_everything(tmp_path: Path) -> None:
    prior = Prior(configs=[{"x": 1.0, "y": 1.0, "k": "a"}], values=[0.0], names=["old"])
    study = Study(SPACE, seed=5, mode="max", prior=prior, max_step=9,
                  points=[{"x": 0.0, "y": 1.0, "k": "b"}])  # fmt: skip
    run(study, 3)
    study.ask()
    study.save(tmp_path / "s")
    again = Study.load(tmp_path / "s")
    assert [t.to_dict() for t in again.history] == [t.to_dict() for t in study.history]
    assert list(again.records()) == list(study.records())


def test_a_journal_is_one_writer_and_append_only(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    study = Study(SPACE, journal=path)
    run(study, 2)
    with pytest.raises(InputError, match="exists"):
        Study(SPACE, journal=path)
    with pytest.raises(Refused):
        Study.load(path, journal=True)
    before = path.read_bytes()
    study.close()
    again = Study.load(path, journal=True)
    run(again, 1)
    again.close()
    assert path.read_bytes().startswith(before)
    assert len(Study.load(path).history) == 3


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    study = Study(SPACE, journal=path)
    run(study, 2)
    study.close()
    with path.open("ab") as file:
        file.write(b'{"tell": "t00')
    again = Study.load(path, journal=True)
    assert len(again.history) == 2
    run(again, 1)
    again.close()
    assert len(Study.load(path).history) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a study"),
        ("{}\n", "not a study"),
        ('{"qcluster_study": 99}\n', "version 99"),
        ('{"qcluster_study": 1}\n', "not whole"),
        ("[1]\n", "object a line"),
        ("nonsense\n", "not JSON"),
    ],
)
def test_other_files_are_refused(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(FormatError, match=word):
        Study.load(path)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    study = Study(SPACE)
    run(study, 1)
    study.save(path)
    path.write_text(
        path.read_text() + '{"tell": "nobody", "value": 1, "status": "ok", "step": null}\n'
    )
    with pytest.raises(FormatError, match="row 4"):
        Study.load(path)
    with pytest.raises(FormatError, match="cannot be read"):
        Study.load(tmp_path / "absent")


def resume_and_finish(path: Path, steps: int | None) -> None:
    """Go on with the journal; after ``steps`` calls of ask and tell, die as by SIGKILL."""
    study = (
        Study.load(path, journal=True)
        if path.exists() and path.stat().st_size
        else Study(SPACE, seed=2, journal=path)
    )

    def step() -> None:
        nonlocal steps
        if steps is not None:
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            steps -= 1

    for trial in study.running:
        step()
        study.tell(trial.id, loss(trial.config))
    while len(study.history) < 16:
        step()
        trial = study.ask()
        step()
        study.tell(trial.id, loss(trial.config))


def test_sigkill_at_twenty_moments_changes_nothing(tmp_path: Path) -> None:
    """Killed between any two steps, again and again: one history, bit for bit."""
    path = tmp_path / "journal.jsonl"
    rng = np.random.default_rng(0)
    kills = 0
    while kills < 20:
        child = os.fork()
        if child == 0:
            resume_and_finish(path, int(rng.integers(0, 3)))
            os._exit(0)
        rng.integers(0, 3)  # keep in step with the child
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            path.unlink()  # it got through: begin again
    resume_and_finish(path, None)
    whole = Study(SPACE, seed=2)
    run(whole, 16)
    assert [t.to_dict() for t in Study.load(path).history] == [t.to_dict() for t in whole.history]


def test_a_write_cut_anywhere_resumes_to_the_same_search(tmp_path: Path) -> None:
    """The file is cut at every kind of byte: what is left is a prefix, and goes on the same."""
    path = tmp_path / "journal.jsonl"
    study = Study(SPACE, seed=2, journal=path)
    run(study, 9)
    study.close()
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    whole = [t.to_dict() for t in study.history]
    for cut in np.linspace(header, len(data), 15).astype(int):
        path.write_bytes(data[:cut])
        again = Study.load(path, journal=True)
        for trial in again.running:
            again.tell(trial.id, loss(trial.config))
        run(again, 9 - len(again.history))
        again.close()
        assert [t.to_dict() for t in again.history] == whole
