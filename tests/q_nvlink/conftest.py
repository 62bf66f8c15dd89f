"""Fixtures of the fabric tests."""

from __future__ import annotations

import pytest
from nvlink_cases import dgx1_data, star_data

from qcluster.q_nvlink import Fabric, parse_node_link


@pytest.fixture
def dgx1() -> Fabric:
    return parse_node_link(dgx1_data())


@pytest.fixture
def star() -> Fabric:
    return parse_node_link(star_data(8))
