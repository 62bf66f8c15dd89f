"""What Ray would be told of a plan: the calls themselves, on a stand-in that notes them."""

from __future__ import annotations

from typing import Any

import pytest

from actors.hand_over import Replicas, hand_over
from qcluster.errors import InputError, NotReady, Refused


class Noted:
    """Six nodes of four GPUs in three domains; the first is the head."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.there: list[str] = []
        self.refuses: set[str] = set()
        self.rows = [
            {
                "NodeID": f"id{i}",
                "Alive": True,
                "NodeManagerHostname": "one-host",
                "NodeManagerAddress": f"10.0.0.{i}",
                "Labels": {"qcluster.io/node": f"n{i}", "ray.io/gpu-domain": f"d{i // 2}"},
                "Resources": {"GPU": 4.0} | ({"node:__internal_head__": 1.0} if i == 0 else {}),
            }
            for i in range(6)
        ]

    def nodes(self) -> list[dict[str, Any]]:
        return self.rows

    def groups(self) -> list[str]:
        return self.there

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> None:
            if name in self.refuses:
                raise Refused("not now")
            self.calls.append((name, arguments))

        return call


def fabric(jobs: dict[str, list[str]], *, simulated: bool = False) -> dict[str, Any]:
    return {
        "planner": "nvlink",
        "plan_id": "p1",
        "assignment": jobs,
        "telemetry": {"simulated": simulated},
    }


def energy(idle: list[str], **active: int) -> dict[str, Any]:
    nodes = [{"id": f"n{i}", "active": f"n{i}" not in idle} for i in range(6)]
    return {"planner": "energy", "plan_id": "p2", "nodes": nodes, "active_accelerators": active}


def gpus(*nodes: int) -> list[str]:
    return [f"n{node}/{i}" for node in nodes for i in range(4)]


def test_nothing_is_called_without_apply() -> None:
    ray = Noted()
    actions = hand_over(fabric({"a": gpus(2, 3)}), cluster=ray)
    assert ray.calls == []
    assert [action.kind for action in actions] == ["placement_group", "request_resources"]
    assert not any(action.done for action in actions)
    assert actions[1].says == "request_resources(bundles=[{'GPU': 4}, {'GPU': 4}])"


def test_a_job_in_one_domain_is_kept_there_on_its_nodes() -> None:
    ray = Noted()
    first, _ = hand_over(fabric({"a": gpus(2, 3)}), apply=True, cluster=ray)
    assert first.done
    name, arguments = ray.calls[0]
    assert name == "placement_group"
    assert arguments == {
        "name": "qcluster-a-p1",
        "bundles": [{"GPU": 4}, {"GPU": 4}],
        "lifetime": "detached",
        "bundle_label_selector": [{"ray.io/node-id": "id2"}, {"ray.io/node-id": "id3"}],
        "topology_strategy": {"ray.io/node-id": "PACK", "ray.io/gpu-domain": "STRICT_PACK"},
    }


def test_a_job_over_domains_has_no_domain_to_keep() -> None:
    actions = hand_over(fabric({"a": gpus(1, 2)}), cluster=Noted())
    assert "topology_strategy" not in actions[0].arguments


def test_unpinned_groups_leave_the_nodes_to_ray() -> None:
    actions = hand_over(fabric({"a": gpus(2, 3)}), pin=False, cluster=Noted())
    assert "bundle_label_selector" not in actions[0].arguments
    assert actions[0].arguments["topology_strategy"]["ray.io/gpu-domain"] == "STRICT_PACK"


def test_bundles_follow_the_order_of_ranks() -> None:
    order = ["n2/0", "n3/0", "n3/1", "n2/1"]
    bundles = hand_over(fabric({"a": order}), cluster=Noted())[0].arguments["bundles"]
    assert bundles == [{"GPU": 1}, {"GPU": 2}, {"GPU": 1}]


def test_what_runs_is_left_alone() -> None:
    ray = Noted()
    ray.there = ["qcluster-a-p1", "qcluster-b-p0"]
    actions = hand_over(fabric({"a": gpus(2), "b": gpus(3)}), apply=True, cluster=ray)
    assert actions[0].error == "is there"
    assert actions[1].error == "runs in qcluster-b-p0: remove that to move it"
    assert [name for name, _ in ray.calls] == ["request_resources"]


def test_nodes_are_found_by_label_then_host_then_address_if_only_one_has_it() -> None:
    ray = Noted()
    del ray.rows[2]["Labels"]["qcluster.io/node"]
    ray.rows[2]["NodeManagerHostname"] = "worker"
    for name, error in (("worker", None), ("10.0.0.2", None), ("one-host", "no node 'one-host'")):
        action = hand_over(fabric({"a": [f"{name}/0"]}), cluster=ray)[0]
        assert error in action.error if error else action.error is None


def test_a_node_that_died_is_named_and_the_rest_goes_on() -> None:
    ray = Noted()
    ray.rows[2]["Alive"] = False
    actions = hand_over(fabric({"a": gpus(2), "b": gpus(4)}), apply=True, cluster=ray)
    assert actions[0].error == "Ray has no node 'n2'"
    assert actions[1].done


def test_idle_nodes_are_drained_but_never_the_head_a_job_or_an_expert() -> None:
    routing = {
        "planner": "routing",
        "gpu_ids": gpus(3),
        "placement": {"slots": [[0, 1, -1, -1]], "gpu_of_slot": [0, 1, 2, 3]},
    }
    joint = {
        "planner": "joint",
        "nvlink": fabric({"a": gpus(2)}),
        "energy": energy(["n0", "n2", "n3", "n4", "n9"]),
        "routing": routing,
    }
    joint["energy"]["nodes"].append({"id": "n9", "active": False})
    ray = Noted()
    actions = hand_over(joint, apply=True, cluster=ray)
    drains = {action.subject: action for action in actions if action.kind == "drain_node"}
    assert set(drains) == {"n0", "n4", "n9"}
    assert drains["n0"].error == "Ray's head runs there"
    assert drains["n9"].error == "Ray has no node 'n9'"
    assert drains["n4"].done
    called = [arguments for name, arguments in ray.calls if name == "drain_node"]
    assert [arguments["node_id"] for arguments in called] == ["id4"]


@pytest.mark.parametrize(
    ("active", "want", "number"),
    [
        (32, Replicas(app="s", deployment="m", per_replica=8), 4),
        (31, Replicas(app="s", deployment="m", per_replica=8), 3),
        (0, Replicas(app="s", deployment="m"), 1),
        (32, Replicas(app="s", deployment="m", most=5), 5),
        (3, Replicas(app="s", deployment="m", per_replica=4, least=2), 2),
    ],
)
def test_replicas_follow_active_accelerators(active: int, want: Replicas, number: int) -> None:
    (action,) = hand_over(energy([], gpu=active), replicas=[want], cluster=Noted())
    assert action.arguments == {"app": "s", "deployment": "m", "num_replicas": number}


def test_a_kind_that_the_plan_does_not_count_is_not_scaled() -> None:
    ray, want = Noted(), Replicas(app="s", deployment="m", kind="quantum")
    (action,) = hand_over(energy([], gpu=4), replicas=[want], apply=True, cluster=ray)
    assert action.error == "the plan counts no 'quantum'"
    assert ray.calls == []


def test_a_refusal_of_rays_is_an_error_of_that_action_alone() -> None:
    ray = Noted()
    ray.refuses = {"placement_group"}
    actions = hand_over(fabric({"a": gpus(2)}), apply=True, cluster=ray)
    assert [(action.done, action.error) for action in actions] == [(False, "not now"), (True, None)]


def test_simulated_plans_are_never_applied() -> None:
    plan = fabric({"a": gpus(2)}, simulated=True)
    assert hand_over(plan, cluster=Noted())
    with pytest.raises(Refused, match="simulated"):
        hand_over(plan, apply=True, cluster=Noted())
    with pytest.raises(Refused, match="simulated"):
        hand_over({"planner": "joint", "nvlink": plan}, apply=True, cluster=Noted())


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="this one has neither"):
        hand_over({"planner": "routing"}, cluster=Noted())
    with pytest.raises(InputError, match="per_replica"):
        Replicas(app="s", deployment="m", per_replica=0)
    with pytest.raises(InputError, match="below 'least'"):
        Replicas(app="s", deployment="m", least=3, most=2)
    with pytest.raises(NotReady, match="not connected to Ray"):
        hand_over(fabric({}))
