"""Fidelity kernels against PennyLane and closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.quantum.kernels import FEATURE_MAPS, GramMatrix, feature_states, gram_matrix
from qcluster.quantum.requests import KernelRequest
from qcluster.request import parse_request

POINTS = np.random.default_rng(0).normal(size=(7, 4))


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("feature_map", sorted(FEATURE_MAPS))
def test_pennylane_makes_the_same_matrix(feature_map, repeats):
    ours = gram_matrix(POINTS, feature_map=feature_map, repeats=repeats)
    theirs = gram_matrix(POINTS, feature_map=feature_map, repeats=repeats, engine="pennylane")
    assert np.abs(ours.matrix - theirs.matrix).max() < 1e-12
    assert theirs.engine == "pennylane"


def test_pennylane_pairwise_circuits_agree():
    import pennylane as qml

    wires = range(4)

    @qml.qnode(qml.device("default.qubit", wires=4))
    def overlap(x, y):
        qml.IQPEmbedding(x, wires=wires, n_repeats=2)
        qml.adjoint(qml.IQPEmbedding)(y, wires=wires, n_repeats=2)
        return qml.probs(wires=wires)

    matrix = gram_matrix(POINTS[:4], repeats=2).matrix
    pairwise = [[overlap(x, y)[0] for y in POINTS[:4]] for x in POINTS[:4]]
    assert np.abs(matrix - pairwise).max() < 1e-12


def test_angle_kernel_has_a_closed_form():
    matrix = gram_matrix(POINTS, POINTS[:3], feature_map="angle").matrix
    difference = POINTS[:, None, :] - POINTS[None, :3, :]
    assert np.allclose(matrix, np.prod(np.cos(difference / 2) ** 2, axis=2), atol=1e-14)


def test_matrix_is_a_kernel():
    gram = gram_matrix(np.random.default_rng(1).normal(size=(300, 5)))
    assert gram.qubits == 5
    assert np.array_equal(gram.matrix, gram.matrix.T)
    assert (np.diagonal(gram.matrix) == 1).all()
    assert gram.smallest_eigenvalue > -1e-10
    assert np.allclose(np.linalg.norm(feature_states(POINTS), axis=1), 1)
    assert GramMatrix.from_dict(json.loads(json.dumps(gram.to_dict()))) == gram
    assert gram_matrix(np.zeros((0, 3))).matrix.shape == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"points": [1.0, 2.0]}, "points"),
        ({"points": [[1.0], [1.0, 2.0]]}, "points"),
        ({"points": [[np.nan]]}, "points"),
        ({"points": np.zeros((3, 0))}, "points"),
        ({"points": np.zeros((1, 40))}, "points"),
        ({"points": POINTS, "others": [[1.0]]}, "others"),
        ({"points": POINTS, "feature_map": "magic"}, "feature_map"),
        ({"points": POINTS, "repeats": 0}, "repeats"),
        ({"points": POINTS, "engine": "cloud"}, "engine"),
    ],
)
def test_refusals(arguments, field):
    with pytest.raises(InputError) as caught:
        gram_matrix(**arguments)
    assert caught.value.field == field


def test_request():
    gram = parse_request("quantum.kernel", json.dumps(KernelRequest.example).encode()).run()
    assert gram.matrix.shape == (3, 3)
    for bad in ({"points": []}, {"points": [[1.0]], "repeats": 0}, {"points": [["a"]]}):
        with pytest.raises(InputError):
            parse_request("quantum.kernel", bad).run()
