"""Space files, prior CSVs, history, plots, the recommendation table, and the verb."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from qcluster.cli import main
from qcluster.errors import FormatError, InputError
from qcluster.q_hpo import Study, load_prior, load_space, parse_space, recommend
from qcluster.q_hpo.formats import write_best, write_history
from qcluster.q_hpo.importance import importance
from qcluster.q_hpo.plots import history_svg, write_plots

YAML = """
lr: {type: loguniform, low: 1e-5, high: 1e-1}
layers: {type: randint, low: 1, high: 5}
act: {type: choice, values: [relu, tanh]}
slope: {type: uniform, low: 0, high: 1, when: {parent: act, in: [relu]}}
"""
OBJECTIVE = """
def loss(config):
    if config["layers"] == 4:
        raise RuntimeError("out of memory")
    return {"value": (config["lr"] - 0.01) ** 2 + config["layers"] + (config["act"] == "relu")}

def never(config):
    raise RuntimeError("always")
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "space.yaml").write_text(YAML)
    (tmp_path / "hpo_objective_of_test.py").write_text(OBJECTIVE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_spaces_from_yaml_and_json_are_the_same(room: Path) -> None:
    space = load_space(room / "space.yaml")
    assert space.names == ("lr", "layers", "act", "slope")
    assert space.parameters[0].low == 1e-5  # which YAML 1.1 reads as text
    as_json = {
        "lr": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
        "layers": {"type": "randint", "low": 1, "high": 5},
        "act": {"type": "choice", "values": ["relu", "tanh"]},
        "slope": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "act",
                                                                   "in": ["relu"]}},
    }  # fmt: skip
    (room / "space.json").write_text(json.dumps(as_json))
    assert load_space(room / "space.json") == space


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"), ("a.json", '{"a": 1, "a": 2}'), ("a.yaml", "a: [1"), ("a.yaml", ""),
        ("a.yaml", "- 1"), ("a.json", '{"a": {"type": "uniform", "low": 1, "high": 0}}'),
        ("a.yaml", "!!python/object/apply:os.system ['true']"),
    ],
)  # fmt: skip
def test_wrong_space_files_are_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        load_space(tmp_path / name)


PRIOR = """config/lr,config/layers,config/act,config/slope,loss,status,training_iteration,task
0.01,2,tanh,,0.5,TERMINATED,10,old
0.02,3,relu,0.25,0.7,TERMINATED,10,old
0.02,3,relu,0.25,0.1,TERMINATED,3,old
0.03,1,tanh,,,ERROR,10,older
9.9,1,tanh,,0.2,TERMINATED,10,older
0.03,1,gelu,,0.2,TERMINATED,10,older
"""


def test_priors_are_read_row_by_row(room: Path) -> None:
    space = load_space(room / "space.yaml")
    (room / "prior.csv").write_text(PRIOR)
    with gzip.open(room / "prior.csv.gz", "wt") as file:
        file.write(PRIOR)
    for name in ("prior.csv", "prior.csv.gz"):
        prior = load_prior(room / name, space)
        assert prior.values == [0.5, 0.7, None]
        assert prior.names == ["old", "old", "older"]
        assert prior.skipped == 3  # low fidelity, out of range, unknown category
        tasks = prior.tasks(space, "max")
        assert [t.name for t in tasks] == ["old"]
        assert list(tasks[0].values) == [-0.5, -0.7]


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), ("a,b\n1,2\n", "no column"), ("lr,layers,act,slope\n1,2,3,4\n", "metric")],
)
def test_wrong_priors_are_refused(text: str, word: str, room: Path) -> None:
    (room / "prior.csv").write_text(text)
    with pytest.raises(FormatError, match=word):
        load_prior(room / "prior.csv", load_space(room / "space.yaml"))
    with pytest.raises(FormatError):
        load_prior(room / "absent.csv", load_space(room / "space.yaml"))


def finished(n: int = 12) -> Study:
    space = {
        "x": {"type": "uniform", "low": 0, "high": 1},
        "y": {"type": "uniform", "low": 0, "high": 1},
        "m": {"k": {"type": "choice", "values": ["<a>", "b"]}},
    }
    study = Study(space, seed=0)
    for i in range(n):
        trial = study.ask()
        if i == 3:
            study.tell(trial.id, None, "failed")
        else:
            study.tell(trial.id, 10 * trial.config["x"] + 0.1 * trial.config["y"], step=5)
    return study


def test_history_and_best_come_back(tmp_path: Path) -> None:
    study = finished()
    write_history(tmp_path / "h.csv", study.history)
    rows = list(csv.DictReader((tmp_path / "h.csv").open()))
    assert len(rows) == 12
    assert rows[3]["status"] == "failed"
    assert rows[3]["value"] == ""
    # Our own history is a prior for the next study.
    prior = load_prior(tmp_path / "h.csv", study.space)
    assert [v for v in prior.values if v is not None] == [
        t.value for t in study.history if t.value is not None
    ]
    write_history(tmp_path / "h.jsonl", study.history)
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert lines == [t.to_dict() for t in study.history]
    write_best(tmp_path / "best.json", study.top(2))
    best = json.loads((tmp_path / "best.json").read_text())["best"]
    assert study.best is not None
    assert best[0] == {"trial": study.best.id, "value": study.best.value,
                       "config": study.best.config}  # fmt: skip


def test_importance_finds_what_matters() -> None:
    shares = importance(finished(25).view())
    assert next(iter(shares)) == "x"
    assert shares["x"] > 0.8
    assert importance(finished(2).view()) == {}


@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_plots_are_whole_svg_at_any_length(n: int, tmp_path: Path) -> None:
    for path in write_plots(finished(n), tmp_path):
        assert ET.parse(path).getroot().tag.endswith("svg")


def test_plots_say_what_stands_where(tmp_path: Path) -> None:
    """Categories and ends of ranges on the axes; a range of values of 100 is drawn by logarithm."""
    study = Study({"lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
                   "act": {"type": "choice", "values": ["relu", "<b>"]}}, seed=0)  # fmt: skip
    for i in range(8):
        study.tell(study.ask().id, 10.0 ** (i - 4))
    texts = {path.name: path.read_text() for path in write_plots(study, tmp_path)}
    for word in ("relu", "&lt;b&gt;", "1e-05", ">0.1<", ">lr<", ">value<"):
        assert word in texts["parallel.svg"]
    marks = [e.text for e in ET.fromstring(texts["history.svg"]).iter() if e.text]
    assert {"0.0001", "1000"} <= set(marks)
    heights = [float(e.get("cy", "0")) for e in ET.fromstring(texts["history.svg"]).iter()
               if e.get("class") == "dot"]  # fmt: skip
    steps = [a - b for a, b in itertools.pairwise(heights)]
    assert max(steps) == pytest.approx(min(steps), abs=0.2)  # one decade a trial


def dots(page: str) -> list[float]:
    return [float(e.get("cy", "0")) for e in ET.fromstring(page).iter() if e.get("class") == "dot"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_training_that_diverged_does_not_flatten_the_plot(sign: int) -> None:
    study = Study(
        {"x": {"type": "uniform", "low": -1, "high": 1}}, mode="min" if sign > 0 else "max"
    )
    for i in range(12):
        study.tell(study.ask().id, sign * (1e6 if i == 3 else 0.1 * i - 0.5))
    page = history_svg(study)
    heights = dots(page)
    assert heights[3] == (min if sign > 0 else max)(heights)  # at the edge
    assert np.ptp(np.delete(heights, 3)) > 200
    assert ("&gt;= " if sign > 0 else "&lt;= ") in page


def test_of_many_parameters_those_that_matter_are_drawn(tmp_path: Path) -> None:
    space = {f"p{i}": {"type": "uniform", "low": 0, "high": 1} for i in range(40)}
    study = Study({**space, "fixed": 3}, strategy="random")
    for _ in range(30):
        trial = study.ask()
        study.tell(trial.id, (trial.config["p7"] - 0.3) ** 2)
    write_plots(study, tmp_path)
    parallel, shares = ((tmp_path / f"{n}.svg").read_text() for n in ("parallel", "importance"))
    assert parallel.count("rotate(") == 17  # sixteen and the value
    assert ">p7<" in parallel
    assert ">fixed<" not in parallel
    assert "and 25 parameters that matter less" in shares


ROWS = [
    ("rapid exploration", "quantum device", "vqc"),
    ("Fine-grained tuning", "Classical only", "gp"),
    ("intermittent access", "partial quantum", "hybrid"),
    ("reuse old studies", "any", "gp"),
    ("reuse old studies", "quantum device", "gp"),
]


@pytest.mark.parametrize(("goal", "hardware", "strategy"), ROWS)
def test_the_table_of_four_rows(goal: str, hardware: str, strategy: str) -> None:
    found = recommend(goal=goal, hardware=hardware)
    assert found.config.strategy == strategy
    assert found.config.warm_start == (strategy == "gp")
    assert list(found.row) == ["Goal", "Hardware", "Recommended Toggles", "Trade-offs"]


def test_outside_the_table_the_choices_are_listed() -> None:
    for goal, hardware in (("speed", "any"), ("rapid exploration", "classical only"),
                           ("reuse old studies", "toaster")):  # fmt: skip
        with pytest.raises(ValueError, match="there are: rapid exploration"):
            recommend(goal=goal, hardware=hardware)


def verb(*more: str) -> int:
    return main(["hpo", "space.yaml", "--objective", "hpo_objective_of_test:loss", "--in-process",
                 *more])  # fmt: skip


def test_the_verb_writes_everything_and_resumes(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verb("-n", "6") == 0
    assert "Best of 6 trials" in capsys.readouterr().out
    assert verb("-n", "6") == 2  # the journal is there already
    assert "--resume" in capsys.readouterr().err
    assert verb("-n", "9", "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 9
    whole = Study(load_space(room / "space.yaml"))
    asked = [t.config for t in Study.load(room / "hpo" / "journal.jsonl").history]
    assert asked[0] == whole.ask().config
    names = {p.name for p in (room / "hpo").iterdir()}
    assert {"journal.jsonl", "history.csv", "history.jsonl", "best.json", "history.svg",
            "importance.svg", "parallel.svg"} <= names  # fmt: skip
    assert verb("-n", "12", "--out", "warm", "--warm-start", "hpo/journal.jsonl", "--prior",
                "hpo/history.csv", "--searcher", "sobol", "--json") == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["trials"] == 12


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["hpo", "absent.yaml", "--objective", "m:f", "-n", "3"], 2),
        (["hpo", "space.yaml", "--objective", "nothing", "-n", "3"], 2),
        (["hpo", "space.yaml", "--objective", "no_such_module:f", "-n", "3"], 2),
        (["hpo", "space.yaml", "--objective", "json:nope", "-n", "3"], 2),
        (["hpo", "space.yaml", "--objective", "json:__name__", "-n", "3"], 2),
        (["hpo", "space.yaml", "--objective", "json:dumps", "-n", "0"], 2),
        (["hpo", "space.yaml", "--objective", "json:dumps", "-n", "3", "--searcher", "x"], 2),
        (["hpo", "space.yaml", "--objective", "json:dumps", "-n", "3", "--mode", "up"], 2),
        (["hpo", "space.yaml", "--objective", "hpo_objective_of_test:never", "-n", "3",
          "--in-process"], 1),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(
    arguments: list[str], status: int, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.strip().splitlines()[-1].startswith("qcluster: ")


def test_parse_space_takes_a_space() -> None:
    space: Any = parse_space({"a": 1, "b": {"type": "uniform", "low": 0, "high": 1}})
    assert parse_space(space) is space
