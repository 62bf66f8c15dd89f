"""The routing problem: the objective by hand, gains of moves, what is refused."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.q_routing import _route_kernels as kernels
from qcluster.q_routing import classical
from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.formats import read_model_graph
from qcluster.q_routing.tokens import build_problem

NEVER = Deadline.never()


def make(tokens=12, experts=4, seed=0, **changes):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "id": f"t{i}",
            "complexity": float(rng.uniform(0.5, 2)),
            "source_gpu": f"g{rng.integers(2)}",
            "group": int(rng.integers(3)),
            "interacts": [f"t{rng.integers(tokens)}"],
        }
        for i in range(tokens)
    ]
    nodes = [{"id": f"e{i}", "gpu": f"g{i % 2}"} for i in range(experts)]
    edges = [{"source": "e0", "target": "e1", "bandwidth_gb_s": 50}]
    graph = read_model_graph({"nodes": nodes, "edges": edges})
    return build_problem(rows, graph, RoutingConfig(**changes))


def by_hand(problem, choice):
    """The objective written out with Python loops."""
    tokens, experts = problem.shape
    share = problem.capacity / problem.capacity.sum()
    load = [sum(problem.complexity[choice == e]) for e in range(experts)]
    mass = problem.complexity.sum()
    total = problem.balance * (sum(v * v / s for v, s in zip(load, share, strict=True)) - mass**2)
    total += sum(problem.linear[i, choice[i]] for i in range(tokens))
    apart = 0.0
    for i, j in itertools.combinations(range(tokens), 2):
        d = problem.near[choice[i], choice[j]]
        if problem.group[i] == problem.group[j] >= 0:
            apart += 2 * d / problem.group_size[problem.group[i]]
        partners = problem.other[problem.start[i] : problem.start[i + 1]]
        apart += d * (partners == j).sum()
    return total + problem.together * apart


@pytest.mark.parametrize("seed", range(4))
def test_objective_equals_the_formula(seed):
    problem = make(seed=seed)
    for trial in range(5):
        choice = np.random.default_rng(trial).integers(4, size=12)
        assert problem.cost(choice) == pytest.approx(by_hand(problem, choice))


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_move_costs_equal_differences_of_the_objective(seed):
    problem = make(10, 4, seed)
    rng = np.random.default_rng(seed)
    choice = rng.integers(4, size=10)
    load, used = np.empty(4), np.empty(4, np.int64)
    pull = np.empty((len(problem.group_size), 4))
    kernels.state(choice, problem.complexity, problem.near, problem.group, load, used, pull)
    i, out = int(rng.integers(10)), np.empty(4)
    kernels.move_costs(i, choice, load, pull, out, *problem.arrays)
    for e in range(4):
        other = choice.copy()
        other[i] = e
        assert out[e] == pytest.approx(problem.cost(other) - problem.cost(choice), abs=1e-12)


def test_optimum_is_the_best_of_all():
    problem = make(6, 3)
    best = min(
        problem.cost(np.array(c))
        for c in itertools.product(range(3), repeat=6)
        if (np.bincount(c, minlength=3) <= problem.capacity).all()
    )
    assert problem.cost(classical.optimum(problem)) == pytest.approx(best)
    assert classical.lower_bound(problem) <= best + 1e-12
    with pytest.raises(InputError, match="too many"):
        classical.optimum(make(20, 4))


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_below_and_prices_are_near_the_optimum(seed):
    problem = make(8, 3, seed)
    best = problem.cost(classical.optimum(problem))
    found = classical.by_prices(problem, NEVER)
    classical.verify(problem, found)
    assert classical.lower_bound(problem) <= best + 1e-12 <= problem.cost(found) + 1e-12
    assert problem.cost(found) <= best * 1.05 + 1e-9


def test_every_method_keeps_the_capacities_and_descends():
    problem = make(60, 5)
    start = classical.by_hash(problem)
    classical.verify(problem, start)
    for found in (
        classical.descend(problem, start, NEVER),
        classical.annealed(problem, start, NEVER, 0, 4000),
        classical.by_prices(problem, NEVER),
    ):
        classical.verify(problem, found)
        assert problem.cost(found) <= problem.cost(start) + 1e-12


def test_an_expired_deadline_returns_the_start():
    problem = make(60, 5)
    start = classical.by_hash(problem)
    late = Deadline.after(0.0)
    assert np.array_equal(classical.descend(problem, start, late), start)
    assert np.array_equal(classical.annealed(problem, start, late, 0), start)


def test_terms_of_the_objective_do_what_they_say():
    def best(**weights):
        problem = make(9, 3, 1, **weights)
        return problem, classical.optimum(problem)

    problem, choice = best(bytes_weight=0.0, together_weight=0.0)
    load = np.bincount(choice, problem.complexity, minlength=3)
    assert np.ptp(load) < 0.25 * load.mean()
    problem, choice = best(balance_weight=0.0, together_weight=0.0)
    assert problem.linear[np.arange(9), choice].sum() <= problem.linear.mean(axis=1).sum()
    far, choice_far = best(balance_weight=0.0, bytes_weight=0.0)
    assert far.cost(choice_far) <= far.cost(classical.by_hash(far))


def test_distances_follow_the_widest_roads():
    graph = {
        "nodes": [{"id": n, "gpu": n} for n in "abc"],
        "edges": [
            {"source": "a", "target": "b", "bandwidth_gb_s": 100},
            {"source": "b", "target": "c", "bandwidth_gb_s": 100},
            {"source": "a", "target": "c", "bandwidth": 10},
        ],
    }
    problem = build_problem([{"id": 1}], read_model_graph(graph), RoutingConfig())
    # a to c: two roads of 1/100 are shorter than one of 1/10.
    assert problem.near[0, 1] == pytest.approx(0.5)
    assert problem.near[0, 2] == pytest.approx(1.0)


def test_a_disconnected_graph_warns_and_counts_as_farthest():
    graph = {
        "nodes": [{"id": n} for n in "abc"],
        "edges": [{"source": "a", "target": "b"}],
    }
    problem = build_problem([{"id": 1}], read_model_graph(graph), RoutingConfig())
    assert problem.near[0, 2] == 1.0 > problem.near[0, 1] > 0
    assert any("disconnected" in w for w in problem.warnings)


def test_switches_and_other_kinds_are_roads_not_experts():
    graph = {
        "nodes": [{"id": "e0"}, {"id": "e1"}, {"id": "sw", "kind": "switch"}],
        "links": [
            {"source": "e0", "target": "sw", "bandwidth_gb_s": 450},
            {"source": "e1", "target": "sw", "bandwidth_gb_s": 450},
        ],
    }
    problem = build_problem([{"id": 1}], read_model_graph(graph), RoutingConfig())
    assert problem.expert_ids == ("e0", "e1")
    assert problem.near[0, 1] == 1.0


def test_overflow_raises_or_spills():
    graph = {"nodes": [{"id": "a", "capacity": 1}, {"id": "b", "capacity": 2}], "edges": []}
    rows = [{"id": i} for i in range(7)]
    with pytest.raises(Infeasible, match="4 more tokens"):
        build_problem(rows, read_model_graph(graph), RoutingConfig())
    problem = build_problem(rows, read_model_graph(graph), RoutingConfig(overflow="spill"))
    assert problem.capacity.tolist() == [3, 5]
    assert "raised" in problem.warnings[0]


def test_verify_finds_overfull_and_missing():
    problem = make(8, 4)
    with pytest.raises(SolverFailed, match="more than it can take"):
        classical.verify(problem, np.zeros(8, dtype=int))
    with pytest.raises(SolverFailed, match="not every token"):
        classical.verify(problem, np.full(8, -1))


GRAPH = {"nodes": [{"id": "a", "gpu": "g"}, {"id": "b"}], "edges": []}


@pytest.mark.parametrize(
    ("rows", "graph", "message"),
    [
        ([], GRAPH, "'tokens': holds no token"),
        ([{}], GRAPH, "row 1, field 'id'"),
        ([{"id": True}], GRAPH, "wants a name"),
        ([{"id": 1}, {"id": "1"}], GRAPH, "row 2, field 'id': '1' stands twice"),
        ([{"id": 1, "complexity": -1}], GRAPH, "'complexity'"),
        ([{"id": 1, "complexity": math.nan}], GRAPH, "'complexity'"),
        ([{"id": 1, "complexity": True}], GRAPH, "'complexity'"),
        ([{"id": 1, "bytes": "many"}], GRAPH, "'bytes'"),
        ([{"id": 1, "source_gpu": "x"}], GRAPH, "no expert stands on GPU 'x'"),
        ([{"id": 1, "interacts": [9]}], GRAPH, "no token '9'"),
        ([{"id": 1, "group": [1]}], GRAPH, "'group'"),
        ([{"id": 1}], {"nodes": []}, "has no expert"),
        ([{"id": 1}], {"nodes": [{"id": "a"}, {"id": "a"}]}, "stands twice"),
        ([{"id": 1}], {"nodes": [{"id": "a", "capacity": -1}]}, r"expert 'a'.capacity"),
        ([{"id": 1}], {"nodes": [{"id": "a", "capacity": 1.5}]}, "whole number"),
        ([{"id": 1}], {"nodes": [{"id": "a", "capacity": True}]}, "whole number"),
        (
            [{"id": 1}],
            {**GRAPH, "edges": [{"source": "a", "target": "z"}]},
            r"edges\[0\].target': 'z' is no node",
        ),
        (
            [{"id": 1}],
            {**GRAPH, "edges": [{"source": "a", "target": "b", "bandwidth": 0}]},
            "above 0",
        ),
    ],
)
def test_bad_input_is_named(rows, graph, message):
    with pytest.raises(InputError, match=message):
        build_problem(rows, read_model_graph(graph), RoutingConfig())


def test_zero_complexity_is_no_division():
    rows = [{"id": i, "complexity": 0} for i in range(6)]
    problem = build_problem(rows, read_model_graph(GRAPH), RoutingConfig())
    assert problem.cost(classical.by_prices(problem, NEVER)) == 0.0
