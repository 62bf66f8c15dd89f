"""What a searcher does after a crash: it agrees with the trials that Ray still has."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from qcluster.errors import FormatError
from qcluster.q_hpo import GPSearch, load_prior
from qcluster.q_hpo.ray_restore import settle
from qcluster.q_hpo.ray_results import is_ray_results, ray_rows, ray_trials

pytest.importorskip("ray.tune")
from qcluster.q_hpo.searchers import FAILED

SPACE: dict[str, Any] = {"x": {"type": "uniform", "low": -5, "high": 5}}


def result(x: float, **more: Any) -> dict[str, Any]:
    return {"loss": x**2, "training_iteration": 1, "config": {"x": x}, **more}


def statuses(search: GPSearch) -> list[str]:
    assert search.study is not None
    return [t.status for t in search.study.history]


def snapshot(directory: Path, trials: list[tuple[str, str, float]], number: int = 1) -> None:
    """An experiment as Ray writes it: JSON texts inside JSON."""
    rows = []
    for name, status, x in trials:
        ended = status == "TERMINATED"
        state = {"trial_id": name, "status": status, "config": {"x": x, "constant": 3}}
        rows.append([json.dumps(state), json.dumps({"last_result": result(x) if ended else {}})])
    (directory / f"experiment_state-{number}.json").write_text(json.dumps({"trial_data": rows}))


def saved(directory: Path, asked: str, told: str) -> tuple[GPSearch, dict[str, float]]:
    """A searcher's state on disk: trials asked for, some of them told."""
    search = GPSearch(SPACE, "loss", "min", seed=2)
    at = {}
    for name in asked:
        config = search.suggest(name)
        assert config is not None
        at[name] = config["x"]
    for name in told:
        search.on_trial_complete(name, result(at[name]))
    search.save_to_dir(str(directory), "now")
    return search, at


def restored(directory: Path) -> GPSearch:
    search = GPSearch(SPACE, "loss", "min", seed=2)
    search.restore_from_dir(str(directory))
    return search


def test_a_trial_that_ended_for_ray_alone_is_learnt(tmp_path: Path) -> None:
    """Ray wrote its trials after b ended, and died before the searcher was written."""
    _, at = saved(tmp_path, "abc", "a")
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "TERMINATED", at["b"]),
                        ("c", "RUNNING", at["c"])])  # fmt: skip
    search = restored(tmp_path)
    assert statuses(search) == ["ok", "ok", "running"]
    search.on_trial_complete("c", result(at["c"]))
    assert statuses(search) == ["ok", "ok", "ok"]


def test_a_trial_that_ray_never_heard_of_is_suggested_again(tmp_path: Path) -> None:
    _, at = saved(tmp_path, "abc", "a")
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "RUNNING", at["b"])])
    search = restored(tmp_path)
    search.set_max_concurrency(2)
    assert search.suggest("new") == {"x": at["c"]}
    assert search.suggest("newer") is None  # b and c are running
    search.on_trial_complete("new", result(at["c"]))
    search.on_trial_complete("b", result(at["b"]))
    assert statuses(search) == ["ok", "ok", "ok"]


def test_a_trial_that_the_searcher_never_heard_of_is_added(tmp_path: Path) -> None:
    _, at = saved(tmp_path, "a", "a")
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "TERMINATED", 2.0),
                        ("c", "ERROR", 3.0)])  # fmt: skip
    search = restored(tmp_path)
    assert statuses(search) == ["ok", "ok", "failed"]
    assert search.study is not None
    assert search.study.history[1].value == 4.0


def test_a_trial_that_began_after_the_searcher_was_written_is_not_lost_if_it_fails(
    tmp_path: Path,
) -> None:
    """Ray brings no configuration with an error, and none with a trial that it stops."""
    _, at = saved(tmp_path, "a", "a")
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "RUNNING", 2.0),
                        ("c", "PENDING", 3.0), ("d", "RUNNING", 99.0)])  # fmt: skip
    search = restored(tmp_path)
    assert statuses(search) == ["ok", "running", "running"]  # 99 is outside the space
    search.on_trial_complete("b", None, error=True)
    search.on_trial_complete("c", result(3.0))
    assert statuses(search) == ["ok", "failed", "ok"]
    assert search.study is not None
    assert [t.config["x"] for t in search.study.history][1:] == [2.0, 3.0]


def test_a_listed_point_that_ray_began_already_is_not_tried_twice(tmp_path: Path) -> None:
    points = [{"x": 1.0}, {"x": 2.0}]
    search = GPSearch(SPACE, "loss", "min", points_to_evaluate=points)
    assert search.suggest("a") == {"x": 1.0}
    search.save_to_dir(str(tmp_path), "now")
    snapshot(tmp_path, [("a", "RUNNING", 1.0), ("b", "RUNNING", 2.0)])
    again = GPSearch(SPACE, "loss", "min", points_to_evaluate=points)
    again.restore_from_dir(str(tmp_path))
    assert again.suggest("c") not in points


def test_the_searcher_ends_the_sweep_if_rays_count_is_behind(tmp_path: Path) -> None:
    """The count was copied before trial c was made: Ray would run a trial too many."""
    first, at = saved(tmp_path, "ab", "a")
    first.set_search_properties(None, None, {}, num_samples=4)
    first.save_to_dir(str(tmp_path), "now")
    snapshot(tmp_path, [(name, "RUNNING", at.get(name, 3.0)) for name in "abc"])
    search = GPSearch(SPACE, "loss", "min", seed=2)
    search.set_search_properties(None, None, {}, num_samples=1)  # as a restored Tuner says
    search.restore_from_dir(str(tmp_path))
    assert isinstance(search.suggest("d"), dict)
    assert search.suggest("e") == GPSearch.FINISHED
    assert isinstance(search.suggest("d"), dict)  # asked again
    search.set_search_properties(None, None, {}, num_samples=2)  # of another sweep
    assert isinstance(search.suggest("f"), dict)


@pytest.mark.parametrize("text", ["", '{"qcluster_searcher": 1, "met', "[]"])
def test_a_state_that_was_cut_short_is_made_of_rays_table(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, at = saved(tmp_path, "abc", "a")
    (tmp_path / "searcher-state-now.pkl").write_text(text)
    with pytest.raises(FormatError, match="searcher"):
        restored(tmp_path)  # no table either
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "ERROR", at["b"]),
                        ("c", "RUNNING", at["c"])])  # fmt: skip
    search = restored(tmp_path)
    assert statuses(search) == ["ok", "failed", "running"]
    assert "Ray's own table" in caplog.text


@pytest.mark.parametrize("counted", [2, 3, 5])
def test_rays_count_is_settled(counted: int, tmp_path: Path) -> None:
    """Behind or ahead of the trials: those of the table, and those that only the searcher knows
    the end of; one that only the searcher asked for is asked for again.
    """
    _, at = saved(tmp_path, "abcd", "ac")
    snapshot(tmp_path, [("a", "TERMINATED", at["a"]), ("b", "RUNNING", at["b"])])
    path = tmp_path / "search_gen_state-now.json"
    state = {"counter": counted, "total_samples": 5, "finished": counted == 5, "experiment": None}
    path.write_bytes(pickle.dumps(state))
    assert settle(tmp_path) == 3
    found = pickle.loads(path.read_bytes())
    assert found["counter"] == 3
    assert not found["finished"]
    assert found["total_samples"] == 5
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_settled_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="experiment_state"):
        settle(tmp_path)
    snapshot(tmp_path, [("a", "RUNNING", 1.0)])
    with pytest.raises(FormatError, match="search_gen_state"):
        settle(tmp_path)
    (tmp_path / "search_gen_state-now.json").write_bytes(b"")
    with pytest.raises(FormatError, match=r"search_gen_state.*cannot be read"):
        settle(tmp_path)
    (tmp_path / "search_gen_state-now.json").write_bytes(pickle.dumps({"counter": 4}))
    (tmp_path / "searcher-state-now.pkl").write_text("{ cut")
    assert settle(tmp_path) == 1


def test_without_a_readable_snapshot_the_searcher_goes_on_alone(tmp_path: Path) -> None:
    saved(tmp_path, "ab", "a")
    (tmp_path / "experiment_state-1.json").write_text("{ torn")
    assert ray_trials(tmp_path) == []
    assert statuses(restored(tmp_path)) == ["ok", "running"]


def test_the_newest_snapshot_counts(tmp_path: Path) -> None:
    snapshot(tmp_path, [("a", "RUNNING", 1.0)], 1)
    snapshot(tmp_path, [("a", "TERMINATED", 1.0)], 2)
    assert [t.ended for t in ray_trials(tmp_path)] == [True]


def test_a_trial_that_failed_and_was_restarted_counts_with_its_value() -> None:
    search = GPSearch(SPACE, "loss", "min")
    config = search.suggest("a")
    assert config is not None
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("a", result(config["x"]))
    assert statuses(search) == ["failed", "ok"]
    assert search.study is not None
    assert search.study.best is not None
    assert search.study.best.config == config


def test_what_a_trial_raised_is_said(caplog: pytest.LogCaptureFixture) -> None:
    search = GPSearch(SPACE, "loss", "min")
    search.suggest("a")
    search.on_trial_complete("a", result(1.0, **{FAILED: "MemoryError: too large"}))
    assert statuses(search) == ["failed"]
    assert "MemoryError: too large" in caplog.text


def test_the_limit_is_the_searchers_own() -> None:
    search = GPSearch(SPACE, "loss", "min")
    assert search.set_max_concurrency(2)
    first = search.suggest("a")
    search.suggest("b")
    assert search.suggest("c") is None
    assert search.suggest("a") == first  # asked again, not another one
    assert first is not None
    search.on_trial_complete("a", result(first["x"]))
    assert search.suggest("c") is not None


def test_a_pool_is_all_that_is_suggested() -> None:
    rows = [{"x": float(x)} for x in (-3, 0, 4)]
    search = GPSearch(SPACE, "loss", "min", pool=iter(rows))
    for i in range(3):
        config = search.suggest(str(i))
        assert config in rows
        search.on_trial_complete(str(i), result(config["x"]))


def trial(directory: Path, name: str, x: float, lines: list[str], error: bool = False) -> None:
    there = directory / name
    there.mkdir()
    (there / "params.json").write_text(json.dumps({"x": x, "m": {"layers": [1, 2]}}))
    if lines:
        (there / "result.json").write_text("\n".join(lines))
    if error:
        (there / "error.txt").write_text("Traceback")


def test_rays_results_are_a_prior(tmp_path: Path) -> None:
    """The last whole line of each trial; failures and trials that were cut short."""
    ended = json.dumps({"loss": 4.0, "training_iteration": 3, "config": {"x": 2.0}})
    early = json.dumps({"loss": 9.0, "training_iteration": 1, "config": {"x": 2.0}})
    trial(tmp_path, "a", 2.0, [early, ended, '{"loss": 1'])
    trial(tmp_path, "b", 3.0, [early])
    trial(tmp_path, "c", 4.0, [], error=True)
    trial(tmp_path, "d", 99.0, [ended])
    assert is_ray_results(tmp_path)
    assert not is_ray_results(tmp_path / "a")
    assert [row["status"] for row in ray_rows(tmp_path)] == ["TERMINATED"] * 2 + ["ERROR"] + [
        "TERMINATED"
    ]
    prior = load_prior(tmp_path, SPACE)
    assert list(zip([c["x"] for c in prior.configs], prior.values, strict=True)) == [
        (2.0, 4.0), (4.0, None),
    ]  # fmt: skip
    assert prior.skipped == 2  # stopped early; outside the space
    (tmp_path / "a" / "params.json").write_text("[1]")
    with pytest.raises(FormatError, match=r"params\.json"):
        load_prior(tmp_path, SPACE)
