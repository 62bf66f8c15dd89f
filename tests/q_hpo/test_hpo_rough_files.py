"""Spaces, priors and arguments as people write them: understood, or refused in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune

from qcluster.cli import main
from qcluster.errors import FormatError, InputError
from qcluster.q_hpo import GPSearch, Study, load_prior, load_space
from qcluster.q_hpo.formats import write_history

U: dict[str, Any] = {"type": "uniform", "low": 0, "high": 1}
SPACE: dict[str, Any] = {
    "x": U, "lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "act": {"type": "choice", "values": ["relu", "tanh"]},
}  # fmt: skip
TABLE = "x,lr,act,loss\n0.1,1e-3,relu,0.5\n0.2,1e-2,tanh,0.7\n0.9,1e-4,relu,.2\n"
VALUES = [0.5, 0.7, 0.2]


# Spaces


@pytest.mark.parametrize("high", [2**60 + 10, 2**63, 10**30])
def test_whole_numbers_beyond_floats_are_told_apart(high: int) -> None:
    low = high - 10
    study = Study({"n": {"type": "int", "low": low, "high": high}})
    found = {study.ask().config["n"] for _ in range(11)}
    assert found == set(range(low, high + 1))
    wide = Study({"n": {"type": "randint", "low": 0, "high": high}}, strategy="random")
    assert all(0 <= wide.ask().config["n"] < high for _ in range(20))
    for n in (low, low + 3, high):
        assert study.space.config(study.space.point({"n": n})) == {"n": n}


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ({"a": {"type": "int", "low": 0, "high": 10, "step": 2.5}}, "whole numbers"),
        ({"a": {"type": "randint", "low": 0.5, "high": 3}}, "whole numbers"),
        ({"a": [U, 3]}, "is a list with parameters"),
        ({"a": [1, tune.uniform(0, 1)]}, "is a list with parameters"),
        ({"a": tune.choice([{"b": tune.uniform(0, 1)}, {"c": 2}])}, "among its values"),
        ({"a": {"type": "unifrom", "low": 0, "high": 1}}, "knows no type"),
    ],
)
def test_what_would_never_be_drawn_from_is_refused(space: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=f"'a': .*{word}"):
        Study(space)


def test_a_group_may_have_a_constant_called_type() -> None:
    config = Study({"opt": {"type": "adam", "lr": tune.loguniform(1e-4, 1), "eps": 1}}).ask().config
    assert config["opt"]["type"] == "adam"
    assert 1e-4 <= config["opt"]["lr"] <= 1


def test_numbers_and_lists_of_numpy_are_numbers_and_lists() -> None:
    space = {"a": {"type": "uniform", "low": np.float32(0), "high": np.int64(1)},
             "b": {"type": "choice", "values": np.arange(3)},
             "c": {"type": "choice", "values": range(2)}}  # fmt: skip
    study = Study(space)
    config = study.ask().config
    assert type(config["b"]) is int
    assert config["c"] in (0, 1)
    json.dumps(list(study.records()))


def test_files_of_other_editors_and_names_that_stand_twice(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(SPACE).encode())
    assert load_space(tmp_path / "s.json").names == ("x", "lr", "act")
    twice = tmp_path / "s.yaml"
    twice.write_text("m:\n  x: {type: uniform, low: 0, high: 1}\n  y: 2\n  x: 3\n")
    with pytest.raises(InputError, match=r"row 2, field 'x': is named twice"):
        load_space(twice)


# Priors


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", ";").replace(".", ","),
        TABLE.replace(",", ", "),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        "\ufeff" + TABLE.replace("loss", "Loss"),
        TABLE.replace("x,lr,act", "config/x,config.lr,act"),
        # What a trial reported under a parameter's name is not the parameter.
        (
            "x,config/x,config/lr,config/act,loss\n9,0.1,1e-3,relu,0.5\n9,.2,1e-2,tanh,0.7\n"
            "9,.9,1e-4,relu,.2\n"
        ),
    ],
)
def test_tables_as_programs_write_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode())
    prior = load_prior(path, SPACE)
    assert prior.values == VALUES
    assert [c["act"] for c in prior.configs] == ["relu", "tanh", "relu"]
    assert [c["x"] for c in prior.configs] == [0.1, 0.2, 0.9]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b'{"a": 1}\n', "'x': has no column"),
        (b"x,x,lr,act,loss\n1,1,1,1,1\n", "'x': is the name of two columns"),
        (b"x,lr,act\n.1,.01,relu\n", "none besides the parameters"),
        (TABLE.encode("utf-16")[:-1], "is not UTF-16 text"),
        (b'x,lr,act,loss\n.1,.01,"relu"x,1\n', "row 2: is not CSV"),
        (b"\n\n", "is empty"),
    ],
)
def test_wrong_tables_are_said(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=word):
        load_prior(path, SPACE)


def test_a_damaged_archive_and_a_cell_without_end_are_no_crash(tmp_path: Path) -> None:
    data = bytearray(gzip.compress((TABLE * 50).encode()))
    data[12:-10:3] = bytes(b ^ 0xFF for b in data[12:-10:3])
    (tmp_path / "p.csv.gz").write_bytes(data)
    with pytest.raises(FormatError, match="is not a whole gzip file"):
        load_prior(tmp_path / "p.csv.gz", SPACE)
    (tmp_path / "p.csv").write_text(TABLE + "[" * 100_000 + ",1,relu,3\n")
    assert load_prior(tmp_path / "p.csv", SPACE).skipped == 1
    (tmp_path / "s.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(FormatError, match="row 1"):
        Study.load(tmp_path / "s.jsonl")


def test_the_own_history_comes_back_whatever_the_values_are(tmp_path: Path) -> None:
    """None is a value like any other; a parameter that never was active has no column."""
    space = {"c": {"type": "choice", "values": [None, True, 1, "a", [1, 2]]}, "x": U,
             "y": {**U, "when": {"parent": "c", "in": ["never", "a"][1:]}}}  # fmt: skip
    study = Study(space)
    for value in (None, True, 1, [1, 2]):
        study.add({"c": value, "x": 0.5}, 1.0)
    write_history(tmp_path / "h.csv", study.history)
    prior = load_prior(tmp_path / "h.csv", space)
    assert prior.skipped == 0
    assert [repr(c["c"]) for c in prior.configs] == ["None", "True", "1", "[1, 2]"]


# Searchers

DOMAINS = {"x": tune.uniform(0, 1), "act": tune.choice(["a", "b"])}


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "minimise"},
        {"points_to_evaluate": {"x": 1}},
        {"points_to_evaluate": ["a"]},
        {"settings": "rbf"},
        {"points_to_evaluate": [{"x": 0.5, "act": "a"}], "evaluated_rewards": ["a"]},
    ],
)
def test_wrong_arguments_of_a_searcher_are_said_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        GPSearch(DOMAINS, **{"metric": "loss", "mode": "min", **arguments})


def test_a_list_of_domains_in_the_tuners_space_is_refused() -> None:
    search = GPSearch(metric="loss", mode="min")
    with pytest.raises(InputError, match="'layers'"):
        search.set_search_properties("loss", "min", {**DOMAINS, "layers": [tune.randint(1, 5)]})


def test_strange_results_end_no_sweep() -> None:
    search = GPSearch(DOMAINS, metric="loss", mode="min", max_step=9)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"loss": np.array([1.0]), "training_iteration": 9.0}, "ok"),
        ({"loss": 1, "training_iteration": -1}, "ok"),
        ({"loss": 1, "training_iteration": "3"}, "ok"),
        ({"loss": 1, "training_iteration": np.int64(9)}, "ok"),
        ({"loss": 10**400, "training_iteration": 9}, "failed"),
        ({"loss": [1], "training_iteration": 1.5}, "failed"),
    ]
    for i, (result, status) in enumerate(cases):
        search.suggest(str(i))
        search.on_trial_result(str(i), result)
        search.on_trial_complete(str(i), result)
        assert search.study is not None
        assert search.study.history[i].status == status
    assert search.study is not None
    assert [t.step for t in search.study.history] == [9, None, None, 9, 9, 1]
    assert not search.study.running


def test_suggestions_are_whole_and_the_studys_own_are_kept() -> None:
    search = GPSearch({**DOMAINS, "k": 7}, metric="loss", mode="min",
                      points_to_evaluate=[{"x": 0.5, "act": "a"}])  # fmt: skip
    config = search.suggest("one")
    assert config == {"x": 0.5, "act": "a", "k": 7}
    config["x"], config["epochs"] = 99, 3
    search.on_trial_complete("one", {"loss": 1.0})
    assert search.study is not None
    assert search.study.history[0].config == {"x": 0.5, "act": "a", "k": 7}


def test_a_half_of_a_saved_searcher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text('{"qcluster_searcher": 1}')
    with pytest.raises(FormatError, match="whole"):
        GPSearch(DOMAINS, metric="loss", mode="min").restore(str(tmp_path / "s"))


# The command line


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "space.yaml").write_text("x: {type: uniform, low: 0, high: 1}\n")
    (tmp_path / "wide.yaml").write_text("x: {type: uniform, low: 0, high: 9}\n")
    (tmp_path / "hpo_rough.py").write_text(
        "import sys\ndef loss(c): return c['x']\ndef named(c): return {'loss': c['x']}\n"
        "def leave(c): sys.exit(3)\n"
    )
    (tmp_path / "hpo_rough_import.py").write_text("raise ValueError('at import')\n")
    (tmp_path / "hpo_rough_exit.py").write_text("import sys\nsys.exit(4)\n")
    (tmp_path / "file").write_text("")
    return tmp_path


def sweep(*more: str, space: str = "space.yaml", objective: str = "hpo_rough:loss") -> int:
    return main(["hpo", space, "--objective", objective, "--in-process", *more])


def test_a_resumed_sweep_keeps_its_space_and_says_what_it_is(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-n", "3", "--mode", "max", "--searcher", "sobol", "--seed", "4") == 0
    before = (desk / "hpo" / "journal.jsonl").read_bytes()
    capsys.readouterr()
    assert sweep("-n", "9", "--resume", space="wide.yaml") == 2
    assert "journal.jsonl, row 1, field 'x': is not what it was" in capsys.readouterr().err
    assert (desk / "hpo" / "journal.jsonl").read_bytes() == before
    assert sweep("-n", "2", "--resume") == 0
    said = capsys.readouterr().err
    assert "going on after 3 trials: searcher sobol, mode max, seed 4" in said
    assert "nothing to run: there are 3 trials, and -n is 2" in said
    assert sweep("-n", "2", "--out", "next", "--warm-start", "hpo/journal.jsonl") == 0
    assert "3 trials of hpo/journal.jsonl count as this search's own" in capsys.readouterr().err
    (desk / "cut").mkdir()
    (desk / "cut" / "journal.jsonl").write_bytes(before[:30])  # a crash at the very beginning
    assert sweep("-n", "2", "--out", "cut", "--resume") == 0


@pytest.mark.parametrize(
    ("objective", "status", "word"),
    [
        ("hpo_rough_import:f", 2, "cannot be imported: ValueError at import"),
        ("hpo_rough_exit:f", 2, "cannot be imported: SystemExit 4"),
        ("..hpo_rough:loss", 2, "wants MODULE:FUNC"),
        ("hpo_rough:named", 1, "no 'value' among the keys loss (--metric names one)"),
        ("hpo_rough:leave", 1, "SystemExit: 3"),
    ],
)
def test_objectives_that_cannot_be_run_are_said(
    objective: str, status: int, word: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.exists()
    assert sweep("-n", "2", objective=objective) == status
    assert word in capsys.readouterr().err


def test_a_file_is_no_directory(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.exists()
    assert sweep("-n", "2", "--out", "file") == 2
    assert "'--out': is a file" in capsys.readouterr().err


def test_a_situation_outside_the_table_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "hpo", "--goal", "speed"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("qcluster: no row for speed")
    assert len(error.splitlines()) == 1
