"""The call that serving engines make: tensors, known answer, refusals."""

import json

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_routing import place_experts, rebalance_experts
from qcluster.q_routing.eplb import expert_location, expert_maps
from qcluster.q_routing.problem import balancedness, gpu_loads


def check(phy2log, log2phy, logcnt, experts):
    layers = len(phy2log)
    assert logcnt.shape == (layers, experts)
    assert log2phy.shape == (layers, experts, logcnt.max())
    for layer in range(layers):
        assert np.bincount(phy2log[layer], minlength=experts).tolist() == logcnt[layer].tolist()
        for expert in range(experts):
            places = log2phy[layer, expert]
            assert (places[logcnt[layer, expert] :] == -1).all()
            used = places[: logcnt[layer, expert]]
            assert (phy2log[layer, used] == expert).all()
            assert len(set(used.tolist())) == len(used)


def test_known_answer_of_the_original(data_dir):
    case = json.loads((data_dir / "routing" / "eplb_readme_case.json").read_text())
    weight = np.array(case["weight"])
    sizes = [case[k] for k in ("num_replicas", "num_groups", "num_nodes", "num_gpus")]
    maps = rebalance_experts(weight, *sizes)
    check(*maps, experts=12)
    owner = np.repeat(np.arange(8), 2)

    def score(slots):
        return balancedness(gpu_loads(np.array(slots), owner, weight.astype(float), 8), np.ones(8))

    assert score(maps[0]) >= score(case["published_phy2log"]) - 1e-12


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    weight = torch.randint(1, 100, (3, 16), generator=torch.Generator().manual_seed(0))
    maps = rebalance_experts(weight, 24, 4, 2, 8)
    assert all(m.dtype == torch.int64 and m.device.type == "cpu" for m in maps)
    check(*(m.numpy() for m in maps), experts=16)


def test_groups_that_do_not_divide_go_global():
    weight = np.random.default_rng(0).integers(1, 90, (2, 12))
    check(*rebalance_experts(weight, 16, 3, 2, 8), experts=12)


def test_refusals():
    weight = np.ones((1, 4), dtype=int)
    with pytest.raises(InputError, match="multiple of 3"):
        rebalance_experts(weight, 8, 1, 1, 3)
    with pytest.raises(InputError, match="two copies"):
        rebalance_experts(weight, 16, 1, 1, 2)


def test_unused_slots_appear_in_no_map():
    placement = place_experts([[5, 3, 2]], num_slots=6, num_gpus=3, alive=[True, True, False])
    phy2log, log2phy, logcnt = expert_maps(placement)
    assert logcnt.sum() == 4
    assert set(log2phy[log2phy >= 0].tolist()) == {0, 1, 2, 3}
    assert (phy2log[0, 4:] == -1).all()


def test_engine_form():
    placement = place_experts([[5, 3, 2], [1, 1, 9]], num_slots=4, num_gpus=2)
    found = json.loads(json.dumps(expert_location(placement)))
    assert found["physical_to_logical_map"] == placement.slots.tolist()
    assert np.array(found["logical_replica_count"]).sum() == 8
    assert np.array(found["logical_to_physical_map"]).shape[:2] == (2, 3)
    dead = place_experts([[5, 3, 2]], num_slots=6, num_gpus=3, alive=[True, True, False])
    with pytest.raises(InputError, match="unused slots"):
        expert_location(dead)
    uneven = place_experts([[5, 3, 2]], num_slots=5, num_gpus=2)
    with pytest.raises(InputError, match="differ"):
        expert_location(uneven)
