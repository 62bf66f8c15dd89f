"""Routing agents: paths, environment, policy, training, and plans made with them."""

from __future__ import annotations

import json
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import FormatError, Infeasible, InputError, SolverFailed
from qcluster.q_nvlink import (
    FlowEnv,
    Models,
    NVLinkPlan,
    RoutePolicy,
    fit_routes,
    load_fabric,
    parse_node_link,
    plan_fabric,
)
from qcluster.q_nvlink.problem import PlacementProblem, admit
from qcluster.q_nvlink.rl import (
    Agents,
    Paths,
    default_policy,
    find_paths,
    least_utilisation,
    random_env,
    route,
)
from qcluster.q_nvlink.rl.env import Box
from qcluster.q_nvlink.rl.policy import episode
from qcluster.q_nvlink.routes import Route, routed_loads
from qcluster.telemetry import Job

# Four nodes in a square with one diagonal: a way of one hop and two of two from 0 to 3.
SQUARE = np.array([[0, 4, 2, 1], [4, 0, 0, 4], [2, 0, 0, 2], [1, 4, 2, 0]], dtype=float)
ONE = np.zeros((4, 4))
ONE[0, 3] = 7.0


def test_paths_are_all_short_ways_widest_of_a_length_first():
    paths = find_paths(SQUARE, ONE, detour=1)
    ways = [[tuple(paths.links[e]) for e in row if e < len(paths.links)] for row in paths.steps]
    assert ways == [[(0, 3)], [(0, 1), (1, 3)], [(0, 2), (2, 3)]]
    assert paths.hops.tolist() == [1, 2, 2]
    assert paths.width.tolist() == [1, 4, 2]
    assert paths.shortest().tolist() == [1, 0, 0]


def test_nodes_that_pass_nothing_on_are_ends_alone():
    transit = np.array([True, False, True, True])
    paths = find_paths(SQUARE, ONE, transit=transit)
    assert not ((paths.links[np.minimum(paths.steps, len(paths.links) - 1)] == 1).any())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_paths_agree_with_networkx(seed):
    rng = np.random.default_rng(seed)
    cap = np.where(rng.random((6, 6)) < 0.5, 1.0, 0.0)
    np.fill_diagonal(cap, 0)
    graph = nx.from_numpy_array(cap, create_using=nx.DiGraph)
    if not nx.has_path(graph, 0, 5):
        with pytest.raises(Infeasible, match="0 and 5"):
            find_paths(cap, demand_of(6, 0, 5))
        return
    least = nx.shortest_path_length(graph, 0, 5)
    paths = find_paths(cap, demand_of(6, 0, 5), detour=2, most=1000)
    theirs = {tuple(p) for p in nx.all_simple_paths(graph, 0, 5, cutoff=least + 2)}
    mine = set()
    for row in paths.steps:
        hops = [paths.links[e].tolist() for e in row if e < len(paths.links)]
        mine.add((hops[0][0], *(v for _, v in hops)))
    assert mine == theirs


def demand_of(n, a, b, volume=1.0):
    demand = np.zeros((n, n))
    demand[a, b] = volume
    return demand


def test_the_linear_programme_is_the_max_flow_of_one_pair():
    graph = nx.from_numpy_array(SQUARE, create_using=nx.DiGraph)
    for u, v, data in graph.edges(data=True):
        data["capacity"] = SQUARE[u, v]
    flow = nx.maximum_flow_value(graph, 0, 3)
    assert least_utilisation(SQUARE, ONE) == pytest.approx(7.0 / flow)
    assert least_utilisation(SQUARE, np.zeros((4, 4))) == 0
    with pytest.raises(SolverFailed):
        least_utilisation(np.zeros((4, 4)), ONE)


def test_the_linear_programme_minds_who_passes_traffic_on():
    transit = np.array([True, False, True, True])
    assert least_utilisation(SQUARE, ONE, transit=transit) == pytest.approx(7.0 / 3.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_routes_are_between_the_optimum_and_shortest_paths(seed):
    env = random_env(np.random.default_rng(seed))
    paths = env.paths
    found = route(paths)
    assert np.allclose(np.add.reduceat(found.split, paths.first), 1.0)
    assert (found.split >= 0).all()
    use = paths.loads(found.split) / paths.capacity
    assert use.max() == pytest.approx(found.busiest)
    for other in (paths.shortest(), paths.single()):
        assert found.busiest <= (paths.loads(other) / paths.capacity).max() * (1 + 1e-9)
    n = int(paths.links.max()) + 1
    cap, demand = np.zeros((n, n)), np.zeros((n, n))
    cap[paths.links[:, 0], paths.links[:, 1]] = paths.capacity
    demand[paths.pairs[:, 0], paths.pairs[:, 1]] = paths.demand
    assert found.busiest >= least_utilisation(cap, demand) * (1 - 1e-9)


def test_agents_split_one_pair_by_what_its_ways_carry():
    found = route(find_paths(SQUARE, ONE), ticks=200)
    assert found.busiest == pytest.approx(1.0, abs=0.01)
    assert found.shortest == 7.0


def test_a_deadline_that_is_over_leaves_shortest_paths():
    paths = find_paths(SQUARE, ONE)
    found = route(paths, deadline=Deadline.after(0.0))
    assert found.busiest == found.shortest
    assert found.ticks == 0


def test_background_traffic_is_avoided():
    demand = demand_of(4, 0, 3, 3.0)
    paths = find_paths(SQUARE, demand)
    background = np.zeros(len(paths.links))
    background[[i for i, link in enumerate(paths.links.tolist()) if link == [0, 1]]] = 4.0
    found = route(paths, background=background, ticks=100)
    at = paths.links.tolist().index([0, 1])
    assert paths.loads(found.split)[at] < 0.1
    assert found.busiest == pytest.approx(1.0, abs=0.05)


class TestEnvironment:
    def test_it_has_the_shape_of_gymnasium(self):
        env = FlowEnv(find_paths(SQUARE, ONE), ticks=2)
        seen, info = env.reset(seed=1)
        assert env.observation_space.contains(seen)
        assert info["busiest"] == 1.0
        seen, reward, terminated, truncated, info = env.step(env.paths.shortest())
        assert reward == pytest.approx(1.0)
        assert (terminated, truncated) == (False, False)
        assert env.step(env.paths.shortest())[3] is True
        assert info["rewards"].shape == (1,)
        env.close()

    def test_spreading_traffic_is_rewarded(self):
        env = FlowEnv(find_paths(SQUARE, ONE))
        env.reset()
        _, reward, _, _, info = env.step(
            np.array([1.0, 4.0, 2.0] + [0.0] * 2)[: env.action_space.shape[0]]
        )
        assert reward > 2
        assert info["busiest"] == pytest.approx(1 / 7)

    def test_a_lost_link_carries_nothing_and_is_seen(self):
        paths = find_paths(SQUARE, ONE)
        direct = paths.links.tolist().index([0, 3])
        env = FlowEnv(paths, ticks=10, events={2: [direct]})
        env.reset()
        env.step(paths.shortest())
        seen, _, _, _, info = env.step(paths.shortest())
        assert seen[1, direct] == 0
        assert seen[0, direct] == 0
        assert info["split"][0] == 0
        env.reset()
        assert env.alive.all()

    def test_a_network_that_falls_apart_names_the_pair(self):
        paths = find_paths(np.array([[0.0, 1.0], [1.0, 0.0]]), demand_of(2, 0, 1))
        env = FlowEnv(paths, events={1: [0]})
        env.reset()
        with pytest.raises(Infeasible, match="0 and 1"):
            env.step(np.ones(1))

    @pytest.mark.parametrize(
        "bad", [[1.0], [-1.0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0], np.ones((2, 2))]
    )
    def test_bad_actions_are_refused(self, bad):
        env = FlowEnv(find_paths(SQUARE, ONE))
        with pytest.raises(InputError, match="action"):
            env.step(np.array(bad))

    def test_bad_arguments_are_refused(self):
        paths = find_paths(SQUARE, ONE)
        with pytest.raises(InputError, match="ticks"):
            FlowEnv(paths, ticks=0)
        with pytest.raises(InputError, match="events"):
            FlowEnv(paths, events={1: [99]})
        with pytest.raises(InputError, match="demand"):
            FlowEnv(find_paths(SQUARE, np.zeros((4, 4))))
        with pytest.raises(InputError, match="shape"):
            find_paths(SQUARE, np.zeros((3, 3)))

    def test_its_own_space_says_what_belongs_to_it(self):
        box = Box(0.0, 1.0, (2,))
        assert box.contains(np.array([0.0, 1.0]))
        for bad in ([2.0, 0.0], [0.0], [np.nan, 0.0], [-1.0, 0.0]):
            assert not box.contains(np.array(bad))


@pytest.mark.parametrize("seed", range(6))
def test_agents_recover_from_a_lost_link_within_fifty_ticks(seed):
    rng = np.random.default_rng(1000 + seed)
    while True:
        env = random_env(rng, ticks=120)
        if env.events:
            break
    paths = env.paths
    lost = next(iter(env.events.values()))[0]
    n = int(paths.links.max()) + 1
    cap, demand = np.zeros((n, n)), np.zeros((n, n))
    cap[paths.links[:, 0], paths.links[:, 1]] = paths.capacity
    demand[paths.pairs[:, 0], paths.pairs[:, 1]] = paths.demand
    cap[tuple(paths.links[lost])] = 0.0
    optimum = least_utilisation(cap, demand) / env.unit
    rows = episode(env, default_policy())
    after = [row["busiest"] for row in rows[60:110]]
    assert min(after) <= optimum * 1.1


def test_the_fabrics_of_the_field_are_within_five_percent(data_dir):
    path = data_dir / "nvlink" / "sndlib" / "abilene.json"
    data = json.loads(path.read_text())
    at = {node["id"]: i for i, node in enumerate(data["nodes"])}
    cap, demand = np.zeros((len(at), len(at))), np.zeros((len(at), len(at)))
    for link in data["links"]:
        a, b = at[link["source"]], at[link["target"]]
        cap[a, b] = cap[b, a] = (
            link["pre_installed_capacity"] or link["modules"][-1]["module_capacity"]
        )
    for row in data["demands"]:
        demand[at[row["source"]], at[row["target"]]] += row["demand_value"]
    found = route(find_paths(cap, demand))
    assert found.busiest <= 1.05 * least_utilisation(cap, demand)
    assert found.busiest < found.shortest / 2


def test_training_repeats_with_its_seed_and_goes_on_from_a_policy():
    told = []
    first = fit_routes(
        generations=2, population=4, batch=2, seed=3, report=lambda g, r: told.append(g)
    )
    again = fit_routes(generations=2, population=4, batch=2, seed=3)
    assert (first.weights == again.weights).all()
    assert first.episodes == 16
    assert told == [0, 1]
    envs = [FlowEnv(find_paths(SQUARE, ONE), ticks=8)]
    more = fit_routes(envs=envs, start=first, generations=1, population=2, batch=1)
    assert more.episodes == 18


@pytest.mark.parametrize(
    ("name", "value"), [("population", 3), ("population", 0), ("generations", 0), ("batch", 0)]
)
def test_bad_training_arguments_are_refused(name, value):
    with pytest.raises(InputError):
        fit_routes(**{name: value})


def test_a_policy_saved_and_loaded_is_the_same(tmp_path):
    path = tmp_path / "p.safetensors"
    default_policy().save(path)
    again = RoutePolicy.load(path)
    assert (again.weights == default_policy().weights).all()
    assert again.gains == default_policy().gains


@pytest.mark.parametrize("damage", ["missing", "kind", "names", "bytes", "nan"])
def test_damaged_policies_are_refused_by_name(tmp_path, damage):
    path = tmp_path / "p.safetensors"
    if damage != "missing":
        weights = default_policy().weights.copy()
        if damage == "nan":
            weights[0] = np.nan
        RoutePolicy(weights=weights).save(path)
        about = json.loads((tmp_path / "p.safetensors.json").read_text())
        if damage == "bytes":
            path.write_bytes(b"no")
        about.update({"kind": {"kind": "x"}, "names": {"names": ["x"]}}.get(damage, {}))
        (tmp_path / "p.safetensors.json").write_text(json.dumps(about))
    with pytest.raises(FormatError, match=r"p\.safetensors"):
        RoutePolicy.load(path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=6, max_size=6), st.integers(0, 1000))
def test_any_weights_make_a_split(weights, seed):
    env = random_env(np.random.default_rng(seed), ticks=6)
    for row in episode(env, RoutePolicy(weights=np.array(weights))):
        assert np.isfinite(row["reward"])
        assert row["reward"] > 0


def test_agents_stand_still_where_nothing_moves():
    paths = find_paths(SQUARE, ONE)
    agents = Agents(paths, default_policy())
    before = agents.split.copy()
    assert (
        agents.act(np.stack([np.zeros(len(paths.links)), np.ones(len(paths.links))])) == before
    ).all()


def test_joined_paths_are_their_parts():
    other = demand_of(4, 1, 2, 2.0)
    one, two = find_paths(SQUARE, ONE), find_paths(SQUARE, other)
    both = Paths.joined([one, two])
    assert len(both.owner) == len(one.owner) + len(two.owner)
    assert np.allclose(
        both.loads(both.shortest()), one.loads(one.shortest()) + two.loads(two.shortest())
    )


class TestPlans:
    JOBS = (
        {
            "id": "a",
            "gpus": 4,
            "traffic": {"kind": "all_to_all", "bytes": 1e9},
            "pinned": ["gpu0", "gpu3", "gpu5", "gpu6"],
        },
        {
            "id": "b",
            "gpus": 3,
            "traffic": {"kind": "ring", "bytes": 2e9},
            "pinned": ["gpu1", "gpu2", "gpu7"],
        },
    )

    @pytest.mark.parametrize(
        "extra",
        [
            {},
            {"qaoa": True},
            {"classifier": True},
            {"qaoa": True, "classifier": True, "quantum_kernel": True},
        ],
    )
    def test_every_combination_is_no_slower_than_shortest_paths(self, dgx1, extra):
        plan = plan_fabric(dgx1, list(self.JOBS), config={"rl": True, **extra}, deadline_s=4.0)
        assert plan.objective <= plan.baselines["shortest-paths"] * (1 + 1e-9)
        assert plan.objective <= plan.baselines["first-fit"] * (1 + 1e-9)
        assert plan.lower_bound <= plan.objective
        assert NVLinkPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
        self.check(dgx1, plan)

    def check(self, fabric, plan):
        """Loads added up again from the routes alone, by code of the test's own."""
        carried = {}
        for row in plan.routes:
            shares = row.shares
            assert sum(shares) == pytest.approx(1.0)
            for path, share in zip(row.paths, shares, strict=True):
                assert (path[0], path[-1]) == (row.source, row.target)
                for hop in pairwise(path):
                    carried[hop] = carried.get(hop, 0.0) + share * row.bytes
        graph = fabric.graph
        busiest = max(v / (graph.edges[hop]["effective_gb_s"] * 1e9) for hop, v in carried.items())
        assert busiest == pytest.approx(plan.objective)

    def test_agents_shorten_a_step_where_there_are_several_ways(self, dgx1):
        plan = plan_fabric(dgx1, list(self.JOBS), config={"rl": True}, deadline_s=4.0)
        assert plan.objective < 0.9 * plan.baselines["shortest-paths"]

    def test_routes_in_force_are_where_agents_begin(self, dgx1):
        first = plan_fabric(dgx1, list(self.JOBS), config={"rl": True}, deadline_s=4.0)
        again = plan_fabric(
            dgx1, list(self.JOBS), config={"rl": True}, deadline_s=4.0, previous=first
        )
        assert again.objective <= first.objective * 1.01

    def test_a_policy_that_fails_leaves_shortest_paths(self, dgx1):
        broken = RoutePolicy(weights=np.array([1.0]))
        plan = plan_fabric(
            dgx1, list(self.JOBS), config={"rl": True}, models=Models(routes=broken), deadline_s=4.0
        )
        assert plan.objective == pytest.approx(plan.baselines["shortest-paths"])
        assert plan.params["routes_solver"] == "shortest-paths"

    def test_gpus_of_others_relay_only_where_nothing_else_joins(self):
        line = parse_node_link({
            "nodes": [{"id": f"g{i}"} for i in range(3)],
            "edges": [
                {"source": f"g{i}", "target": f"g{i + 1}", "bandwidth": 10.0} for i in range(2)
            ],
        })  # fmt: skip
        jobs = [
            {
                "id": "a",
                "gpus": 2,
                "pinned": ["g0", "g2"],
                "traffic": {"kind": "ring", "bytes": 1e9},
            }
        ]
        plan = plan_fabric(line, jobs, config={"rl": True})
        assert all(row.paths == ((row.source, "g1", row.target),) for row in plan.routes)

    def test_more_pairs_than_agents_route_are_still_counted(self, data_dir):
        fabric = load_fabric(data_dir / "nvlink" / "fabrics" / "gb200_nvl72.json")
        job = {"id": "a", "gpus": 40, "traffic": {"kind": "all_to_all", "bytes": 1e9}}
        plan = plan_fabric(fabric, [job], config={"rl": True}, deadline_s=10.0)
        problem, placement = rebuilt(fabric, [Job.parse_all([job])[0]], plan)
        loads = routed_loads(problem, placement, plan.routes)
        assert problem.seconds(loads).max() == pytest.approx(plan.objective)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"shares": (0.5,)}, "sum to 1"),
            ({"paths": (("gpu0", "gpu7"),)}, "ends elsewhere"),
            ({"paths": (("gpu0", "gpu6", "gpu3"),)}, "needs a link"),
        ],
    )
    def test_the_verifier_refuses_routes_that_are_none(self, dgx1, change, text):
        job = Job(id="a", gpus=2, kind="ring", bytes=1e9, pinned=("gpu0", "gpu3"))
        admission = admit(dgx1, [job])
        problem = PlacementProblem(dgx1, admission.jobs, admission.home, {})
        good = {
            "job": "a",
            "source": "gpu0",
            "target": "gpu3",
            "bytes": 1e9,
            "paths": (("gpu0", "gpu3"),),
            "num_paths": 1,
            "shares": (1.0,),
        }
        routed_loads(problem, {"a": [0, 3]}, [Route(**good)])
        with pytest.raises(SolverFailed, match=text):
            routed_loads(problem, {"a": [0, 3]}, [Route(**{**good, **change})])


def rebuilt(fabric, jobs, plan):
    admission = admit(fabric, jobs)
    problem = PlacementProblem(fabric, admission.jobs, admission.home, {})
    return problem, {j: [fabric.index[g] for g in gpus] for j, gpus in plan.assignment.items()}
