"""Edge colouring: proper, and as few colours as König and Vizing promise."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_nvlink import color_edges
from qcluster.q_nvlink.coloring import EdgeColoring


def check(graph, found: EdgeColoring) -> None:
    assert sorted(map(str, found.color)) == sorted(map(str, graph.edges))
    for edges in found.rounds:
        if graph.is_directed():
            assert len({a for a, _ in edges}) == len(edges) == len({b for _, b in edges})
        else:
            ends = [v for edge in edges for v in edge]
            assert len(set(ends)) == len(ends)
    assert found.lower_bound <= found.num_colors <= found.lower_bound + (not found.bipartite)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 12), st.floats(0, 1), st.integers(0, 10**6), st.booleans())
def test_any_graph(n, p, seed, directed):
    graph = nx.gnp_random_graph(n, p, seed=seed, directed=directed)
    check(graph, color_edges(graph))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.integers(0, 10**6),
)
def test_bipartite_graphs_need_their_degree(a, b, p, seed):
    graph = nx.bipartite.random_graph(a, b, p, seed=seed)
    found = color_edges(graph)
    check(graph, found)
    assert found.num_colors == max((d for _, d in graph.degree), default=0)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 15])
def test_all_to_all_takes_n_minus_one_rounds(n):
    graph = nx.complete_graph(n, create_using=nx.DiGraph)
    found = color_edges(graph)
    check(graph, found)
    assert found.num_colors == n - 1
    assert found.proven


def test_petersen_is_of_class_two():
    found = color_edges(nx.petersen_graph())
    check(nx.petersen_graph(), found)
    assert (found.num_colors, found.lower_bound, found.proven) == (4, 3, False)


def test_round_trip_and_bad_input():
    found = color_edges(nx.path_graph(4))
    assert EdgeColoring.from_dict(found.to_dict()).num_colors == 2
    with pytest.raises(InputError, match="itself"):
        color_edges(nx.Graph([(1, 1)]))
    with pytest.raises(InputError, match="parallel"):
        color_edges(nx.MultiGraph([(0, 1), (0, 1)]))
    with pytest.raises(InputError, match="networkx"):
        color_edges([(0, 1)])
