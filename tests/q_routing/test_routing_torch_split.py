"""The split on tensors equals the split on arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_routing import place_experts
from qcluster.q_routing.split import split
from qcluster.q_routing.torch_split import TorchSplit

torch = pytest.importorskip("torch")


def times(placement, carried):
    total = np.zeros((len(carried), placement.num_gpus))
    for x, row in enumerate(carried):
        np.add.at(total[x], placement.gpu_of_slot, row)
    alive = placement.speed > 0
    assert (total[:, ~alive] == 0).all()
    return (total[:, alive] / placement.speed[alive]).max(axis=1)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(0, 10))
@settings(max_examples=15, deadline=None)
def test_as_even_as_the_split_on_arrays(seed, gpus, spare):
    rng = np.random.default_rng(seed)
    planned, load = rng.integers(0, 900, (2, 3, 16))
    alive = np.arange(gpus) != (seed % gpus if seed % 2 and gpus > 2 else -1)
    speed = rng.choice([1.0, 1.5], gpus)
    placement = place_experts(
        planned, num_slots=(16 + spare) * 2, num_gpus=gpus, alive=alive, speed=speed
    )
    carried = TorchSplit(placement)(torch.as_tensor(load)).numpy()
    assert (carried >= 0).all()
    assert (carried[placement.slots < 0] == 0).all()
    for x, row in enumerate(placement.slots):
        total = np.bincount(row[row >= 0], carried[x][row >= 0], minlength=16)
        assert total == pytest.approx(load[x])
    best = split(placement, load)
    assert (times(placement, carried) <= best.time * 1.002 + 1e-9).all()
    assert (times(placement, carried) >= best.lower_bound * (1 - 1e-9)).all()


def test_without_copies_nothing_is_split():
    placement = place_experts([[3, 1, 2, 2]], num_slots=4, num_gpus=2)
    carried = TorchSplit(placement)(torch.tensor([[3, 1, 2, 2]])).numpy()
    assert carried[0].tolist() == [[3.0, 1.0, 2.0, 2.0][e] for e in placement.slots[0]]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ([[1.0, 2.0]], "shape"),
        ([[1.0, float("nan"), 0.0]], "finite"),
        ([[1.0, float("inf"), 0.0]], "finite"),
        ([[1.0, -1.0, 0.0]], "at least 0"),
    ],
)
def test_bad_loads_are_named(load, message):
    placement = place_experts([[1, 2, 3]], num_slots=4, num_gpus=2)
    with pytest.raises(InputError, match=message):
        TorchSplit(placement)(torch.tensor(load))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives():
    load = np.random.default_rng(0).integers(0, 900, (4, 32))
    placement = place_experts(load[::-1], num_slots=48, num_gpus=8)
    here = TorchSplit(placement)(torch.as_tensor(load))
    there = TorchSplit(placement, "cuda")(torch.as_tensor(load, device="cuda")).cpu()
    assert there.numpy() == pytest.approx(here.numpy(), abs=1e-6)
