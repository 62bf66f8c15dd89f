"""The simulator: plausible physics, faults, determinism, the grammar of its spec."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pandas as pd
import pytest

from qcluster.errors import InputError, NotFound
from qcluster.telemetry import Ring, open_source
from qcluster.telemetry.sources.simulate import Fault, Scenario, Simulate, Simulator, parse
from qcluster.telemetry.sources.simulate.experts import ExpertTraffic
from qcluster.telemetry.sources.simulate.racks import RACKS, rack

ALL = sorted(RACKS)


def run(steps, **scenario):
    simulator = Simulator(Scenario(**scenario))
    return simulator, [simulator.step() for _ in range(steps)]


def column(batch, metric):
    block = next(b for b in batch.blocks if metric in b.metrics)
    return block.values[:, block.metrics.index(metric)]


def series(batches, metric):
    return np.array([column(batch, metric) for batch in batches])


@pytest.mark.parametrize(
    ("name", "gpus", "out_gb_s"), [("nvl72", 72, 900), ("dgx-h100", 32, 450), ("dgx1-v100", 8, 150)]
)
def test_racks_have_the_bandwidth_of_their_data_sheets(name, gpus, out_gb_s):
    topology = rack(name).topology
    assert len(topology.gpu_ids) == gpus
    bandwidth = dict.fromkeys(topology.gpu_ids, 0.0)
    for link in topology.links:
        for end in (link.source, link.target):
            if end in bandwidth and link.kind == "nvlink":
                bandwidth[end] += link.bandwidth_gb_s
    assert set(bandwidth.values()) == {out_gb_s}


@pytest.mark.parametrize("name", ALL)
def test_the_first_batch_describes_the_cluster_and_all_are_marked_simulated(name):
    _, batches = run(3, rack=name)
    assert batches[0].topology == rack(name).topology
    assert len(batches[0].jobs) >= 3
    assert {job.kind for job in batches[0].jobs} >= {"all_to_all", "ring", "pipeline"}
    assert all(batch.simulated for batch in batches)
    assert all(batch.topology is None and batch.jobs is None for batch in batches[1:])


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_history_other_seed_another(name):
    _, first = run(8, rack=name, seed=5)
    _, again = run(8, rack=name, seed=5)
    _, other = run(8, rack=name, seed=6)
    assert all(a == b for a, b in zip(first, again, strict=True))
    assert first[-1] != other[-1]


@pytest.mark.parametrize("name", ALL)
def test_power_stays_between_idle_and_limit_and_clocks_on_the_grid(name):
    simulator, batches = run(60, rack=name)
    model = simulator.rack.gpu
    power, clock = series(batches, "power_w"), series(batches, "sm_clock_mhz")
    assert np.nanmin(power) > 0.9 * model.idle_w
    assert np.nanmax(power) < 1.05 * model.max_w
    assert set(np.unique(clock)) <= set(simulator.chips.grid)
    assert power.max(axis=0)[-1] < 1.2 * model.idle_w, "the last GPUs are spare"


def test_a_lower_limit_gives_lower_clocks_and_power():
    simulator = Simulator(Scenario())
    before = [simulator.step() for _ in range(20)][-1]
    simulator.set_power_limit(simulator.gpu_ids, 600.0)
    after = [simulator.step() for _ in range(20)]
    assert np.max(column(after[-1], "power_w")) < 630
    assert np.median(column(after[-1], "sm_clock_mhz")[:32]) < np.median(
        column(before, "sm_clock_mhz")[:32]
    )
    with pytest.raises(InputError, match="limit_w"):
        simulator.set_power_limit(("node00/0",), 5000.0)
    with pytest.raises(InputError, match="nowhere"):
        simulator.set_power_limit(("nowhere/0",), 600.0)


def test_temperature_lags_power_and_the_energy_counter_integrates_it():
    _, batches = run(90, faults=(Fault("power_step", 30, 60, "node17", 1.0),))
    power, heat = series(batches, "power_w")[:, -1], series(batches, "temperature_c")[:, -1]
    assert power[30] > 5 * power[28], "power steps at once"
    assert heat[30] < heat[88] - 15, "temperature follows later"
    energy = series(batches, "energy_j")[:, -1]
    assert energy[-1] - energy[0] == pytest.approx(power[1:].sum(), rel=0.01)


def test_the_h100_is_like_a_recorded_one(data_dir):
    model = rack("dgx-h100").gpu
    loaded, busy = (
        pd.read_csv(data_dir / "energy" / "h100_counters" / f"{name}.csv.gz")
        for name in ("b1", "t3")
    )
    steady = loaded[loaded.phase == "steady"].power_w
    assert model.awake_w == pytest.approx(steady.mean(), rel=0.1), "a model loaded, no work"
    assert model.idle_w == pytest.approx(busy.power_w.min(), rel=0.1)
    slope, offset = np.polyfit(busy.power_w, busy.temp_c, 1)
    assert model.ohm_c_per_w == pytest.approx(slope, rel=0.2)
    assert model.inlet_c == pytest.approx(offset, abs=6)


def test_a_gpu_that_waits_for_its_job_stays_awake_and_a_spare_one_sleeps():
    simulator, batches = run(30, rack="dgx-h100", faults=(Fault("gpu_lost", 5, 99, "dgx00/0"),))
    power, model = column(batches[-1], "power_w"), simulator.rack.gpu
    assert power[1] == pytest.approx(model.awake_w, rel=0.05)
    assert power[-1] == pytest.approx(model.idle_w, rel=0.05)
    clock = column(batches[-1], "sm_clock_mhz")
    assert (clock[1], clock[-1]) == (model.max_mhz, model.min_mhz)


def test_checkpoints_show_as_dips_of_power():
    _, batches = run(130)
    power = series(batches, "power_w")[:, 0]
    assert power[122:125].mean() < 0.5 * power[100:118].mean()


@pytest.mark.parametrize("name", ALL)
def test_counters_never_fall_and_no_link_exceeds_its_bandwidth(name):
    simulator, batches = run(40, rack=name)
    for metric in ("nvlink_tx_bytes", "nvlink_rx_bytes", "energy_j", "link_tx_bytes"):
        assert (np.diff(series(batches, metric), axis=0) >= 0).all()
    sent = np.diff(series(batches, "link_tx_bytes"), axis=0)
    limit = np.array([link.bandwidth_gb_s * 1e9 for link in simulator.topology.links])
    assert (sent <= limit * 1.0001).all()
    assert sent.sum() > 0


def test_received_bytes_follow_the_load_of_the_experts_at_home_there():
    simulator, batches = run(100, layers=4, experts=32)
    ranks = len(simulator.rack.jobs[0].ranks)
    load = sum(b.expert_load for b in batches[1:] if b.expert_load is not None)
    home = np.bincount(np.arange(32) * ranks // 32, weights=load.sum(axis=0), minlength=ranks)
    received = (column(batches[-1], "nvlink_rx_bytes") - column(batches[0], "nvlink_rx_bytes"))[
        :ranks
    ]
    assert np.corrcoef(home, received)[0, 1] > 0.99


def test_expert_load_is_skewed_like_measured_routers_and_switches_domain():
    traffic = ExpertTraffic(12, 64, np.random.default_rng(0))
    shares, domains = [], []
    for _ in range(1500):
        traffic.step(1.0)
        shares.append(traffic.share())
        domains.append(traffic.domain)
    busiest = np.array(shares).max(axis=2).ravel() * 64
    assert np.percentile(busiest, 5) > 1.8
    assert np.percentile(busiest, 95) < 12
    np.testing.assert_allclose(np.sum(shares, axis=2), 1)
    assert len(set(domains)) > 1
    switch = next(i for i, d in enumerate(domains) if d != domains[0])
    before, after = shares[switch - 1].ravel(), shares[min(switch + 40, 1499)].ravel()
    assert np.corrcoef(before, after)[0, 1] < 0.5


def test_no_expert_gets_a_token_twice():
    traffic = ExpertTraffic(3, 64, np.random.default_rng(1))
    boost = np.ones((3, 64))
    boost[0, :2], boost[1, :20] = 1e6, 1e9
    share = traffic.share(boost)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert share.max() <= 1 / 8 + 1e-9
    np.testing.assert_allclose(share[0, :2], 1 / 8)


def test_every_layer_routes_the_same_number_of_picks():
    _, batches = run(5)
    totals = batches[-1].expert_load.sum(axis=1)
    assert (totals == totals[0]).all()
    assert totals[0] > 0


def test_a_lost_gpu_stops_its_job_reports_nothing_and_comes_back():
    _, batches = run(60, faults=(Fault("gpu_lost", 10, 20, "node00/1"),))
    lost = batches[20]
    assert column(lost, "up")[1] == 0
    assert np.isnan(column(lost, "power_w")[1])
    assert lost.expert_load is None, "a synchronous job stands still"
    assert column(lost, "power_w")[0] < 0.45 * column(batches[5], "power_w")[0]
    assert column(batches[59], "up")[1] == 1
    assert batches[59].expert_load is not None
    kinds = [(e.kind, e.subject) for b in batches for e in b.events]
    assert kinds == [("gpu_lost", "node00/1"), ("gpu_back", "node00/1")]
    ring = Ring()
    for batch in batches[:21]:
        ring.add(batch)
    assert not ring.snapshot().alive[1]


def test_a_link_that_loses_lanes_reports_it_and_slows_its_job():
    _, batches = run(40, faults=(Fault("link_down", 10, 20, "node02/3", 9),))
    up = series(batches, "link_up")[:, 11]
    assert (up[:9] == 1).all()
    assert (up[9:29] == 0.5).all()
    assert (up[30:] == 1).all()
    assert column(batches[25], "link_errors")[11] > 0
    sent = np.diff(series(batches, "nvlink_tx_bytes")[:, 0])
    assert sent[20] < 0.9 * sent[5]


def test_a_job_whose_links_are_down_spins_and_sends_nothing():
    _, batches = run(20, faults=(Fault("link_down", 10, 5, "node00/0"),))
    sent = np.diff(series(batches, "nvlink_tx_bytes")[:, 1])
    assert (sent[9:13] == 0).all()
    assert batches[12].expert_load is None
    waiting, working = column(batches[12], "power_w")[1], column(batches[5], "power_w")[1]
    assert 185 < 1.2 * 185 < waiting < 0.8 * working


def test_more_nodes_than_a_rack_holds_make_more_racks():
    simulator, batches = run(3, nodes=20)
    topology = simulator.topology
    assert {node.domain for node in topology.nodes} == {"rack0", "rack1"}
    by_switch = [link.target for link in topology.links if "nvswitch" in link.target]
    assert (by_switch.count("rack0/nvswitch"), by_switch.count("rack1/nvswitch")) == (72, 8)
    assert {link.kind for link in topology.links} == {"nvlink", "infiniband"}
    assert np.isfinite(column(batches[-1], "power_w")).all()


def test_a_mixture_across_nodes_is_held_back_by_its_network_cards():
    _, inside = run(8, rack="dgx-h100", seed=1)
    hot = tuple(Fault("hot_expert", 0, 99, f"*/{expert}", 40) for expert in range(4))
    _, outside = run(8, rack="dgx-h100", seed=1, faults=hot)
    assert outside[-1].expert_load.sum() < 0.6 * inside[-1].expert_load.sum()


def test_a_hot_expert_draws_its_factor():
    _, batches = run(40, faults=(Fault("hot_expert", 20, subject="*/3", value=10),))
    before = batches[15].expert_load[:, 3] / batches[15].expert_load.sum(axis=1)
    after = batches[30].expert_load[:, 3] / batches[30].expert_load.sum(axis=1)
    assert (after / before > 4).mean() > 0.9


def test_faults_can_be_injected_while_it_runs():
    simulator, _ = run(5)
    simulator.inject(Fault("gpu_lost", 6))
    assert column(simulator.step(), "up")[0] == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault("gpu_lost", 1, subject="nowhere/0"),
        Fault("link_down", 1, subject="nowhere"),
        Fault("hot_expert", 1, subject="99/0"),
        Fault("hot_expert", 1, subject="0/x"),
        Fault("power_step", 1, subject="nowhere"),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_fault_of_nobody_is_refused(fault):
    with pytest.raises(InputError, match="fault"):
        Simulator(Scenario(faults=(fault,)))


def test_the_grammar_of_the_spec():
    scenario, speed = parse(
        "dgx-h100,seed=3,period=0.5,speed=10,nodes=2,layers=4,experts=16,"
        "fault=link_down@30+60:dgx01/2:9,fault=gpu_lost@5"
    )
    assert speed == 10
    assert dataclasses.replace(scenario, faults=()) == Scenario(
        rack="dgx-h100", seed=3, period_s=0.5, nodes=2, layers=4, experts=16
    )
    assert scenario.faults == (
        Fault("link_down", 30, 60, "dgx01/2", 9.0),
        Fault("gpu_lost", 5),
    )


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("nvl72,period=0", "period"),
        ("nvl72,period=nan", "period"),
        ("seed=-1", "seed"),
        ("nodes=0", "nodes"),
        ("experts=1e9", "experts"),
        ("color=red", "color"),
        ("fault=flood@3", "flood"),
        ("fault=gpu_lost", "fault"),
        ("fault=gpu_lost@-3", "fault start"),
        ("fault=gpu_lost@3+0", "duration"),
        ("fault=power_step@3:*:2", "power_step"),
        ("fault=gpu_lost@3:moon", "moon"),
    ],
)
def test_a_bad_spec_names_what_is_wrong(argument, named):
    with pytest.raises(InputError, match=named):
        Simulate(argument)


def test_an_unknown_rack_lists_those_there_are():
    with pytest.raises(NotFound, match="nvl72"):
        open_source("simulate:cray-1")


def test_the_source_stamps_the_time_of_day_and_does_not_sleep_at_full_speed():
    async def first(n):
        out = []
        async for batch in open_source("simulate:dgx1-v100,speed=max").batches():
            out.append(batch)
            if len(out) == n:
                return out
        return out

    batches = asyncio.run(first(50))
    assert batches[0].source == "simulate:dgx1-v100,speed=max"
    assert np.diff([b.ts_s for b in batches]) == pytest.approx(1.0)


def test_a_gpu_under_a_low_limit_counts_the_time_it_is_held():
    simulator = Simulator(Scenario())
    gpus = simulator.topology.gpu_ids
    simulator.set_power_limit(gpus[:1], simulator.rack.gpu.min_w)
    batches = [simulator.step() for _ in range(20)]
    held = series(batches, "power_held_s")
    assert held[-1, 0] > held[0, 0]
    assert (np.diff(held, axis=0) >= 0).all()
