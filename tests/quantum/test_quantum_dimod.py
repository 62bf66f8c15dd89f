"""The dimod sampler under dimod's own checks."""

from __future__ import annotations

import unittest

import numpy as np
import pytest

from qcluster.errors import InputError

dimod = pytest.importorskip("dimod")

from dimod.testing import (  # noqa: E402
    assert_response_energies,
    assert_sampler_api,
    load_sampler_bqm_tests,
)

from qcluster.quantum.dimod_sampler import QClusterSampler  # noqa: E402


class _Quick(QClusterSampler):
    """A short deadline, for dimod's hundreds of checks."""

    def sample(self, bqm, **arguments):
        return super().sample(bqm, **{"deadline_s": 0.05, **arguments})


@load_sampler_bqm_tests(_Quick)
class TestAgainstDimod(unittest.TestCase):
    """Filled by the decorator."""


def test_api():
    assert_sampler_api(QClusterSampler())
    assert "annealing" in QClusterSampler().properties["solvers"]


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_minimum_of_named_variables(vartype):
    generator = np.random.default_rng(0)
    names = [("x", i) for i in range(7)]
    bqm = dimod.BinaryQuadraticModel(vartype)
    for i, name in enumerate(names):
        bqm.add_variable(name, generator.normal())
        for other in names[:i]:
            bqm.add_interaction(name, other, generator.normal())
    found = QClusterSampler().sample(bqm, num_reads=2)
    assert_response_energies(found, bqm)
    best = dimod.ExactSolver().sample(bqm).first.energy
    assert found.first.energy == pytest.approx(best)
    assert found.info["lower_bound"] == pytest.approx(best)


def test_refusals():
    bqm = dimod.BinaryQuadraticModel({"a": 1.0}, {}, 0.0, "SPIN")
    with pytest.raises(InputError):
        QClusterSampler().sample(bqm, num_reads=0)
    with pytest.raises(InputError):
        QClusterSampler().sample(bqm, solver="magic")
