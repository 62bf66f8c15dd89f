from __future__ import annotations

import pytest

from actors.planners import checked_configs
from qcluster.errors import InputError


def test_the_joint_planner_knows_the_configurations_of_its_parts() -> None:
    made = checked_configs({"energy": {"budget_w": 4e4}, "joint": {"communication_share": 0.5}})
    assert made["energy"] == {"budget_w": 4e4}
    assert made["joint"] == {"energy": {"budget_w": 4e4}, "communication_share": 0.5}
    assert made["routing"] == {}


def test_nothing_given_is_the_defaults() -> None:
    assert checked_configs({}) == {"routing": {}, "energy": {}, "nvlink": {}, "joint": {}}


@pytest.mark.parametrize(
    ("configs", "field"),
    [
        ({"enrgy": {}}, "enrgy"),
        ({"energy": 5}, "energy"),
        ({"energy": {"budget_w": "much"}}, r"energy\.budget_w"),
        ({"energy": {"budget": 5}}, r"energy\.budget"),
        ({"joint": {"communication_share": 2.0}}, r"joint\.communication_share"),
        ({"routing": {"max_moved": float("nan")}}, r"routing\.max_moved"),
    ],
)
def test_what_is_wrong_names_planner_and_field(configs: object, field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}'"):
        checked_configs(configs)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["energy", "nvlink"])
def test_trained_weights_can_be_named_for_live_planners(name: str) -> None:
    made = checked_configs({name: {"weights": "trained"}})
    assert made[name] == {"weights": "trained"}
    assert made["joint"] == {name: {"weights": "trained"}}
