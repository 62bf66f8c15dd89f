"""Expert maps: what an engine would load puts every expert where the plan does."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.exports import Settings, export

Plans = dict[str, dict[str, Any]]


def document(plan: dict[str, Any], form: str, **settings: Any) -> Any:
    files = export(plan, form, Settings(**settings)).files
    assert len(files) == 1
    return json.loads(next(iter(files.values())))


def held_by_plan(plan: dict[str, Any]) -> list[dict[str, list[int]]]:
    """GPU id to the experts it holds, a layer each, read from the plan alone."""
    placement = plan["placement"]
    return [
        {
            gpu: sorted(
                e for e, g in zip(row, placement["gpu_of_slot"], strict=True) if g == i and e >= 0
            )
            for i, gpu in enumerate(plan["gpu_ids"])
        }
        for row in placement["slots"]
    ]


def test_sglang_rows_are_ranks_in_order_of_living_gpus(plans: Plans) -> None:
    plan = plans["routing"]
    rows = document(plan, "sglang")["physical_to_logical_map"]
    ranks = [gpu for gpu in plan["gpu_ids"] if gpu != "h1/1"]
    assert [len(row) for row in rows] == [21] * 3
    for row, held in zip(rows, held_by_plan(plan), strict=True):
        for rank, gpu in enumerate(ranks):
            assert sorted(row[rank * 3 : rank * 3 + 3]) == held[gpu]


def test_sglang_file_has_nothing_else_in_it(plans: Plans) -> None:
    """SGLang hands every key of the file on as an argument."""
    assert list(document(plans["routing"], "sglang")) == ["physical_to_logical_map"]


def test_dense_layers_come_first_and_are_trivial(plans: Plans) -> None:
    rows = document(plans["routing"], "sglang", dense_layers=2)["physical_to_logical_map"]
    plain = document(plans["routing"], "sglang")["physical_to_logical_map"]
    assert rows[2:] == plain
    assert rows[0] == rows[1] == [slot % 16 for slot in range(21)]


def test_vllm_maps_agree_with_each_other(plans: Plans) -> None:
    maps = document(plans["routing"], "vllm")
    physical = np.array(maps["physical_to_logical_map"])
    logical = np.array(maps["logical_to_physical_map"])
    count = np.array(maps["logical_replica_count"])
    assert physical.shape == (3, 21)
    assert maps["num_redundant_experts"] == 5
    assert (count.sum(axis=1) == 21).all()
    for layer in range(3):
        for expert in range(16):
            where = logical[layer, expert]
            assert (where[: count[layer, expert]] >= 0).all()
            assert (where[count[layer, expert] :] == -1).all()
            assert set(where[where >= 0]) == set(np.flatnonzero(physical[layer] == expert))


def test_ascend_devices_hold_what_ranks_hold(plans: Plans) -> None:
    found = document(plans["routing"], "vllm-ascend")
    rows = document(plans["routing"], "sglang")["physical_to_logical_map"]
    assert found["moe_layer_count"] == 3
    for layer, row in zip(found["layer_list"], rows, strict=True):
        devices = layer["device_list"]
        assert layer["device_count"] == len(devices) == 7
        assert [device["device_id"] for device in devices] == list(range(7))
        assert [expert for device in devices for expert in device["device_expert"]] == row


def test_notes_say_what_the_launch_must_agree_with(plans: Plans) -> None:
    notes = "\n".join(export(plans["routing"], "sglang").notes)
    assert "7 ranks of 3 slots, 5 redundant" in notes
    assert "--ep-size 7 --ep-num-redundant-experts 5" in notes
    assert "1 GPUs hold nothing and are no ranks: h1/1" in notes


def test_the_routing_part_of_a_joint_plan_is_found(plans: Plans) -> None:
    nested = {"planner": "joint", "parts": {"routing": plans["routing"]}}
    for joint in (plans["joint"], nested):
        assert document(joint, "vllm") == document(plans["routing"], "vllm")


@given(seed=st.integers(0, 10_000), gpus=st.integers(1, 6), per=st.integers(1, 4))
def test_any_even_placement_survives_the_way_there_and_back(seed: int, gpus: int, per: int) -> None:
    rng = np.random.default_rng(seed)
    slots = gpus * per
    experts = int(rng.integers(1, slots + 1))
    rows = [
        rng.permutation(np.r_[np.arange(experts), rng.integers(0, experts, slots - experts)])
        for _ in range(2)
    ]
    owner = np.repeat(np.arange(gpus), per)
    shuffle = rng.permutation(slots)
    plan = {
        "planner": "routing",
        "placement": {
            "slots": [row[shuffle].tolist() for row in rows],
            "gpu_of_slot": owner[shuffle].tolist(),
            "num_gpus": gpus,
            "num_experts": experts,
        },
        "gpu_ids": [f"n/{i}" for i in range(gpus)],
    }
    back = document(plan, "sglang")["physical_to_logical_map"]
    for row, original in zip(back, rows, strict=True):
        for rank in range(gpus):
            mine = slice(rank * per, rank * per + per)
            assert sorted(row[mine]) == sorted(original[mine].tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [[0, 1, 0, -1], [0, 1, 0, 1]]}, "slot 3 on n/1 is empty in 1 of 2 layers"),
        ({"slots": [[0, 1, 0, -1], [0, 1, 1, -1]]}, "n/1 has 1 slots, n/0 2"),
        ({"slots": [[0, 0, 0, 0], [0, 1, 0, 1]]}, "slots[0]': expert 1 is nowhere"),
        ({"slots": [[0, 1, 2, 1], [0, 1, 0, 1]]}, "slots[0]': expert 2 of 2"),
        ({"slots": [[0, 1, 0], [0, 1, 0, 1]]}, "slots[0]': wants 4 whole numbers"),
        ({"slots": [[0, 1.5, 0, 1], [0, 1, 0, 1]]}, "slots[0]': wants 4 whole numbers"),
        ({"slots": [[0, True, 0, 1], [0, 1, 0, 1]]}, "slots[0]': wants 4 whole numbers"),
        ({"slots": []}, "wants slots by layer"),
        ({"gpu_of_slot": [0, 0, 1, 9]}, "wants counts of GPUs"),
        ({"gpu_of_slot": [0, 0, 1, -1]}, "wants positions of GPUs"),
        ({"num_gpus": None}, "wants counts of GPUs"),
    ],
)
def test_what_no_engine_can_hold_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    placement = {
        "slots": [[0, 1, 0, 1], [0, 1, 0, 1]],
        "gpu_of_slot": [0, 0, 1, 1],
        "num_gpus": 2,
        "num_experts": 2,
    }
    plan = {"planner": "routing", "placement": placement | change, "gpu_ids": ["n/0", "n/1"]}
    for form in ("sglang", "vllm", "vllm-ascend"):
        with pytest.raises(InputError, match=re.escape(message)):
            export(plan, form)


def test_other_plans_and_formats_are_refused(plans: Plans) -> None:
    with pytest.raises(InputError, match="made of a plan of routing; this one is of energy"):
        export(plans["energy"], "vllm")
    with pytest.raises(InputError, match="wants one of vllm, "):
        export(plans["routing"], "trtllm")
    with pytest.raises(FormatError, match="names no planner"):
        export({"plan": 1}, "vllm")
    broken = copy.deepcopy(plans["routing"])
    broken["gpu_ids"] = broken["gpu_ids"][:-1]
    with pytest.raises(FormatError, match="wants 8 names"):
        export(broken, "sglang")
    with pytest.raises(InputError, match="dense_layers"):
        Settings(dense_layers=-1)
