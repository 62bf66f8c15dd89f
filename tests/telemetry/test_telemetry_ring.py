"""The ring: newest wins, rates, staleness, bounded memory, several sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.telemetry import Batch, Block, Event, Job, Link, Node, Quality, Ring, Topology
from qcluster.telemetry.ring import describe

TWO = Topology(nodes=(Node(id="a", gpus=2), Node(id="b", gpus=1)))
ONE, OTHER = Topology(nodes=TWO.nodes[:1]), Topology(nodes=TWO.nodes[1:])


def gpu(ids, **columns):
    return Block.of("gpu", tuple(ids), {k: np.array(v, float) for k, v in columns.items()})


def batch(ts_s, *blocks, topology=None, source="test", **rest):
    return Batch(source=source, ts_s=ts_s, blocks=blocks, topology=topology, **rest)


def ring_with(*batches):
    ring = Ring()
    for one in batches:
        ring.add(one)
    return ring


def test_values_stand_in_topology_order_and_unknown_rows_are_counted():
    ring = ring_with(batch(1.0, gpu(["b/0", "x/0", "a/1"], power_w=[3, 9, 2]), topology=TWO))
    np.testing.assert_array_equal(ring.snapshot().gpu["power_w"], [np.nan, 2, 3])
    assert ring.unknown_rows == 1


def test_late_batches_fill_in_but_never_overwrite():
    ring = ring_with(
        batch(5.0, gpu(["a/0"], power_w=[50]), topology=TWO),
        batch(4.0, gpu(["a/0", "a/1"], power_w=[40, 41])),
    )
    snapshot = ring.snapshot()
    assert snapshot.ts_s == 5.0
    np.testing.assert_array_equal(snapshot.gpu["power_w"], [50, 41, np.nan])


def test_a_second_reading_of_one_time_is_marked_and_the_first_stays():
    ring = ring_with(
        batch(5.0, gpu(["a/0"], power_w=[50]), topology=TWO),
        batch(5.0, gpu(["a/0"], power_w=[60])),
    )
    snapshot = ring.snapshot()
    assert snapshot.gpu["power_w"][0] == 50
    assert snapshot.gpu_quality["power_w"][0] == Quality.DUPLICATE


def test_time_held_becomes_the_share_of_time_held():
    ring = ring_with(
        batch(1.0, gpu(["a/0", "a/1"], power_held_s=[5.0, 7.0]), topology=TWO),
        batch(3.0, gpu(["a/0", "a/1"], power_held_s=[6.5, 7.0])),
    )
    np.testing.assert_allclose(ring.snapshot().gpu["power_held"], [0.75, 0, np.nan])


def test_counters_become_rates_and_a_reset_is_marked_not_negative():
    ring = ring_with(
        batch(1.0, gpu(["a/0", "a/1"], energy_j=[100, 500], nvlink_tx_bytes=[0, 0]), topology=TWO),
        batch(3.0, gpu(["a/0", "a/1"], energy_j=[700, 10], nvlink_tx_bytes=[4e9, 1e9])),
    )
    snapshot = ring.snapshot()
    np.testing.assert_allclose(snapshot.gpu["energy_w"], [300, np.nan, np.nan])
    np.testing.assert_allclose(snapshot.gpu["nvlink_tx_gb_s"], [2, 0.5, np.nan])
    assert snapshot.gpu_quality["energy_j"][1] == Quality.RESET
    ring.add(batch(5.0, gpu(["a/1"], energy_j=[210])))
    assert ring.snapshot().gpu["energy_w"][1] == 100, "the rate is known again after the reset"


def test_a_rate_may_be_counted_or_reported():
    ring = ring_with(
        batch(1.0, gpu(["a/0"], nvlink_tx_bytes=[0]), topology=TWO),
        batch(2.0, gpu(["a/0"], nvlink_tx_bytes=[3e9]), gpu(["a/1"], nvlink_tx_gb_s=[7])),
    )
    np.testing.assert_allclose(ring.snapshot().gpu["nvlink_tx_gb_s"], [3, 7, np.nan])


def test_values_go_stale_after_three_periods_of_the_newest_sample():
    ring = ring_with(
        batch(1.0, gpu(["a/0"], power_w=[50]), topology=TWO),
        batch(4.0, gpu(["a/1"], power_w=[60])),
    )
    assert ring.snapshot().gpu["power_w"][0] == 50
    ring.add(batch(4.5, gpu(["a/1"], power_w=[60])))
    snapshot = ring.snapshot()
    assert np.isnan(snapshot.gpu["power_w"][0])
    assert snapshot.gpu_quality["power_w"][0] & Quality.STALE
    np.testing.assert_array_equal(snapshot.alive, [False, True, True])


def test_each_source_has_its_own_period():
    slow = batch(1.0, gpu(["a/0"], power_w=[50]), topology=TWO, source="slow", period_s=10.0)
    ring = ring_with(slow, batch(1.0, gpu(["a/1"], power_w=[60])), batch(20.0, source="fast"))
    assert ring.snapshot().alive.tolist() == [True, False, True]
    np.testing.assert_array_equal(ring.snapshot().gpu["power_w"], [50, np.nan, np.nan])


def live(*steps, clock=0.0):
    """A ring fed as a hub feeds it: (arrival, batch) pairs."""
    ring = Ring()
    for clock, one in steps:
        ring.add(one, clock=clock)
    return ring, clock


def test_a_fast_clock_does_not_make_everybody_else_look_dead():
    steps = [
        (t, batch(t + skew, gpu([who], power_w=[t]), topology=part, source=who))
        for t in range(1, 6)
        for who, skew, part in (("a/0", 0, TWO), ("b/0", 3600, TWO))
    ]
    ring, clock = live(*steps)
    assert ring.snapshot(clock=clock).alive.tolist() == [True, True, True]
    assert not ring.snapshot().alive[0], "without a common clock time stamps are all there is"


def test_a_source_whose_node_has_left_is_dead_at_once_and_back_with_its_next_batch():
    here = batch(1.0, gpu(["a/0", "a/1"], power_w=[5, 6]), topology=ONE, source="a")
    there = batch(1.0, gpu(["b/0"], power_w=[7]), topology=OTHER, source="b")
    ring, _ = live((1.0, here), (1.0, there))
    seq = ring.seq
    assert ring.lose("a", 2.0)
    assert ring.seq == seq + 1
    gone = ring.snapshot(clock=1.1)
    assert gone.alive.tolist() == [False, False, True]
    np.testing.assert_array_equal(gone.gpu["power_w"], [np.nan, np.nan, 7])
    assert [(e.kind, e.subject) for e in gone.events] == [("gpu_lost", "a")]
    assert not ring.lose("a", 2.1), "said once"
    assert not ring.lose("nobody", 2.1)
    ring.add(batch(3.0, gpu(["a/0", "a/1"], power_w=[8, 9]), source="a"), clock=3.0)
    assert ring.snapshot(clock=3.0).alive.all()


def test_a_source_that_falls_silent_goes_stale_by_the_common_clock():
    fast = batch(100.0, gpu(["a/0"], power_w=[5]), topology=TWO, source="fast")
    slow = batch(0.5, gpu(["b/0"], power_w=[7]), source="slow", period_s=60.0)
    ring, _ = live((1.0, fast), (1.0, slow))
    assert ring.snapshot(clock=4.0).gpu["power_w"][0] == 5
    later = ring.snapshot(clock=4.1)
    np.testing.assert_array_equal(later.gpu["power_w"], [np.nan, np.nan, 7])
    assert later.gpu_quality["power_w"][0] == Quality.STALE


def test_one_gpu_that_falls_silent_goes_stale_by_its_sources_time():
    steps = [(1.0, batch(1.0, gpu(["a/0", "a/1"], power_w=[5, 6]), topology=TWO))]
    steps += [(t, batch(t, gpu(["a/0"], power_w=[5]))) for t in range(2, 7)]
    ring, clock = live(*steps)
    assert ring.snapshot(clock=clock).alive.tolist() == [True, False, True]


def test_reports_of_one_tick_are_one_row_of_history():
    ring = ring_with(batch(0.0, topology=TWO))
    for tick in range(1, 5):
        for late, who in ((0.0, "a/0"), (0.01, "a/1"), (0.02, "b/0")):
            ring.add(batch(tick + late, gpu([who], power_w=[tick]), source=who))
    snapshot = ring.snapshot()
    np.testing.assert_allclose(snapshot.power_ts_s, [1, 2, 3, 4])
    np.testing.assert_array_equal(snapshot.power_w, [[2 * t, t] for t in range(1, 5)])


def test_a_counter_that_is_told_to_be_another_gives_no_rate():
    other = gpu(["a/0"], energy_j=[900])
    other.quality[...] |= np.uint8(Quality.RESET)
    ring = ring_with(batch(1.0, gpu(["a/0"], energy_j=[100]), topology=TWO), batch(2.0, other))
    assert np.isnan(ring.snapshot().gpu["energy_w"][0])
    ring.add(batch(3.0, gpu(["a/0"], energy_j=[950])))
    assert ring.snapshot().gpu["energy_w"][0] == 50


def test_a_flood_of_source_names_is_bounded(monkeypatch):
    monkeypatch.setattr("qcluster.telemetry.ring.MAX_SOURCES", 3)
    ring = ring_with(*[batch(1.0, source=f"s{i}") for i in range(10)])
    assert ring.snapshot().sources == ("s0", "s1", "s2")


def test_a_gpu_that_says_it_is_down_is_not_alive():
    ring = ring_with(batch(1.0, gpu(["a/0", "a/1"], up=[0, 1]), topology=TWO))
    assert ring.snapshot().alive_gpus == ("a/1", "b/0")


def test_sources_join_their_topologies_and_keep_each_others_values():
    first = Topology(nodes=(Node(id="a", gpus=1, model="H100"),))
    other = Topology(
        nodes=(Node(id="b", gpus=1), Node(id="a", gpus=4)),
        links=(Link(source="a/0", target="s", bandwidth_gb_s=450.0),),
    )
    ring = ring_with(
        batch(1.0, gpu(["a/0"], power_w=[50]), topology=first, source="one"),
        batch(1.5, gpu(["b/0"], power_w=[70]), topology=other, source="two"),
    )
    assert ring.topology.gpu_ids == ("a/0", "b/0")
    assert ring.topology.nodes[0].model == "H100"
    assert [link.id for link in ring.topology.links] == ["a/0->s"]
    np.testing.assert_array_equal(ring.snapshot().gpu["power_w"], [50, 70])


def test_sources_join_their_jobs_and_the_first_word_counts():
    def jobs(*sizes):
        return tuple(Job(id=name, gpus=gpus) for name, gpus in sizes)

    ring = ring_with(
        batch(0.0, jobs=jobs(("a", 1), ("b", 2)), source="file"),
        batch(1.0, jobs=jobs(("c", 3), ("a", 9)), source="simulate"),
    )
    assert [(job.id, job.gpus) for job in ring.snapshot().jobs] == [("a", 1), ("b", 2), ("c", 3)]
    ring.add(batch(2.0, jobs=(), source="file"))
    assert [(job.id, job.gpus) for job in ring.snapshot().jobs] == [("c", 3), ("a", 9)]


def test_power_history_survives_a_node_that_joins():
    ring = ring_with(batch(1.0, gpu(["a/0", "a/1", "b/0"], power_w=[1, 2, 4]), topology=TWO))
    wider = Topology(nodes=(*TWO.nodes, Node(id="c", gpus=1)))
    ring.add(batch(2.0, gpu(["a/0", "a/1", "b/0", "c/0"], power_w=[1, 2, 4, 8]), topology=wider))
    np.testing.assert_array_equal(ring.snapshot().power_w, [[3, 4, np.nan], [3, 4, 8]])


def test_node_power_is_measured_where_there_is_a_meter():
    block = Block.of("node", ("a",), {"node_power_w": np.array([900.0])})
    ring = ring_with(batch(1.0, block, gpu(["a/0"], power_w=[300]), topology=TWO))
    np.testing.assert_array_equal(ring.snapshot().power_w, [[900, np.nan]])


def test_memory_is_bounded():
    ring = Ring(windows=4, history=8)
    ring.add(batch(0.0, topology=TWO))
    for t in range(1, 50):
        event = Event(ts_s=t, kind="alarm", subject="a/0")
        ring.add(
            batch(t, gpu(["a/0"], power_w=[t]), expert_load=np.ones((2, 4)), events=(event,) * 5)
        )
        ring.add(batch(t, gpu([f"unknown/{t}"], power_w=[t])))
    snapshot = ring.snapshot()
    assert snapshot.expert_load.shape == (4, 2, 4)
    assert snapshot.power_w.shape == (8, 2)
    assert len(snapshot.events) == 64


def test_expert_loads_of_another_shape_begin_a_new_window():
    ring = ring_with(
        batch(1.0, expert_load=np.ones((2, 4))), batch(2.0, expert_load=np.ones((2, 8)))
    )
    assert ring.snapshot().expert_load.shape == (1, 2, 8)


def test_equal_content_has_equal_hash_and_survives_json():
    one = ring_with(batch(1.0, gpu(["a/0"], power_w=[50]), topology=TWO)).snapshot()
    other = type(one).from_dict(one.to_dict())
    assert one == other
    assert one.hash == other.hash
    moved = ring_with(batch(1.0, gpu(["a/0"], power_w=[51]), topology=TWO)).snapshot()
    assert moved.hash != one.hash


def test_an_empty_ring_has_an_empty_snapshot():
    snapshot = Ring().snapshot()
    assert snapshot.topology.gpu_ids == ()
    assert describe(snapshot)["gpus"] == 0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from(["a/0", "a/1", "b/0"]), st.integers(0, 999)),
        max_size=40,
    )
)
def test_whatever_the_order_the_newest_first_reading_wins(samples):
    ring = Ring()
    ring.add(batch(0.0, topology=TWO))
    newest: dict[str, tuple[int, int]] = {}
    for ts, who, value in samples:
        ring.add(batch(float(ts), gpu([who], power_w=[value])))
        if who not in newest or ts > newest[who][0]:
            newest[who] = (ts, value)
    table = ring._tables["gpu"].column("power_w")
    for name, (_, value) in newest.items():
        assert table[ring._tables["gpu"].index[name]] == value


def test_nodes_of_a_source_that_describes_none_are_taken_in_as_they_appear():
    ring = ring_with(batch(1.0, gpu(["a/1"], power_w=[5])), batch(2.0, gpu(["b/0"], power_w=[7])))
    snapshot = ring.snapshot()
    assert snapshot.topology.gpu_ids == ("a/0", "a/1", "b/0")
    np.testing.assert_array_equal(snapshot.gpu["power_w"], [np.nan, 5, 7])
    assert ring.unknown_rows == 0


def test_a_source_that_describes_its_cluster_is_held_to_it():
    ring = ring_with(batch(1.0, gpu(["c/0"], power_w=[5]), topology=TWO))
    assert ring.topology == TWO
    ring.add(batch(1.0, gpu(["a/7", "c/0"], power_w=[1, 2]), source="other"))
    assert ring.topology.gpu_ids == ("a/0", "a/1", "b/0", "c/0"), "c is new, a belongs to another"
    assert ring.unknown_rows == 2
    ring.add(batch(2.0, topology=Topology(), source="other"))
    assert ring.topology == TWO, "what it says itself counts from then on"


def test_taking_in_has_a_limit():
    ring = Ring()
    for i in range(5):
        ring.add(batch(1.0, gpu([f"n{i}/4094"], power_w=[5])))
    assert len(ring.topology.gpu_ids) < 16_384 < 5 * 4095
    ring.add(batch(1.0, gpu(["x/power"], power_w=[5]), source="odd"))
    assert ring.unknown_rows == 2, "one of five, and one that is no GPU"


@pytest.mark.parametrize("metric", ["node_power_w", "no_such"])
def test_a_block_refuses_metrics_of_others(metric):
    with pytest.raises(ValueError, match=metric):
        gpu(["a/0"], **{metric: [1]})
