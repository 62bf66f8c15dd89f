"""Optuna studies written and read: by optuna itself, and by the dashboard's own server."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from qcluster.cli import main
from qcluster.errors import FormatError, InputError
from qcluster.q_hpo import Study, export_optuna, import_optuna, load_prior
from qcluster.q_hpo.optuna_import import is_optuna_file

optuna = pytest.importorskip("optuna")

SPACE: dict[str, Any] = {
    "lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "n": {"type": "randint", "low": 1, "high": 9},
    "q": {"type": "quniform", "low": -1, "high": 1.05, "q": 0.25},
    "ql": {"type": "qloguniform", "low": 0.01, "high": 1, "q": 0.01},
    "li": {"type": "qlograndint", "low": 4, "high": 64, "q": 4},
    "g": {"type": "randn", "mean": 0, "sd": 2},
    "act": {"type": "choice", "values": ["relu", "tanh", None, True, [1, 2]]},
    "fixed": 3,
    "m": {"slope": {"type": "uniform", "low": 0, "high": 1,
                    "when": {"parent": "act", "in": ["relu"]}}},
}  # fmt: skip


def searched(n: int = 30, mode: str = "min") -> Study:
    """Every end a trial can have; a third of the good ones stopped early; one still runs."""
    study = Study(SPACE, seed=0, strategy="sobol", max_step=9, mode=mode)
    for i in range(n):
        trial = study.ask()
        status = {3: "failed", 4: "nan", 5: "abandoned"}.get(i % 7, "ok")
        value = trial.config["lr"] + trial.config["n"] if status == "ok" else None
        study.tell(trial.id, value, status, None if value is None else 3 if i % 3 == 0 else 9)
    study.ask()
    return study


def facts(study: Study) -> list[tuple[Any, ...]]:
    return [(t.config, t.value, t.status, t.step) for t in study.history if t.status != "running"]


@pytest.fixture(params=["study.db", "study.log"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def loaded(file: Path, name: str) -> Any:
    if file.suffix == ".db":
        return optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_optuna_reads_what_was_written(file: Path) -> None:
    study = searched()
    assert export_optuna(study, file, name="mine") == 30
    theirs = loaded(file, "mine")
    assert study.best is not None
    assert theirs.best_value == study.best.value
    assert theirs.best_params["lr"] == study.best.config["lr"]
    states = [t.state.name for t in theirs.trials]
    ours = [t for t in study.history if t.status != "running"]
    for state, trial in zip(states, ours, strict=True):
        assert state == (
            "FAIL" if trial.value is None else "PRUNED" if trial.step == 3 else "COMPLETE"
        )
    first = theirs.trials[0]
    assert first.intermediate_values == {3: study.history[0].value}
    assert first.distributions["lr"].log
    assert first.distributions["n"].high == 8  # randint excludes its upper end
    assert ("m/slope" in first.params) == (first.params["act"] == "relu")


def test_there_and_back_is_the_same(file: Path) -> None:
    study = searched(mode="max")
    export_optuna(study, file)
    back = import_optuna(file, space=SPACE)
    assert back.mode == "max"
    assert facts(back) == facts(study)


def test_written_again_only_what_is_new_is_added(file: Path) -> None:
    study = searched(10)
    assert export_optuna(study, file) == 10
    study.tell(study.running[0].id, 0.5, step=9)
    assert export_optuna(study, file) == 1
    assert export_optuna(study, file) == 0
    assert len(loaded(file, "qcluster").trials) == 11
    for other in (searched(3, "max"), Study(SPACE, seed=7)):
        with pytest.raises(InputError, match="another study"):
            export_optuna(other, file)


def test_a_study_of_optunas_own_goes_on_with_our_searcher(file: Path) -> None:
    """Define-by-run with a branch, failures, pruning: the space is inferred."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: Any = f"sqlite:///{file}"
    if file.suffix != ".db":
        backend = optuna.storages.journal.JournalFileBackend(str(file))
        storage = optuna.storages.JournalStorage(backend)
    theirs = optuna.create_study(
        storage=storage, study_name="theirs", sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", -5, 5)
        units = trial.suggest_int("units", 16, 128, step=16)
        kind = trial.suggest_categorical("kind", ["flat", "deep"])
        depth = trial.suggest_int("depth", 1, 6) if kind == "deep" else 0
        if trial.number % 5 == 4:
            raise MemoryError
        value = float(x**2 + depth + units / 1000)
        trial.report(value, 1)
        if trial.number % 5 == 3:
            raise optuna.TrialPruned
        trial.report(value, 4)
        return value

    theirs.optimize(objective, n_trials=20, catch=(MemoryError,))
    study = import_optuna(file)
    assert [t.status for t in study.history].count("failed") == 4
    assert [t.step for t in study.history].count(1) == 4
    assert study.best is not None
    assert study.best.value == theirs.best_value
    depth = study.space.parameters[study.space.names.index("depth")]
    assert depth.when is not None
    assert depth.when.values == ("deep",)
    config = study.ask().config
    assert config["units"] % 16 == 0
    assert ("depth" in config) == (config["kind"] == "deep")


def test_an_optuna_storage_is_a_prior_and_a_warm_start(file: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        earlier = Study({"x": {"type": "uniform", "low": 0, "high": 1}}, strategy="sobol",
                        seed=seed)  # fmt: skip
        for _ in range(6):
            trial = earlier.ask()
            earlier.tell(trial.id, trial.config["x"])
        export_optuna(earlier, file, name=name)
    space = {"x": {"type": "uniform", "low": 0, "high": 0.9}}
    prior = load_prior(file, space)
    assert set(prior.names) == {"one", "two"}
    assert prior.skipped == 12 - len(prior.values) > 0
    with pytest.raises(InputError, match="several studies"):
        import_optuna(file)
    assert len(import_optuna(file, name="two").history) == 6
    with pytest.raises(InputError, match="no study 'three'"):
        import_optuna(file, name="three")


def test_what_is_no_storage_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="absent"):
        import_optuna(tmp_path / "absent.db")
    (tmp_path / "text.db").write_text("hello\n")
    (tmp_path / "torn.db").write_bytes(b"SQLite format 3\0" + b"x" * 50)
    for name in ("text.db", "torn.db"):
        with pytest.raises(FormatError, match=name):
            import_optuna(tmp_path / name)
        with pytest.raises(FormatError, match=name):
            export_optuna(searched(1), tmp_path / name)
    both = optuna.create_study(
        study_name="two", directions=["minimize", "maximize"], storage=f"sqlite:///{tmp_path}/2.db"
    )
    assert len(both.directions) == 2
    with pytest.raises(InputError, match="several objectives"):
        import_optuna(tmp_path / "2.db")
    assert not is_optuna_file(tmp_path)


def test_the_dashboard_opens_it(file: Path) -> None:
    """optuna-dashboard's own server, asked as its page asks."""
    dashboard = pytest.importorskip("optuna_dashboard")
    study = searched()
    export_optuna(study, file, name="mine")
    app = dashboard.wsgi(loaded(file, "mine")._storage)

    def get(path: str) -> Any:
        seen: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x",
                   "SERVER_PORT": "1", "wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO(),
                   "wsgi.url_scheme": "http"}  # fmt: skip
        body = b"".join(app(environ, lambda status, headers, *_: seen.append(status)))
        assert seen == ["200 OK"], body[:400]
        return json.loads(body)

    (summary,) = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == "mine"
    shown = get(f"/api/studies/{summary['study_id']}")
    assert len(shown["trials"]) == 30
    assert {t["state"] for t in shown["trials"]} == {"Complete", "Pruned", "Fail"}
    best = min(t["values"][0] for t in shown["trials"] if t["state"] == "Complete")
    assert study.best is not None
    assert math.isclose(best, study.best.value or 0)


def test_the_verb_writes_it_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("x: {type: uniform, low: 0, high: 1}\n")
    (tmp_path / "hpo_optuna_objective.py").write_text(
        "def loss(config):\n    if config['x'] > 0.8:\n        raise ValueError\n"
        "    return config['x']\n"
    )
    sweep = ["hpo", "space.yaml", "--objective", "hpo_optuna_objective:loss", "--in-process"]
    assert main([*sweep, "-n", "5", "--optuna", "s.db"]) == 0
    assert main([*sweep, "-n", "8", "--optuna", "s.db", "--resume"]) == 0
    theirs = loaded(tmp_path / "s.db", "hpo")
    assert len(theirs.trials) == 8
    assert main([*sweep, "-n", "9", "--out", "next", "--warm-start", "s.db", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.strip().splitlines()[-1])["trials"] == 9
    (tmp_path / "bad.db").write_text("no")
    assert main([*sweep, "-n", "3", "--out", "other", "--optuna", "bad.db"]) == 2
    assert "bad.db" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
