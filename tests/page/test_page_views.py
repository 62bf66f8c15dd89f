"""What the server shows the page of a snapshot."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.views import power_history, snapshot_view
from qcluster.telemetry import Link, Node, Snapshot, Topology

TOPOLOGY = Topology(
    nodes=(Node(id="a", gpus=1), Node(id="b", gpus=1)),
    links=(Link(source="a/0", target="sw", bandwidth_gb_s=100.0),),
)


def make(**fields) -> Snapshot:
    return Snapshot(seq=1, ts_s=10.0, topology=TOPOLOGY, alive=np.array([True, False]), **fields)


def test_power_history_sums_what_reported():
    power = np.array([[1.0, 2.0], [np.nan, 4.0], [np.nan, np.nan]])
    snapshot = make(power_ts_s=np.array([1.0, 2.0, 3.0]), power_w=power)
    assert power_history(snapshot) == [[1.0, 3.0], [2.0, 4.0]]


def test_power_history_of_a_new_cluster_is_empty():
    assert power_history(make(power_w=np.empty((0, 2)))) == []


def test_unknown_values_are_null():
    view = snapshot_view(make())
    assert view["power_w"] == [None, None]
    assert view["links"][0]["up"] is None
    assert view["links"][0]["load"] is None
    assert view["alive"] == [True, False]


def test_link_load_is_the_share_of_its_bandwidth():
    link = {"link_up": np.array([1.0]), "link_tx_gb_s": np.array([25.0])}
    view = snapshot_view(make(link=link))
    assert view["links"][0]["load"] == pytest.approx(0.25)
    assert view["links"][0]["up"] is True
