"""What users of other tools reported, one scenario each: it must not happen here."""

from __future__ import annotations

import time

import numpy as np
import pytest
from nvlink_cases import dgx1_data

from qcluster.deadline import Deadline
from qcluster.errors import FormatError
from qcluster.q_nvlink import (
    Gang,
    NVLinkPlanner,
    cut_bandwidth,
    load_fabric,
    parse_fabric,
    parse_node_link,
    place_gangs,
    place_ranks,
    plan_fabric,
    schedule_all_to_all,
    select_gpus,
)
from qcluster.q_nvlink.directives import visible_devices
from qcluster.q_nvlink.p2p import list_lost_peers, read_p2p_bitmaps
from qcluster.telemetry import Job, Link, Node, Snapshot, Topology


def smi(data_dir, name):
    return load_fabric(data_dir / "nvlink" / "topo_smi" / f"{name}.txt")


def rack(name: str, nodes: int, gpus: int) -> dict[str, int]:
    return {f"{name}-{i}": gpus for i in range(nodes)}


# "Two GPUs 208 GB/s, a third one and it is 20": a GPU outside the bridged pair.


def test_a_pair_is_a_bridged_pair(data_dir):
    fabric = smi(data_dir, "a100_8gpu_nvlink_pairs")
    two = select_gpus(fabric, 2)
    assert two.nvlink
    for taken in range(3):
        busy = [fabric.gpus[2 * i] for i in range(taken)]  # one of a pair each
        assert select_gpus(fabric, 2, busy=busy).nvlink


def test_the_fall_beside_the_pair_is_told_before_it_happens(data_dir):
    fabric = smi(data_dir, "a100_8gpu_nvlink_pairs")
    two, three = select_gpus(fabric, 2), select_gpus(fabric, 3)
    assert not three.nvlink
    assert three.effective_gb_s < two.effective_gb_s / 3
    assert three.bandwidth_gb_s == pytest.approx(cut_bandwidth(fabric, list(three.gpus)))


def test_a_missing_bridge_is_seen(data_dir):
    fabric = smi(data_dir, "a100_4gpu_one_bridge_missing")
    best = select_gpus(fabric, 2)
    other = [gpu for gpu in fabric.gpus if gpu not in best.gpus]
    assert best.nvlink
    assert not select_gpus(fabric, 2, busy=best.gpus).nvlink
    assert cut_bandwidth(fabric, other) < best.bandwidth_gb_s


# "The same four GPUs in another order are 30 % slower", and nobody chooses the GPUs.


def test_the_order_in_which_gpus_are_listed_does_not_matter():
    rng = np.random.default_rng(0)
    data = dgx1_data()
    jobs = [{"id": "train", "gpus": 4, "traffic": {"kind": "allreduce", "bytes": 1e9}}]
    bandwidths, steps = set(), set()
    for _ in range(6):
        order = rng.permutation(8)
        fabric = parse_node_link({**data, "nodes": [data["nodes"][i] for i in order]})
        bandwidths.add(round(select_gpus(fabric, 4).bandwidth_gb_s, 6))
        steps.add(round(plan_fabric(fabric, jobs).objective, 9))
    assert len(bandwidths) == 1
    assert len(steps) == 1


def test_ranks_that_talk_sit_on_wide_links_whatever_their_order():
    fabric = parse_node_link(dgx1_data())
    width = fabric.nominal[np.ix_(fabric.gpu_index, fabric.gpu_index)]
    distance = np.where(width > 0, 100.0 / np.maximum(width, 1.0), 20.0)
    np.fill_diagonal(distance, 0.0)
    ring = np.zeros((8, 8))
    ring[np.arange(8), (np.arange(8) + 1) % 8] = 1.0
    rng = np.random.default_rng(1)
    costs = set()
    for _ in range(4):
        p = rng.permutation(8)
        costs.add(place_ranks(ring[np.ix_(p, p)], distance, deadline_s=0.3).objective)
    assert len(costs) == 1
    listed = float((ring * distance).sum())
    assert costs.pop() <= listed
    found = place_ranks(ring, distance, deadline_s=0.3)
    devices = visible_devices([fabric.gpus[g] for g in found.location])["localhost"]
    assert sorted(devices.split(",")) == [str(i) for i in range(8)]


# Pods over racks.


def test_sixteen_pods_over_two_racks_are_not_fifteen_and_one():
    racks = {"a": rack("a", 15, 4), "b": rack("b", 15, 4)}
    assert place_gangs(racks, [Gang(id="j", pods=16, gpus=4)]).racks["j"] == {"a": 8, "b": 8}


def test_one_gpu_jobs_are_not_scattered_over_thirty_three_racks():
    racks = {f"r{i:02d}": rack(f"r{i:02d}", 18, 4) for i in range(33)}
    jobs = [Gang(id=f"j{i}", pods=1) for i in range(33)]
    plan = place_gangs(racks, jobs)
    assert len(plan.whole_racks) == 32
    assert len({rack for used in plan.racks.values() for rack in used}) == 1


def test_small_jobs_fill_the_fullest_node_of_the_fullest_rack():
    racks = {"a": {"a0": 4, "a1": 4}, "b": {"b0": 1, "b1": 4}, "c": {"c0": 4, "c1": 4}}
    plan = place_gangs(racks, [Gang(id="small", pods=1)])
    assert plan.nodes["small"] == ["b0"]
    assert set(plan.whole_racks) == {"a", "c"}


def test_two_times_four_gpus_are_not_eight():
    racks = {"a": {"n0": 4, "n1": 4}}
    assert "on one node" in place_gangs(racks, [Gang(id="j", pods=1, gpus=8)]).unplaced["j"]


def test_six_and_two_free_gpus_are_not_eight():
    racks = {"a": {"n0": 6, "n1": 2}}
    assert "on one node" in place_gangs(racks, [Gang(id="j", pods=1, gpus=8)]).unplaced["j"]


def test_a_gang_pinned_to_a_clique_without_room_does_not_wait_half_started():
    racks = {"a": rack("a", 3, 4), "b": rack("b", 5, 4)}
    gang = Gang(id="gang", pods=6, gpus=4, clique=True)
    plan = place_gangs(racks, [gang])
    assert "gang" not in plan.nodes
    assert "in one rack" in plan.unplaced["gang"]
    # Nothing of it is held: the next one gets the room.
    after = place_gangs(racks, [gang, Gang(id="next", pods=5, gpus=4, clique=True)])
    assert after.racks["next"] == {"b": 5}


def test_a_follower_is_not_pinned_where_its_leader_left_no_room():
    nodes = [{"id": f"g{i}", "kind": "gpu", "host": f"h{i // 4}"} for i in range(8)]
    nodes += [{"id": f"sw{s}", "kind": "nvswitch"} for s in range(2)]
    edges = [{"source": f"g{i}", "target": f"sw{i // 4}", "bandwidth": 450.0} for i in range(8)]
    fabric = parse_node_link({"nodes": nodes, "edges": edges})
    jobs = [
        {"id": "leader", "gpus": 3, "pinned": ["g0", "g1", "g2"]},
        {"id": "follower", "gpus": 3},
        {"id": "clash", "gpus": 2, "pinned": ["g2", "g3"]},
    ]
    plan = plan_fabric(fabric, jobs, strict=False)
    assert set(plan.assignment["follower"]) <= {"g4", "g5", "g6", "g7"}
    assert "leader" in plan.assignment
    assert "g2" in plan.unplaced["clash"]


def test_three_segments_of_twelve_get_a_block_each():
    racks = {name: rack(name, 17, 8) for name in "abc"}
    plan = place_gangs(racks, [Gang(id="j", pods=36, gpus=8, segment=12)])
    assert plan.racks["j"] == {"a": 12, "b": 12, "c": 12}


# Links that are dead, counters that count nothing, a bitmap that nobody can read.


def test_dead_links_are_seen_and_planned_around(data_dir):
    path = data_dir / "nvlink" / "topo_smi" / "v100_nvlink_status_inactive_links.txt"
    fabric = load_fabric(path)
    ports = [link for link in fabric.links if link.kind == "nvlink"]
    assert any("inactive" in line for line in fabric.notes)
    sums = fabric.nominal[fabric.gpu_index].sum(axis=1)
    assert sums.min() < sums.max() or len(fabric.gpus) == 1
    assert ports
    if len(fabric.gpus) > 1:
        worst = fabric.gpus[int(np.argmin(sums))]
        assert worst not in select_gpus(fabric, min(2, len(fabric.gpus) - 1)).gpus


STAR = Topology(
    nodes=(Node(id="t0", gpus=4, domain="rack"), Node(id="t1", gpus=4, domain="rack")),
    links=tuple(
        Link(source=f"t{i // 4}/{i % 4}", target=f"sw{j}", bandwidth_gb_s=50.0)
        for i in range(8)
        for j in range(2)
    ),
)


def star_snapshot(jobs, **link) -> Snapshot:
    alive = np.ones(8, dtype=bool)
    return Snapshot(
        seq=1, ts_s=time.time(), topology=STAR, alive=alive, link=dict(link), jobs=tuple(jobs)
    )


def test_a_link_that_telemetry_sees_dead_is_avoided_at_once():
    up = np.ones(16)
    up[:2] = 0.0  # both links of the first GPU
    job = Job(id="j", gpus=7, kind="allreduce", bytes=1e9)
    plan = NVLinkPlanner({}).plan(
        star_snapshot([job], link_up=up), None, {}, deadline=Deadline.after(2.0)
    )
    assert "t0/0" not in plan.assignment["j"]
    assert any("0% of its lanes are up" in line for line in plan.warnings)


@pytest.mark.parametrize("busy", [True, False])
def test_counters_that_are_all_zero_are_no_measurement(busy):
    jobs = [Job(id="j", gpus=4 if busy else 1, kind="allreduce", bytes=1e9)]
    planner = NVLinkPlanner({})
    plan = planner.plan(
        star_snapshot(jobs, link_tx_gb_s=np.zeros(16)), None, {}, deadline=Deadline.after(2.0)
    )
    told = any("counters are 0" in line for line in plan.warnings)
    assert told == busy
    assert (plan.measured_loads == {}) == busy


def bitmap(values: dict[int, int]) -> str:
    head = "# HELP DCGM_FI_DEV_P2P_NVLINK_STATUS The NVLINK P2P status for the device\n"
    line = 'DCGM_FI_DEV_P2P_NVLINK_STATUS{{gpu="{}",UUID="x",device="nvidia{}"}} {}\n'
    return head + "".join(line.format(i, i, v) for i, v in values.items())


def test_the_bitmap_of_peers_is_read():
    peers = read_p2p_bitmaps(bitmap({i: 255 & ~(1 << i) for i in range(8)}))
    assert peers[0] == (1, 2, 3, 4, 5, 6, 7)
    assert peers[7] == (0, 1, 2, 3, 4, 5, 6)


def test_pairs_that_lost_each_other_are_named():
    fabric = parse_node_link(dgx1_data())
    width = fabric.nominal[np.ix_(fabric.gpu_index, fabric.gpu_index)] > 0
    values = {i: sum(1 << int(j) for j in np.flatnonzero(width[i])) for i in range(8)}
    assert list_lost_peers(fabric, read_p2p_bitmaps(bitmap(values))) == []
    values[0] &= ~(1 << 1)
    values[1] &= ~1
    lost = list_lost_peers(fabric, read_p2p_bitmaps(bitmap(values)))
    assert lost == ["gpu0 and gpu1: NVLink joins them, but they do not reach each other"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "holds no"),
        (bitmap({0: 3, 1: 1}), "lists itself"),
        (bitmap({0: 2, 1: 0}), "1 does not reach 0"),
        (bitmap({0: 2}) + bitmap({0: 2}), "stands twice"),
        (bitmap({0: 2}).replace(" 2\n", " -2\n"), "wants a bitmap"),
        (bitmap({0: 2}).replace(" 2\n", " 1.5\n"), "wants a bitmap"),
        (bitmap({0: 2}).replace(" 2\n", " x\n"), "wants a bitmap"),
        (bitmap({0: 2}).replace('gpu="0"', 'gpu="a"'), "label gpu"),
        (bitmap({0: 2}).replace('gpu="0",', ""), "label gpu"),
    ],
)
def test_a_damaged_bitmap_is_refused_with_its_row(text, wanted):
    with pytest.raises(FormatError, match=wanted) as caught:
        read_p2p_bitmaps(text, file="metrics.txt")
    assert "metrics.txt" in str(caught.value)


# GPUs in pairs, asked for since 2018; and what no schedule can beat.


def test_jobs_of_two_leave_pairs_to_others(data_dir):
    fabric = smi(data_dir, "a100_8gpu_nvlink_pairs")
    busy: list = []
    for _ in range(4):
        pair = select_gpus(fabric, 2, busy=busy)
        assert pair.nvlink
        busy += pair.gpus
    busy = list(select_gpus(fabric, 2).gpus)
    one = select_gpus(fabric, 1, busy=[*busy, select_gpus(fabric, 2, busy=busy).gpus[0]])
    # A single GPU takes the one whose partner is gone already.
    left = [gpu for gpu in fabric.gpus if gpu not in {*busy, *one.gpus}]
    assert (
        sum(
            select_gpus(fabric, 2, busy=[g for g in fabric.gpus if g not in p]).nvlink
            for p in [(a, b) for i, a in enumerate(left) for b in left[i + 1 :]]
        )
        >= 2
    )


def test_between_servers_an_all_to_all_runs_at_the_speed_of_the_nics(data_dir):
    fabric = load_fabric(data_dir / "nvlink" / "fabrics" / "hgx_h100_x4.json")
    traffic = np.full((32, 32), 10**7)
    schedule = schedule_all_to_all(traffic, fabric=fabric)
    beyond = 24 * 10**7 / (schedule.lower_bound_s * 1e9)
    assert 40 < beyond <= 50  # GB/s of a GPU's own NIC, 400 Gbit/s
    assert schedule.makespan_s <= 1.02 * schedule.lower_bound_s


def test_a_switched_fabric_is_a_star_and_not_a_clique(data_dir):
    text = (data_dir / "nvlink" / "topo_smi" / "gb200_tray_4gpu.txt").read_text()
    fabric = parse_fabric(text)
    out = fabric.nominal[fabric.gpu_index].sum(axis=1)
    assert (out <= 1000).all()  # 18 links of 50 GB/s, not 18 to every peer
