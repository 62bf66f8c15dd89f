"""Rounds of transfers: complete, conflict-free, and as few as the busiest GPU needs."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_routing import place_experts
from qcluster.q_routing.schedule import _color, move_rounds


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60))
@settings(max_examples=80, deadline=None)
def test_colours_are_proper_and_as_few_as_the_largest_degree(edges):
    color = _color(edges, 7)
    for side in (0, 1):
        seen = [(edge[side], c) for edge, c in zip(edges, color, strict=True)]
        assert len(set(seen)) == len(seen)
    degrees = [np.bincount([e[side] for e in edges], minlength=7).max(initial=0) for side in (0, 1)]
    assert max(color, default=-1) + 1 <= max(degrees)


def test_rounds_of_a_replan():
    rng = np.random.default_rng(0)
    before, after = rng.multinomial(5000, rng.dirichlet(np.ones(24)), size=(2, 3))
    first = place_experts(before, num_slots=40, num_gpus=5)
    second = place_experts(after, num_slots=40, num_gpus=5, previous=first, max_moved=0.4)
    rounds = move_rounds(second)
    assert sorted(row for part in rounds for row in part) == list(range(len(second.moves)))
    owner = second.gpu_of_slot
    for part in rounds:
        moves = second.moves[part]
        sent = [(owner[m[3]], owner[m[1]]) for m in moves if owner[m[3]] != owner[m[1]]]
        assert len({a for a, _ in sent}) == len({b for _, b in sent}) == len(sent)
    assert move_rounds(first) == []
