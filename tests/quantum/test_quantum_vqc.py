"""Variational circuits as torch modules: one value, three ways to its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qcluster.errors import InputError
from qcluster.quantum import circuits, vqc


def layer(kind, gradient, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(1)
    if kind == "entangling":
        return vqc.StronglyEntangling(
            3, 2, gradient=gradient, generator=generator, dtype=dtype, **options
        )
    return vqc.DataReuploading(
        3, 2, 2, gradient=gradient, generator=generator, dtype=dtype, **options
    )


def slopes(module, x):
    """Values, and the gradients of an uneven loss for the input and all parameters."""
    x = x.clone().requires_grad_()
    values = module(x)
    (values.sin() * torch.arange(values.numel()).reshape(values.shape)).sum().backward()
    return [values.detach(), x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("kind", ["entangling", "reuploading"])
@pytest.mark.parametrize("gradient", ["backprop", "parameter-shift"])
def test_gradients_agree(kind, gradient):
    x = torch.rand(5, 3 if kind == "entangling" else 2, dtype=torch.float64)
    ours, other = slopes(layer(kind, "adjoint"), x), slopes(layer(kind, gradient), x)
    for a, b in zip(ours, other, strict=True):
        assert torch.abs(a - b).max() < 1e-10


def test_autograd_holds_against_finite_differences():
    module = layer("reuploading", "adjoint")
    x = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
    twice = layer("reuploading", "backprop")
    assert torch.autograd.gradgradcheck(twice, (x,))


def test_values_equal_numpys():
    module = layer("entangling", "adjoint")
    x = torch.rand(4, 3, dtype=torch.float64)
    weight = module.weight.detach().numpy()
    angles = np.concatenate([x.numpy(), np.tile(weight, (4, 1))], axis=1)
    assert np.allclose(module(x).detach(), module.circuit.expectations(angles), atol=1e-14)


def test_values_equal_pennylanes():
    import pennylane as qml

    module = layer("entangling", "adjoint")
    x = torch.rand(3, dtype=torch.float64)
    weights = module.weight.detach().numpy().reshape(2, 3, 3)

    @qml.qnode(qml.device("default.qubit", wires=3))
    def run():
        qml.AngleEmbedding(x.numpy(), wires=range(3), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(3))
        return [qml.expval(qml.PauliZ(q)) for q in range(3)]

    assert np.allclose(module(x[None]).detach()[0], run(), atol=1e-13)


def test_single_precision_stays_single():
    module = layer("entangling", "adjoint", dtype=torch.float32)
    x = torch.rand(4, 3)
    values = module(x)
    assert values.dtype == torch.float32
    exact = layer("entangling", "adjoint", dtype=torch.float64)
    exact.load_state_dict(module.state_dict())
    assert torch.allclose(values.double(), exact(x.double()), atol=1e-5)


def test_trains_inside_a_network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(layer("reuploading", "adjoint", spread=0.3), torch.nn.Linear(3, 1))
    model = model.double()
    x = torch.rand(64, 2, dtype=torch.float64) * 3
    y = torch.sin(x[:, :1]) * torch.cos(x[:, 1:])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_start_amplitudes_have_gradients_under_backprop():
    circuit = circuits.strongly_entangling(2, 1)
    table = torch.as_tensor(circuits.z_diagonals(2, [(0,)]))
    start = torch.tensor([[0.6, 0.8j, 0, 0]], dtype=torch.complex128, requires_grad=True)
    angles = torch.rand(1, 6, dtype=torch.float64)
    values = [
        vqc.expectations(circuit, angles, table, gradient=g, start=start) for g in vqc.GRADIENTS
    ]
    assert torch.allclose(values[0], values[1])
    assert torch.allclose(values[0], values[2])
    values[1].sum().backward()
    assert start.grad.abs().sum() > 0


def test_own_circuit_and_observables():
    circuit = circuits.ParametrisedCircuit(1, (("ry", (0,), (0,)), ("ry", (0,), (1,))))
    module = vqc.VQC(circuit, 1, observables=circuits.z_diagonals(1, [(0,)]), dtype=torch.float64)
    with torch.no_grad():
        module.weight.fill_(0.5)
    value = module(torch.tensor([[0.25]], dtype=torch.float64))
    assert value.item() == pytest.approx(np.cos(0.75), abs=1e-14)


def test_wrong_uses_are_named():
    circuit = circuits.angle_encoding(2)
    with pytest.raises(InputError, match="gradient"):
        vqc.VQC(circuit, 2, gradient="guess")
    with pytest.raises(InputError, match="gradient"):
        vqc.DataReuploading(2, 1, 1, gradient="guess")
    with pytest.raises(InputError, match="gradient"):
        vqc.expectations(circuit, torch.zeros(1, 2), torch.zeros(1, 4), gradient="guess")
    with pytest.raises(InputError, match="inputs"):
        vqc.VQC(circuit, 3)
    with pytest.raises(InputError, match="features"):
        vqc.DataReuploading(2, 1, 3)
    with pytest.raises(InputError, match="observables"):
        vqc.VQC(circuit, 2, observables=[[1.0, 0.0]])
    with pytest.raises(InputError, match=r"wants shape \(B, 2\)"):
        vqc.VQC(circuit, 2)(torch.zeros(3, 1))
    with pytest.raises(InputError, match="angles"):
        vqc.states(circuit, torch.zeros(3, 1))
