"""Runs that are killed go on bit for bit; runs on other numbers of workers see the same samples."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_worlds import (
    CONFIG,
    CONTEXT,
    StopAt,
    in_world,
    text,
    tiny,
    train_and_tell,
    train_here,
)

from qcluster.errors import FormatError, InputError
from qcluster.qtransformers import checkpoint as store
from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loop import TrainingLoop


def weights(path: Path) -> dict[str, torch.Tensor]:
    held = store.read(path)
    return {f"{part}/{n}": v for part, tensors in held.parts.items() for n, v in tensors.items()}


def figures(directory: Path) -> list[tuple[str, ...]]:
    """Step, loss, rate and norm as written; the last column is a speed and differs."""
    lines = (directory / "steps.csv").read_text().splitlines()
    return [tuple(line.split(",")[:-1]) for line in lines]


def start(directory: Path) -> tuple[Any, Any]:
    reader, writer = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=train_and_tell, args=(str(directory), writer))
    child.start()
    writer.close()
    return child, reader


def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    whole = train_here(tmp_path / "whole")
    draw, kills = random.Random(2026), 0
    broken = tmp_path / "broken"
    while kills < 10:
        child, reader = start(broken)
        # A step is heard of before its checkpoint is written: kills hit steps and writes alike.
        for _ in range(draw.randint(1, 7)):
            assert reader.poll(60)
            if reader.recv() == "done":
                break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        newest = store.latest(broken / "checkpoints")
        if newest is not None and newest.name == f"step-{CONFIG['max_steps']:08d}":
            break
    again = train_here(broken)
    assert kills >= 8
    assert np.array_equal(again.losses, whole.losses)
    assert again.evaluations == whole.evaluations
    assert figures(broken) == figures(tmp_path / "whole")
    a, b = (weights(tmp_path / name / "checkpoints") for name in ("whole", "broken"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_kill_while_writing_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), config={"max_steps": 2},
                        directory=tmp_path)  # fmt: skip
    loop.run()
    partial = tmp_path / ".step-00000003.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert store.latest(tmp_path) == tmp_path / "step-00000002"
    assert store.read(tmp_path).state["step"] == 2


def test_sigterm_stores_a_checkpoint_and_ends(tmp_path: Path) -> None:
    class Terminate(StopAt):
        def on_step(self, loop: TrainingLoop) -> None:
            if loop.step == self.at:
                signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), config={"max_steps": 9, "batch_size": 4},
                        callbacks=[Terminate(4)], directory=tmp_path)  # fmt: skip
    report = loop.run()
    assert report.steps == 4
    assert "SIGTERM" in report.stopped
    assert store.read(tmp_path).state["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_users_random_state_is_left_alone() -> None:
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), config={"max_steps": 2})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loop.run()
    assert torch.equal(torch.get_rng_state(), before)


def test_worlds_of_two_one_and_two_keep_the_global_order(tmp_path: Path) -> None:
    alone = in_world(1, "train_some", directory=str(tmp_path / "alone"), stop=18)[0]
    mixed: list[list[int]] = []
    for world, stop in ((2, 6), (1, 12), (2, 18)):
        parts = in_world(
            world, "train_some", directory=str(tmp_path / "mixed"), stop=stop, save_every=6
        )
        shares = zip(*(part["read"] for part in parts), strict=True)
        mixed += [[index for piece in pieces for index in piece] for pieces in shares]
    assert mixed == alone["read"]
    losses = parts[0]["losses"]
    assert np.allclose(losses, alone["losses"], rtol=1e-4)
    assert parts[0]["losses"] == parts[1]["losses"]


def test_uneven_shares_weigh_as_one_batch(tmp_path: Path) -> None:
    """Seven samples on two workers, and an epoch's last step with one: the same weights."""
    options = {"stop": 12, "batch_size": 7, "save_every": None, "optimizer": "sgd", "momentum": 0.0}
    one = in_world(1, "train_some", directory=str(tmp_path / "a"), **options)[0]
    two = in_world(2, "train_some", directory=str(tmp_path / "b"), **options)
    assert two[0]["weights"] == two[1]["weights"]
    for name, value in one["weights"].items():
        assert two[0]["weights"][name] == pytest.approx(value, abs=2e-4), name


def test_sharded_weights_train_and_resume_like_copies(tmp_path: Path) -> None:
    options = {"stop": 8, "save_every": 4}
    copies = in_world(2, "train_some", directory=str(tmp_path / "a"), **options)[0]
    in_world(
        2, "train_some", directory=str(tmp_path / "b"), strategy="fsdp", **{**options, "stop": 4}
    )
    shards = in_world(2, "train_some", directory=str(tmp_path / "b"), strategy="fsdp", **options)[0]
    assert np.allclose(shards["losses"], copies["losses"], rtol=1e-4)
    alone = in_world(1, "train_some", directory=str(tmp_path / "b"), **{**options, "stop": 9})[0]
    assert len(alone["losses"]) == 9


def test_tensor_ranks_share_draws_and_data_ranks_do_not() -> None:
    shared = in_world(2, "draws", tensor_ranks=2)
    assert shared[0] == shared[1]
    apart = in_world(2, "draws", tensor_ranks=1)
    assert not set(apart[0]) & set(apart[1])
    assert len(set(apart[0])) == 3


def test_a_communication_hook_carries_the_gradients() -> None:
    plain = in_world(2, "one_sgd_step", comm_hook=None)
    hooked = in_world(2, "one_sgd_step", comm_hook="training_worlds:double_gradients")
    assert hooked[0] == pytest.approx(2 * plain[0], rel=1e-4)


def _trained(path: Path, **config: Any) -> TrainingLoop:
    loop = TrainingLoop(
        tiny(), TokenWindows(text(), 8), config={"max_steps": 2, **config}, directory=path
    )
    loop.run()
    return loop


def test_checkpoints_of_another_seed_are_refused(tmp_path: Path) -> None:
    _trained(tmp_path)
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), config={"seed": 5}, directory=tmp_path)
    with pytest.raises(InputError, match="seed 0"):
        loop.run(resume=True)


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    _trained(tmp_path)
    loop = TrainingLoop(tiny(d_model=8), TokenWindows(text(), 8), directory=tmp_path)
    with pytest.raises(FormatError, match=r"token\.weight.*shape"):
        loop.run(resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_broken_checkpoints_name_the_file(name: str, tmp_path: Path) -> None:
    _trained(tmp_path)
    (tmp_path / "step-00000002" / name).write_bytes(b"{")
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8), directory=tmp_path)
    with pytest.raises(FormatError, match=name):
        loop.run(resume=True)


def test_an_explicit_checkpoint_must_exist(tmp_path: Path) -> None:
    loop = TrainingLoop(tiny(), TokenWindows(text(), 8))
    with pytest.raises(FormatError, match="no checkpoint"):
        loop.run(resume=tmp_path)


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    _trained(tmp_path, max_steps=7, save_every=1, batch_size=4, keep_checkpoints=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000005", "step-00000006", "step-00000007"]
    state = json.loads((tmp_path / "step-00000007" / "state.json").read_text())
    assert state["samples"] == 28
