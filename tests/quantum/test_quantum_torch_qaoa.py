"""The torch engine gives what the compiled one gives, for batches of angles and of problems."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcluster.errors import InputError
from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.simulator import MIXERS
from qcluster.quantum.torch_qaoa import TorchQAOA


def problem(n, seed=0, groups=None, offset=0.5):
    generator = np.random.default_rng(seed)
    return IsingProblem(
        generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1), offset, groups
    )


def angles(*shape, seed=1):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape), generator.normal(size=shape)


GROUPS = [None, [[0, 1, 2], [5, 3, 4, 6]], [[0, 1], [2, 3]], [[4]]]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_equals_the_compiled_engine(mixer, groups):
    item = problem(8, groups=groups)
    gammas, betas = angles(5, 3)
    ours, theirs = TorchQAOA(item, mixer), QAOASimulator(item, mixer)
    slack = 1e-12 * max(1.0, item.scale)
    expected = theirs.value_and_grad(gammas, betas)
    found = ours.value_and_grad(gammas, betas)
    assert np.abs(found[0].numpy() - expected[0]).max() < slack
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert np.abs(a.numpy() - b).max() < slack * item.scale
    assert np.abs(ours.state(gammas[0], betas[0]).numpy() - theirs.state(gammas[0], betas[0])).max(
    ) < 1e-12  # fmt: skip
    single = ours.value_and_grad(gammas[0], betas[0])
    assert single[0].shape == ()
    assert single[1].shape == (3,)


@pytest.mark.parametrize("mixer", ["x", "xy_complete", "grover"])
def test_warm_start_too(mixer):
    item = problem(6, groups=[[0, 1, 2]])
    spins = np.random.default_rng(3).uniform(-1, 1, 6)
    gammas, betas = angles(2)
    found = TorchQAOA(item, mixer, warm_start=spins).value_and_grad(gammas, betas)
    expected = QAOASimulator(item, mixer, warm_start=spins).value_and_grad(gammas, betas)
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.numpy() - b).max() < 1e-11 * item.scale


@pytest.mark.parametrize("mixer", MIXERS)
def test_many_problems_in_one_call(mixer):
    items = [problem(7, seed, [[0, 1, 2]], offset=seed) for seed in range(4)]
    batch = TorchQAOA(items, mixer)
    gammas, betas = angles(4, 2)
    values = batch.expectation(gammas, betas)
    same = batch.expectation(gammas[0], betas[0])
    for k, item in enumerate(items):
        alone = QAOASimulator(item, mixer)
        assert values[k].item() == pytest.approx(alone.expectation(gammas[k], betas[k]), abs=1e-11)
        assert same[k].item() == pytest.approx(alone.expectation(gammas[0], betas[0]), abs=1e-11)
    warm = np.random.default_rng(0).uniform(-1, 1, (4, 7))
    if mixer != "xy_ring":
        several = TorchQAOA(items, mixer, warm_start=warm).expectation(gammas, betas)
        alone = QAOASimulator(items[2], mixer, warm_start=warm[2])
        assert several[2].item() == pytest.approx(alone.expectation(gammas[2], betas[2]), abs=1e-11)


def test_angles_out_of_a_network_get_gradients():
    item = problem(5)
    simulator = TorchQAOA(item)
    gammas, betas = (torch.tensor(a, requires_grad=True) for a in angles(3, 2))
    assert torch.autograd.gradcheck(simulator.expectation, (gammas, betas))
    simulator.expectation(gammas, betas).sum().backward()
    expected = QAOASimulator(item).value_and_grad(*angles(3, 2))
    assert np.allclose(gammas.grad, expected[1], atol=1e-11)
    assert np.allclose(betas.grad, expected[2], atol=1e-11)


def test_single_precision_is_close():
    item = problem(8)
    gammas, betas = angles(2)
    value = TorchQAOA(item, dtype=torch.complex64).expectation(gammas, betas)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        QAOASimulator(item).expectation(gammas, betas), abs=1e-4 * item.scale
    )


def test_no_layers_and_no_variables():
    assert TorchQAOA(IsingProblem([], offset=2.0)).expectation([0.1], [0.2]).item() == 2
    item = problem(4)
    mean = TorchQAOA(item).expectation([], []).item()
    assert mean == pytest.approx(item.offset)


def test_wrong_uses_are_named():
    item = problem(4)
    with pytest.raises(InputError, match="mixer"):
        TorchQAOA(item, "swap")
    with pytest.raises(InputError, match="one shape"):
        TorchQAOA([item, problem(5)])
    with pytest.raises(InputError, match="bytes"):
        TorchQAOA(item, max_bytes=1000)
    with pytest.raises(InputError, match=r"bytes"):
        TorchQAOA(IsingProblem(np.zeros(60)))
    simulator = TorchQAOA([item, item])
    with pytest.raises(InputError, match="3 sets of angles for 2"):
        simulator.expectation(*angles(3, 1))
    with pytest.raises(InputError, match="twice"):
        simulator.expectation([0.1], [0.1, 0.2])
    with pytest.raises(InputError, match="finite"):
        simulator.expectation([np.nan], [0.1])
    with pytest.raises(InputError, match="warm_start"):
        TorchQAOA(item, warm_start=[0.5])
    with pytest.raises(InputError, match="warm_start"):
        TorchQAOA(item, "xy_ring", warm_start=[0.5] * 4)
