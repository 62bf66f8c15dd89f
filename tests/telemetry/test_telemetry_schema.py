"""Schema, topology and job profiles: what is read, what is refused, and by what name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qcluster.telemetry as package
from qcluster.errors import FormatError
from qcluster.telemetry import METRICS, Block, Job, Quality, Topology
from qcluster.telemetry.schema import is_blank, screen

# Schema


def test_every_metric_says_its_unit_by_its_name():
    suffix = {"W": "_w", "J": "_j", "MHz": "_mhz", "C": "_c", "B": "_bytes", "GB/s": "_gb_s",
              "s": "_s"}  # fmt: skip
    for metric in METRICS.values():
        assert metric.unit == "1" or metric.name.endswith(suffix[metric.unit]), metric.name
        assert metric.low < metric.high
        assert metric.scale > 0
        assert metric.help


def test_no_two_metrics_share_a_field_of_dcgm():
    fields = [metric.dcgm for metric in METRICS.values() if metric.dcgm]
    assert len(fields) == len(set(fields))


def test_dcgms_default_counters_are_read(data_dir):
    lines = (data_dir / "ray" / "dcgm-default-counters.csv").read_text().splitlines()
    offered = {line.split(",")[0].strip("# ") for line in lines if "DCGM_FI" in line}
    ours = {metric.dcgm for metric in METRICS.values() if metric.dcgm}
    assert len(ours & offered) >= 10


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=20), st.sampled_from(sorted(METRICS)))
def test_screened_values_are_possible_or_nan_with_a_reason(values, name):
    metric = METRICS[name]
    clean, quality = screen(metric, np.array(values))
    good = quality == 0
    assert np.isnan(clean[~good]).all()
    assert ((clean[good] >= metric.low) & (clean[good] <= metric.high)).all()
    np.testing.assert_array_equal(clean[good], np.array(values)[good])


def test_a_counter_may_pass_what_marks_a_blank_gauge():
    big = np.array([2.0**46, 2147483640.0, 9223372036854775794.0])
    assert is_blank(big, np.array(False)).tolist() == [True, True, True]
    assert is_blank(big, np.array(True)).tolist() == [False, False, True]


def test_a_block_survives_json():
    columns = {"power_w": np.array([1.0, np.nan]), "temperature_c": np.array([50.0, 500.0])}
    block = Block.of("gpu", ("a/0", "a/1"), columns)
    assert block.quality.tolist() == [[0, 0], [Quality.MISSING, Quality.RANGE]]
    assert Block.from_dict(json.loads(json.dumps(block.to_dict()))) == block


def test_a_block_refuses_columns_of_another_length():
    with pytest.raises(FormatError, match="power_w"):
        Block.of("gpu", ("a/0",), {"power_w": np.zeros(2)})


def test_everything_exported_exists():
    assert all(hasattr(package, name) for name in package.__all__)


# Topology

TOPOLOGY = {
    "nodes": [{"id": "a", "gpus": 2, "model": "H100", "clocks_mhz": [345, 1980]}, {"id": 7}],
    "accelerators": [{"id": "qpu", "idle_w": 10, "active_w": 25, "queue": 3}],
    "links": [{"source": "a/0", "target": "a/1", "bandwidth_gb_s": 50, "links": 2}],
}


def test_a_topology_file(tmp_path):
    topology = Topology.parse(TOPOLOGY)
    assert topology.gpu_ids == ("a/0", "a/1")
    assert [node.id for node in topology.nodes] == ["a", "7"]
    assert (topology.nodes[0].min_w, topology.nodes[0].max_w) == (200, 700), "known models"
    assert topology.links[0].id == "a/0->a/1"
    (tmp_path / "t.json").write_text(json.dumps(TOPOLOGY))
    (tmp_path / "t.yaml").write_text(json.dumps(TOPOLOGY))
    assert Topology.read(tmp_path / "t.json") == Topology.read(tmp_path / "t.yaml") == topology
    assert Topology.from_dict(topology.to_dict()) == topology


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"nodes": 5}, "nodes"),
        ({"nodes": [5]}, r"nodes\[0\]"),
        ({"nodes": [{"gpus": 1}]}, r"nodes\[0\].id"),
        ({"nodes": [{"id": "a\ud800"}]}, r"nodes\[0\].id"),
        ({"nodes": [{"id": "a"}, {"id": "a"}]}, "twice"),
        ({"nodes": [{"id": "a", "gpus": True}]}, "gpus"),
        ({"nodes": [{"id": "a", "gpus": 10**500}]}, "gpus"),
        ({"nodes": [{"id": "a", "min_w": 10**500}]}, "min_w"),
        ({"nodes": [{"id": "a", "min_w": float("nan")}]}, "min_w"),
        ({"nodes": [{"id": "a", "min_w": 5, "max_w": 4}]}, "max_w"),
        ({"nodes": [{"id": "a", "clocks_mhz": 5}]}, "clocks_mhz"),
        ({"nodes": [{"id": "a", "clocks_mhz": ["fast"]}]}, "clocks_mhz"),
        ({"nodes": [{"id": str(i), "gpus": 4096} for i in range(33)]}, "131,072 GPUs"),
        ({"links": [{"source": "a", "target": "b"}]}, "bandwidth_gb_s"),
        ({"links": [{"source": "a", "target": "b", "bandwidth_gb_s": 0}]}, "bandwidth_gb_s"),
        ({"links": [{"source": "a", "target": "b", "bandwidth_gb_s": 1, "links": 0.5}]}, "links"),
        ({"links": [{"source": "a", "target": "b", "bandwidth_gb_s": 1, "directed": "no"}]},
         "directed"),
    ],
)  # fmt: skip
def test_a_bad_topology_names_place_and_field(change, named):
    with pytest.raises(FormatError, match=named) as error:
        Topology.parse({**TOPOLOGY, **change})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.json", "{"), ("t.json", "[" * 100_000), ("t.json", '{"nodes": [{"id": 1' + "0" * 5000),
     ("t.yaml", "a: [b"), ("t.yaml", "!!python/object:os.system {}"), ("t.json", "[]")],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=name):
        Topology.read(tmp_path / name)
    with pytest.raises(FormatError, match="nowhere"):
        Topology.read(tmp_path / "nowhere.json")


# Jobs


def traffic(**kwargs):
    return Job(id="j", **kwargs).traffic()


@pytest.mark.parametrize("kind", ["ring", "allreduce", "allgather", "all_to_all", "pipeline"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_traffic_of_each_kind(kind, n):
    matrix = traffic(gpus=n, kind=kind, bytes=12.0)
    assert matrix.shape == (n, n)
    assert not matrix.diagonal().any()
    sent = matrix.sum(axis=1)
    if n == 1:
        assert not sent.any()
    elif kind == "allreduce":
        np.testing.assert_allclose(sent, 12 * 2 * (n - 1) / n)
    elif kind == "pipeline":
        np.testing.assert_allclose(sent, [12] * (n - 1) + [0])
    else:
        np.testing.assert_allclose(sent, 12)


def test_job_profiles():
    first, second = Job.parse_all(
        [
            {"id": "a", "gpus": 2, "traffic": [[9, 5], [7, 9]], "pinned": ["n/0"]},
            {"id": "b", "gpus": 4, "traffic": {"kind": "ring", "bytes": 3}, "after": ["a"]},
        ]
    )
    np.testing.assert_array_equal(first.traffic(), [[0, 5], [7, 0]])
    assert (second.kind, second.bytes, second.after) == ("ring", 3, ("a",))
    assert Job.parse_all({"jobs": []}) == ()
    assert Job.from_dict(first.to_dict()) == first


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (5, r"\[0\]"),
        ({"gpus": 1}, "id"),
        ({"id": "a"}, "gpus"),
        ({"id": "a", "gpus": 0}, "gpus"),
        ({"id": "a", "gpus": True}, "gpus"),
        ({"id": "a", "gpus": 1, "colour": 1}, "colour"),
        ({"id": "a", "gpus": 1, "traffic": {"kind": "gossip"}}, "kind"),
        ({"id": "a", "gpus": 1, "traffic": {"kind": []}}, "kind"),
        ({"id": "a", "gpus": 1, "traffic": {"bytes": -1}}, "bytes"),
        ({"id": "a", "gpus": 2, "traffic": [[1]]}, "traffic"),
        ({"id": "a", "gpus": 2, "traffic": [[1, 2], [3]]}, "traffic"),
        ({"id": "a", "gpus": 1, "traffic": [[10**500]]}, "traffic"),
        ({"id": "a", "gpus": 1, "traffic": [[float("nan")]]}, "traffic"),
        ({"id": "a", "gpus": 1, "pinned": "n/0"}, "pinned"),
        ({"id": "a", "gpus": 1, "pinned": [None]}, "pinned"),
        ({"id": "a", "gpus": 1, "after": ["b"]}, "after"),
        ({"id": "a", "gpus": 1, "deadline_s": float("inf")}, "deadline_s"),
    ],
)
def test_a_bad_profile_names_place_and_field(row, named):
    with pytest.raises(FormatError, match=named):
        Job.parse_all([row])


def test_two_jobs_of_one_name_and_no_list_are_refused():
    with pytest.raises(FormatError, match="twice"):
        Job.parse_all([{"id": "a", "gpus": 1}, {"id": "a", "gpus": 1}])
    for data in (5, "jobs", {"x": 1}, None):
        with pytest.raises(FormatError, match="list of jobs"):
            Job.parse_all(data)


KEYS = (
    "nodes links accelerators id gpus source target bandwidth_gb_s traffic kind bytes after pinned"
)
keys = st.sampled_from(KEYS.split())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(anything, st.sampled_from([Topology.parse, Job.parse_all]))
def test_whatever_comes_is_read_or_refused_in_one_line(data, parse):
    try:
        outcome = str(parse(data))
    except FormatError as error:
        outcome = str(error)
        assert "\n" not in outcome
    assert outcome
