"""Training with coded gradients: equal ranks, exact resume, other numbers of workers, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_worlds import in_world, text, tiny

from qcluster.errors import InputError
from qcluster.qtransformers import QuantumTrainer
from qcluster.qtransformers.data import TokenWindows


@pytest.mark.parametrize("compression", [{}, {"feedback": 0.5, "bits": 2.0}])
def test_ranks_stay_alike_and_go_on_bit_for_bit(
    compression: dict[str, Any], tmp_path: Path
) -> None:
    options = {"compression": compression, "save_every": 7}
    whole = in_world(2, "train_coded", directory=str(tmp_path / "a"), stop=20, **options)
    assert whole[0]["weights"] == whole[1]["weights"]
    assert whole[0]["sent"] < whole[0]["plain"] / 2
    in_world(2, "train_coded", directory=str(tmp_path / "b"), stop=14, **options)
    again = in_world(2, "train_coded", directory=str(tmp_path / "b"), stop=20, **options)
    assert again[0]["losses"] == whole[0]["losses"]
    assert again[0]["weights"] == whole[0]["weights"]
    assert again[1]["weights"] == whole[0]["weights"]


def test_other_numbers_of_workers_go_on(tmp_path: Path) -> None:
    options = {"compression": {"feedback": 0.5}, "save_every": 6, "directory": str(tmp_path)}
    for world, stop in ((2, 6), (1, 12), (2, 18)):
        parts = in_world(world, "train_coded", stop=stop, **options)
    plain = in_world(2, "train_some", directory=str(tmp_path / "plain"), stop=18, save_every=None)
    assert len(parts[0]["losses"]) == 18
    assert np.allclose(parts[0]["losses"], plain[0]["losses"], rtol=0.05)


def test_sgd_gets_back_what_rounding_took(tmp_path: Path) -> None:
    options = {"stop": 30, "optimizer": "sgd", "learning_rate": 0.05, "save_every": None}
    coded = in_world(2, "train_coded", directory=str(tmp_path / "a"), compression={}, **options)
    plain = in_world(2, "train_some", directory=str(tmp_path / "b"), **options)
    assert coded[0]["weights"] == coded[1]["weights"]
    assert np.allclose(coded[0]["losses"], plain[0]["losses"], rtol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": {"bits": 0.0}}, "compression.bits"),
        ({"compression": {"rate": 2.0}}, "compression.rate"),
        ({"compression": 25}, "compression"),
        ({"compression": {}, "strategy": "fsdp"}, "compression"),
        ({"compression": {}, "comm_hook": "training_worlds:double_gradients"}, "comm_hook"),
    ],
)
def test_wrong_options_are_named_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantumTrainer(tiny(), TokenWindows(text(), 8), **options)
