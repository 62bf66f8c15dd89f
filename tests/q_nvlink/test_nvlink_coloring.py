"""Colouring: proper, never worse than networkx, bounds that hold, the QAOA path."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.q_nvlink import color_groups
from qcluster.q_nvlink.coloring import Coloring, ColoringProblem
from qcluster.q_nvlink.coloring.clique import large_clique
from qcluster.q_nvlink.coloring.search import verify_coloring
from qcluster.q_nvlink.coloring.tabu import peel
from qcluster.q_nvlink.quantum import core_ising

EASY = {"myciel3": 4, "queen5_5": 5, "queen7_7": 7, "mug88_1": 4, "games120": 9, "anna": 11}
EASY |= {"miles500": 20, "GEOM60": 6, "zeroin.i.2": 30, "R75_1g": 4, "r250.1": 8, "DSJR500.1": 12}


def read_dimacs(path) -> nx.Graph:
    graph = nx.Graph()
    for line in path.read_text().splitlines():
        parts = line.split()
        if parts[:1] == ["p"]:
            graph.add_nodes_from(range(1, int(parts[2]) + 1))
        elif parts[:1] == ["e"] and parts[1] != parts[2]:
            graph.add_edge(int(parts[1]), int(parts[2]))
    return graph


def check(graph: nx.Graph, result: Coloring) -> None:
    assert set(result.color) == set(graph.nodes)
    assert all(result.color[a] != result.color[b] for a, b in graph.edges)
    assert set(result.color.values()) == set(range(result.num_colors))
    assert all(graph.has_edge(a, b) for a, b in itertools.combinations(result.clique, 2))
    assert result.lower_bound <= result.num_colors
    assert result.proven == (result.lower_bound == result.num_colors)


def chromatic(graph: nx.Graph) -> int:
    nodes = list(graph.nodes)
    for k in range(1, len(nodes) + 1):
        for colors in itertools.product(range(k), repeat=len(nodes)):
            color = dict(zip(nodes, colors, strict=True))
            if all(color[a] != color[b] for a, b in graph.edges):
                return k
    return 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 6), st.floats(0, 1))
def test_small_graphs_are_coloured_optimally(seed, n, p):
    graph = nx.gnp_random_graph(n, p, seed=seed)
    result = color_groups(graph, deadline_s=0.1)
    check(graph, result)
    assert result.num_colors == chromatic(graph)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.9))
def test_never_worse_than_networkx_dsatur(seed, p):
    graph = nx.gnp_random_graph(40, p, seed=seed)
    result = color_groups(graph, deadline_s=0.1)
    check(graph, result)
    theirs = nx.greedy_color(graph, strategy="DSATUR")
    assert result.num_colors <= max(theirs.values(), default=-1) + 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_clique_is_maximum_when_time_allows(seed, p):
    graph = nx.gnp_random_graph(18, p, seed=seed)
    edges = np.array(list(graph.edges), dtype=np.int64).reshape(-1, 2)
    problem = ColoringProblem.of(18, edges, deadline=Deadline.never())
    assert len(problem.clique) == max(len(c) for c in nx.find_cliques(graph))
    found = large_clique(problem.indptr, problem.indices, deadline=Deadline.after(0.0))
    assert all(graph.has_edge(a, b) for a, b in itertools.combinations(found, 2))


def test_real_graphs_reach_their_best_known_colours(data_dir):
    for name, best in EASY.items():
        graph = read_dimacs(data_dir / "nvlink" / "colouring" / f"{name}.col")
        result = color_groups(graph, deadline_s=4.0)
        check(graph, result)
        assert result.num_colors == best, name
        if len(result.clique) == best:
            assert result.proven


@pytest.mark.parametrize("qaoa", [False, True])
def test_empty_single_and_directed_graphs(qaoa):
    assert color_groups(nx.Graph(), qaoa=qaoa).num_colors == 0
    one = nx.Graph()
    one.add_node("a")
    assert color_groups(one, qaoa=qaoa).color == {"a": 0}
    assert color_groups(nx.DiGraph([(0, 1), (1, 0)]), qaoa=qaoa).num_colors == 2
    assert color_groups(nx.MultiGraph([(0, 1), (0, 1)]), qaoa=qaoa).num_colors == 2


def test_qaoa_is_never_worse_than_its_start_and_reports_its_gain():
    graph = nx.mycielski_graph(4)  # 11 vertices, 4 colours, no triangle
    result = color_groups(graph, deadline_s=1.0, qaoa=True)
    check(graph, result)
    assert result.num_colors == 4
    assert result.solver.requested == "qaoa"
    assert set(result.baselines) >= {"dsatur", "tabu"}
    assert result.quantum_gain is None or result.quantum_gain <= 0


def test_qaoa_helps_to_recolour_a_conflict():
    graph = nx.crown_graph(5) if hasattr(nx, "crown_graph") else nx.complete_bipartite_graph(5, 5)
    result = color_groups(graph, deadline_s=1.0, qaoa=True)
    assert result.num_colors == 2


def test_core_ising_counts_conflicts():
    graph = nx.cycle_graph(7)
    edges = np.array(list(graph.edges), dtype=np.int64)
    problem = ColoringProblem.of(7, edges, deadline=Deadline.never())
    rng = np.random.default_rng(0)
    color = rng.integers(0, 3, 7)
    core = [1, 2, 5]
    ising = core_ising(problem, color, 3, core)
    assert len(ising.groups) == 3
    for choice in itertools.product(range(3), repeat=3):
        z = -np.ones((3, 3))
        z[np.arange(3), choice] = 1
        now = color.copy()
        now[core] = choice
        touching = sum(now[a] == now[b] for a, b in graph.edges if a in core or b in core)
        assert ising.energy(z.ravel()) == pytest.approx(touching)


def test_peeled_vertices_have_few_neighbours_left():
    graph = nx.gnp_random_graph(50, 0.1, seed=1)
    problem = ColoringProblem.of(50, np.array(list(graph.edges)), deadline=Deadline.never())
    kept, order = peel(problem, 4)
    assert sorted([*kept.tolist(), *order]) == list(range(50))
    assert all(d >= 4 for _, d in graph.subgraph(kept.tolist()).degree)


def test_bad_input():
    with pytest.raises(InputError, match="itself"):
        color_groups(nx.Graph([(1, 1)]))
    with pytest.raises(InputError, match="networkx"):
        color_groups([(0, 1)])
    with pytest.raises(InputError, match="deadline_s"):
        color_groups(nx.Graph(), deadline_s=-1)


def test_verifier_sees_conflicts():
    problem = ColoringProblem.of(2, np.array([[0, 1]]), deadline=Deadline.never())
    verify_coloring(problem, np.array([0, 1]))
    with pytest.raises(SolverFailed, match="share"):
        verify_coloring(problem, np.array([1, 1]))
    with pytest.raises(SolverFailed, match="no colour"):
        verify_coloring(problem, np.array([0, -1]))


def test_record_round_trip():
    result = color_groups(nx.cycle_graph(5), deadline_s=0.2)
    assert Coloring.from_dict(result.to_dict()).num_colors == result.num_colors == 3
