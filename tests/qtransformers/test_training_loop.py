"""What the loop does with models, data and configuration, on one worker."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from training_worlds import StopAt, text, tiny

from qcluster.errors import InputError, NotFound, SolverFailed
from qcluster.qtransformers.callbacks import Callback, Progress
from qcluster.qtransformers.data import Columns, Items, TokenWindows, as_source, join
from qcluster.qtransformers.loggers import CSVLogger, TensorBoardLogger, make_logger
from qcluster.qtransformers.loop import TrainingLoop, model_loss
from qcluster.qtransformers.optimisation import WeightAverage, learning_rate
from qcluster.qtransformers.order import GlobalOrder, share, step_seed
from qcluster.qtransformers.train_config import TrainingConfig
from qcluster.qtransformers.train_report import TrainReport


def line(n: int = 64) -> tuple[nn.Module, Columns]:
    """A linear model and data on a plane."""
    torch.manual_seed(0)
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(2))
    return Regression(), Columns({"x": x, "labels": x @ torch.tensor([1.0, -2.0, 0.5])})


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(x).squeeze(1)
        return {"loss": (logits - labels).square().mean(), "logits": logits}


def run(**config: Any) -> tuple[TrainingLoop, TrainReport]:
    model, data = line()
    loop = TrainingLoop(model, data, config={"epochs": 20, "learning_rate": 0.05, **config})
    return loop, loop.run()


def test_a_plane_is_learned() -> None:
    loop, report = run(batch_size=16)
    assert report.steps == 80
    assert report.epochs == 20
    assert report.losses[-1] < 0.05 * report.losses[0]
    assert report.parameters == 4
    assert loop.model.out.weight.tolist()[0] == pytest.approx([1.0, -2.0, 0.5], abs=0.2)


def test_accumulation_equals_one_large_batch() -> None:
    options = {"batch_size": 12, "optimizer": "sgd", "epochs": 2}
    whole, _ = run(**options)
    parts, _ = run(**options, micro_batch_size=5)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_accumulated_token_losses_weigh_by_tokens() -> None:
    """Rows with few labels do not count as much as full ones."""
    ids = torch.randint(0, 17, (6, 9))
    labels = ids.clone()
    labels[0, 2:] = -100
    data = Columns({"input_ids": ids, "labels": labels})
    losses = []
    for micro in (None, 1, 4):
        config = {"max_steps": 1, "batch_size": 6, "shuffle": False, "micro_batch_size": micro}
        losses.append(TrainingLoop(tiny(dropout=0.0), data, config=config).run().losses[0])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_the_loop_equals_a_plain_one_bit_for_bit() -> None:
    model, data = line()
    plain = Regression()
    plain.load_state_dict(model.state_dict())
    groups = [{"params": [plain.out.weight], "weight_decay": 0.01},
              {"params": [plain.out.bias], "weight_decay": 0.0}]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), fused=True)
    config = {"epochs": 3, "learning_rate": 0.01, "schedule": "constant", "batch_size": 16}
    loop = TrainingLoop(model, data, config=config)
    report = loop.run()
    losses = []
    for step in range(12):
        rows = torch.from_numpy(GlobalOrder(64, 16).batch(step * 16))
        loss = plain(data.columns["x"][rows], data.columns["labels"][rows])["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert report.losses.tolist() == losses
    assert torch.equal(model.out.weight, plain.out.weight)


def test_gradients_are_clipped() -> None:
    model, data = line()
    before = model.out.weight.detach().clone()
    config = {"max_steps": 1, "optimizer": "sgd", "clip_norm": 0.001, "learning_rate": 1.0,
              "momentum": 0.0, "weight_decay": 0.0}  # fmt: skip
    TrainingLoop(model, data, config=config).run()
    assert 0 < (model.out.weight - before).norm().item() <= 0.00101


def test_bfloat16_trains_and_keeps_float32_weights() -> None:
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8),
                        config={"max_steps": 30, "learning_rate": 0.01,
                                "mixed_precision": "auto"})  # fmt: skip
    report = loop.run()
    assert loop.autocast == torch.bfloat16
    assert report.losses[-5:].mean() < report.losses[:5].mean()
    assert all(p.dtype == torch.float32 for p in loop.parameters)


def test_averaged_weights_are_what_is_evaluated() -> None:
    model, data = line()
    loop = TrainingLoop(model, data, data, config={"epochs": 5, "ema_decay": 0.99,
                                                   "learning_rate": 0.05})  # fmt: skip
    report = loop.run()
    live = model_loss(model, data.batch(np.arange(64))).item()
    assert report.evaluations[-1]["loss"] > live
    loop.average.swap()
    averaged = model_loss(model, data.batch(np.arange(64))).item()
    assert report.evaluations[-1]["loss"] == pytest.approx(averaged, rel=1e-5)


def test_the_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        for value in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
            model.weight.fill_(value)
            average.update()
    assert average.shadow["weight"].item() == pytest.approx(1.0, abs=0.01)


def test_early_stopping_ends_the_run_and_says_why() -> None:
    model, data = line()
    worse = Columns({"x": data.columns["x"], "labels": -data.columns["labels"]})
    report = TrainingLoop(
        model, data, worse,
        config={"epochs": 50, "eval_every": 2, "patience": 3, "learning_rate": 0.05},
    ).run()  # fmt: skip
    assert report.steps == 8
    assert "no better loss" in report.stopped


def test_metrics_see_every_held_out_sample_once() -> None:
    model, data = line(50)
    seen: list[int] = []

    def count(logits: np.ndarray, labels: np.ndarray) -> Mapping[str, float]:
        seen.append(len(logits))
        return {"mse": float(np.square(logits - labels).mean())}

    loop = TrainingLoop(model, data, data, compute_metrics=count,
                        config={"max_steps": 3, "batch_size": 16,
                                "micro_batch_size": 5})  # fmt: skip
    found = loop.run().evaluations[-1]
    assert seen == [50]
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-5)


def test_evaluation_repeats_itself() -> None:
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), TokenWindows(text(90), 8))
    assert loop.evaluate() == loop.evaluate()
    assert loop.model.training


def test_a_loss_that_is_not_a_number_names_its_step() -> None:
    model, data = line()
    data.columns["labels"][5] = math.nan
    with pytest.raises(SolverFailed, match="step 1 is not a number"):
        TrainingLoop(model, data, config={"batch_size": 64}).run()


def test_loggers_write_every_step_once(tmp_path: Path) -> None:
    model, data = line()
    loggers = [make_logger("csv", tmp_path), make_logger("tensorboard", tmp_path)]
    TrainingLoop(model, data, data, callbacks=loggers,
                 config={"max_steps": 6, "log_every": 2, "eval_every": 3}).run()  # fmt: skip
    with (tmp_path / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert set(rows[0]) == {"step", "loss", "learning_rate", "grad_norm", "samples_per_s"}
    assert (tmp_path / "evaluations.csv").read_text().count("\n") == 3
    assert list((tmp_path / "tensorboard").iterdir())


def test_csv_lines_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    model, data = line()
    path = tmp_path / "steps.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n4")
    loop = TrainingLoop(model, data)
    loop.step = 2
    CSVLogger(tmp_path).on_start(loop)
    assert path.read_text().split() == ["step,loss", "1,0.5", "2,0.4"]


def test_unknown_loggers_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="csv, mlflow, tensorboard"):
        make_logger("wandb", tmp_path)


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    """Records of the event file: length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    model, data = line()
    report = TrainingLoop(model, data, data, callbacks=[make_logger("tensorboard", tmp_path)],
                          config={"max_steps": 4, "log_every": 2}).run()  # fmt: skip
    [file] = (tmp_path / "tensorboard").iterdir()
    raw, found = file.read_bytes(), {}
    while raw:
        size = int.from_bytes(raw[:8], "little")
        event = Event.FromString(raw[12 : 12 + size])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        raw = raw[16 + size :]
    assert {step for tag, step in found if tag == "train/loss"} == {2, 4}
    assert found["train/loss", 2] == pytest.approx(report.losses[:2].mean(), rel=1e-5)
    assert found["eval/loss", 4] == pytest.approx(report.evaluations[-1]["loss"], rel=1e-5)


def test_mlflow_has_what_was_logged_and_goes_on_with_its_run(tmp_path: Path) -> None:
    """Read back through MLflow's own client."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    model, data = line()
    logger = make_logger("mlflow", tmp_path)
    TrainingLoop(model, data, data, callbacks=[logger, StopAt(3)], directory=tmp_path / "c",
                 config={"max_steps": 6, "log_every": 1}).run()  # fmt: skip
    report = TrainingLoop(model, data, data, callbacks=[make_logger("mlflow", tmp_path)],
                          directory=tmp_path / "c",
                          config={"max_steps": 6, "log_every": 1, "batch_size": 32}).run(
        resume=True
    )  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=logger.tracking_uri)
    experiment = client.get_experiment_by_name("qcluster")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.data.params["max_steps"] == "6"
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [m.value for m in sorted(losses, key=lambda m: m.step)] == report.losses.tolist()
    assert run.data.metrics["eval_loss"] == report.evaluations[-1]["loss"]
    assert run.info.status == "FINISHED"


def test_tensorboard_absent_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="tensorboardX is needed"):
        TensorBoardLogger(tmp_path)


def test_progress_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = line()
    TrainingLoop(model, data, config={"max_steps": 4, "log_every": 2}, callbacks=[Progress()]).run()
    captured = capsys.readouterr()
    assert "step 4/4 (100%)" in captured.err
    assert not captured.out


def test_callbacks_hear_of_everything_in_order(tmp_path: Path) -> None:
    heard: list[str] = []

    class Listener(Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return lambda *_: heard.append(name)
            return super().__getattribute__(name)

    model, data = line()
    TrainingLoop(model, data, data, callbacks=[Listener()], directory=tmp_path,
                 config={"max_steps": 2, "log_every": 2}).run()  # fmt: skip
    assert "on_meeting" in heard
    assert [name for name in heard if name != "on_meeting"] == [
        "on_start", "on_step", "on_step", "on_log", "on_evaluate", "on_checkpoint", "on_end"
    ]  # fmt: skip


def test_reports_go_through_json() -> None:
    _, report = run(epochs=1)
    assert TrainReport.from_dict(report.to_dict()) == report
    assert report.peak_rss_bytes > 2**20
    assert 0 <= report.data_share < 1
    assert report.optimizer_bytes >= 2 * report.parameter_bytes


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rates_rise_then_fall_to_their_end(schedule: str) -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_steps=5, final_lr=0.2, schedule=schedule)
    rates = [learning_rate(step, 50, config) for step in range(51)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (np.diff(rates[5:]) <= 0).all()
    assert rates[50] == pytest.approx(1.0 if schedule == "constant" else 0.2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 17), st.integers(1, 5), st.integers(0, 3))
def test_every_epoch_sees_each_sample_once_on_any_number_of_workers(
    size: int, batch: int, world: int, seed: int
) -> None:
    order, seen, samples = GlobalOrder(size, batch, seed=seed), [], 0
    for _ in range(2 * order.steps_per_epoch):
        chosen = order.batch(samples)
        pieces = [share(chosen, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate(pieces), chosen)
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
        seen += chosen.tolist()
        samples += len(chosen)
    assert sorted(seen[:size]) == sorted(seen[size:]) == list(range(size))
    # A worker that starts in the middle sees what the others see.
    fresh = GlobalOrder(size, batch, seed=seed)
    assert np.array_equal(fresh.batch(size), GlobalOrder(size, batch, seed=seed).batch(size))


def test_seeds_differ_by_step_and_worker() -> None:
    seeds = {step_seed(0, step, rank) for step in range(50) for rank in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ragged_samples_are_padded() -> None:
    out = join([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert out["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert out["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert out["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_windows_tile_the_text() -> None:
    windows = TokenWindows(np.arange(20, dtype=np.uint8), 4)
    assert len(windows) == 4
    batch = windows.batch(np.array([0, 3]))
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4], [12, 13, 14, 15, 16]]
    assert len(TokenWindows(np.arange(20), 4, stride=1)) == 16


@pytest.mark.parametrize(
    "data",
    [
        {"input_ids": torch.ones(4, 3)},
        [{"input_ids": [1, 2, 3]}] * 4,
        [([1, 2, 3], [1, 2, 3])] * 4,
        torch.utils.data.TensorDataset(torch.ones(4, 3), torch.ones(4, 3)),
        torch.ones(4, 3),
        torch.utils.data.Subset([torch.ones(3)] * 9, [0, 2, 4, 6]),
    ],
)
def test_usual_data_sets_are_read(data: Any) -> None:
    source = as_source(data)
    assert len(source) == 4
    assert source.batch(np.array([0, 3]))["input_ids"].shape == (2, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no samples"),
        (iter([1]), "no length"),
        ({"a": [1, 2], "b": [1]}, "one length"),
        (7, "int has no length"),
    ],
)
def test_bad_data_sets_are_named(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_source(data)


def test_bad_samples_are_named() -> None:
    with pytest.raises(InputError, match="not str"):
        Items(["text"]).batch(np.array([0]))
    with pytest.raises(InputError, match="fewer than a window"):
        TokenWindows([1, 2, 3], 3)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 5}, "steps"),
        ({"max_steps": True}, "max_steps"),
        ({"patience": 2}, "patience needs eval_every"),
        ({"schedule": "step"}, "schedule"),
    ],
)
def test_bad_configurations_of_training_are_named(config: dict[str, Any], field: str) -> None:
    model, data = line()
    with pytest.raises(InputError, match=field):
        TrainingLoop(model, data, config=config)


def test_models_without_weights_or_loss_are_refused() -> None:
    _, data = line()
    with pytest.raises(InputError, match="no weights"):
        TrainingLoop(nn.Identity(), data)
    with pytest.raises(InputError, match="no scalar loss"):
        model_loss(nn.Linear(2, 2), {"input": torch.ones(1, 2)})


def test_stopping_writes_a_checkpoint(tmp_path: Path) -> None:
    model, data = line()
    report = TrainingLoop(model, data, directory=tmp_path, callbacks=[StopAt(3)],
                          config={"epochs": 9}).run()  # fmt: skip
    assert report.steps == 3
    assert report.checkpoint == str(tmp_path / "step-00000003")


def test_saving_needs_a_directory_and_evaluating_data() -> None:
    model, data = line()
    loop = TrainingLoop(model, data)
    with pytest.raises(InputError, match="directory"):
        loop.save()
    with pytest.raises(InputError, match="eval_dataset"):
        loop.evaluate()
