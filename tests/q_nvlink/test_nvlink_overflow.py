"""Two tiers on traffic made to be hard: what goes over NICs, even shares, and the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_nvlink import parse_node_link
from qcluster.q_nvlink.alltoall.birkhoff import check_traffic
from qcluster.q_nvlink.alltoall.domains import Domains, least_seconds
from qcluster.q_nvlink.alltoall.fluid import even_shares, ramp
from qcluster.q_nvlink.alltoall.overflow import least_over_nics, split_inside
from qcluster.q_nvlink.alltoall.tiers import schedule_tiers
from qcluster.q_nvlink.alltoall.verify import verify_timed


def pod(domains: int, gpus: int, nic: float = 50.0, nvlink: float = 450.0):
    names = [(s, g) for s in range(domains) for g in range(gpus)]
    nodes = [{"id": f"h{s}g{g}", "kind": "gpu", "host": f"h{s}"} for s, g in names]
    nodes += [{"id": f"sw{s}", "kind": "nvswitch"} for s in range(domains)]
    nodes += [{"id": "spine", "kind": "ibswitch"}]
    edges = [{"source": f"h{s}g{g}", "target": f"sw{s}", "bandwidth": nvlink} for s, g in names]
    edges += [
        {"source": f"h{s}g{g}", "target": "spine", "bandwidth": nic, "type": "ib"} for s, g in names
    ]
    return parse_node_link({"nodes": nodes, "edges": edges})


def fluid_seconds(traffic: np.ndarray, domains: int, gpus: int) -> float:
    """The optimum when bytes are infinitely divisible: a multi-commodity flow by HiGHS."""
    from scipy.optimize import linprog
    from scipy.sparse import lil_matrix

    n = domains * gpus
    links = []
    for i in range(n):
        switch, spine = n + i // gpus, n + domains
        links += [(i, switch, 450.0), (switch, i, 450.0), (i, spine, 50.0), (spine, i, 50.0)]
    nodes, m = n + domains + 1, len(links)
    scale = traffic.max() / 1e3
    balance, wanted = lil_matrix((nodes * n, m * n + 1)), np.zeros(nodes * n)
    room = lil_matrix((m, m * n + 1))
    for d in range(n):
        for k, (u, v, rate) in enumerate(links):
            balance[d * nodes + u, d * m + k] += 1
            balance[d * nodes + v, d * m + k] -= 1
            room[k, d * m + k], room[k, -1] = 1, -rate
        wanted[d * nodes : d * nodes + n] = traffic[:, d] / scale
        wanted[d * nodes + d] = -traffic[:, d].sum() / scale
    cost = np.zeros(m * n + 1)
    cost[-1] = 1
    found = linprog(
        cost, A_ub=room.tocsr(), b_ub=np.zeros(m), A_eq=balance.tocsr(), b_eq=wanted, method="highs"
    )
    assert found.status == 0
    return float(found.x[-1]) * scale / 1e9


def hard(kind: int, domains: int, gpus: int, rng: np.random.Generator) -> np.ndarray:
    """Traffic that a search for bad cases found to be bad."""
    n = domains * gpus
    of = np.arange(n) // gpus
    flat = rng.integers(1, 10**8, (n, n)).astype(float)
    if kind == 0:
        flat *= rng.random((n, n)) < 2.0 / n
    elif kind == 1:
        near = np.where(of[:, None] == of[None, :], rng.uniform(1, 40), 1.0)
        flat = 1e6 * rng.pareto(1.05, (n, n)) * near
    elif kind == 2:
        flat *= rng.uniform(0, 1, (n, 1)) ** 4 * rng.uniform(0, 1, (1, n)) ** 4
    elif kind == 3:
        flat = np.zeros((n, n))
        flat[rng.integers(n, size=4), rng.integers(n, size=4)] = rng.integers(10**7, 10**9, 4)
    else:
        flat = 1e6 * np.outer(rng.pareto(1.0, n), rng.pareto(1.0, n))
    flat = np.minimum(flat, 1e12)
    # Whole bytes: pieces of fewer would be rounding, not a schedule.
    return check_traffic(np.floor(flat)) * 100


@pytest.mark.parametrize(("domains", "gpus"), [(2, 8), (3, 4), (2, 2), (4, 3)])
@pytest.mark.parametrize("kind", range(5))
def test_hard_traffic_stays_within_two_percent(domains, gpus, kind):
    rng = np.random.default_rng([domains, gpus, kind])
    fabric = pod(domains, gpus)
    for _ in range(12):
        traffic = hard(kind, domains, gpus, rng)
        timed = schedule_tiers(traffic, fabric)
        verify_timed(traffic, fabric, timed)
        assert timed.makespan_s <= 1.02 * timed.lower_bound_s


@pytest.mark.parametrize("kind", range(5))
def test_the_bound_is_one(kind):
    rng = np.random.default_rng(kind)
    for domains, gpus in ((2, 3), (3, 2), (2, 4)):
        traffic = hard(kind, domains, gpus, rng)
        bound = least_seconds(traffic, Domains.of_fabric(pod(domains, gpus)))
        if bound:
            assert bound <= fluid_seconds(traffic, domains, gpus) * (1 + 1e-6)


def test_one_pair_that_nvlink_cannot_carry_takes_its_nics():
    fabric = pod(2, 4)
    traffic = np.zeros((8, 8), dtype=np.int64)
    traffic[0, 1] = 500 * 10**6
    domains = Domains.of_fabric(fabric)
    limit = least_seconds(traffic, domains)
    assert limit == pytest.approx(1e-3)
    over_link, over_nics = split_inside(traffic, domains, limit)
    assert over_nics[0, 1] == pytest.approx(50e6, abs=2)
    assert (over_link + over_nics == traffic).all()
    assert schedule_tiers(traffic, fabric).makespan_s == pytest.approx(limit, rel=1e-6)


def test_traffic_that_nvlink_can_carry_stays_there():
    traffic = check_traffic(np.random.default_rng(0).integers(0, 10**6, (8, 8)))
    domains = Domains.of_fabric(pod(2, 4))
    assert not split_inside(traffic, domains, least_seconds(traffic, domains))[1].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(0.2, 1.2))
def test_what_is_taken_off_nvlink_is_there_and_fits_its_nics(gpus, seed, share):
    rng = np.random.default_rng(seed)
    inside = rng.integers(0, 1000, (gpus, gpus))
    np.fill_diagonal(inside, 0)
    most = np.full(gpus, share * max(1, inside.sum(axis=1).max()))
    out, into = rng.uniform(0, 500, gpus), rng.uniform(0, 500, gpus)
    moved = least_over_nics(inside, most, out.copy(), into.copy())
    assert (moved >= 0).all()
    assert (moved <= inside).all()
    # Rounding up costs each of the others' shares less than a byte.
    assert (moved.sum(axis=1) <= out + gpus).all()
    assert (moved.sum(axis=0) <= into + gpus).all()
    if (inside.sum(axis=1) <= most).all() and (inside.sum(axis=0) <= most).all():
        assert not moved.any()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_even_shares_give_every_byte_a_nic_of_its_domain(domains, gpus, seed):
    rng = np.random.default_rng(seed)
    traffic = hard(int(rng.integers(5)), domains, gpus, rng)
    found = Domains.of_fabric(pod(domains, gpus))
    over_nics = split_inside(traffic, found, least_seconds(traffic, found))[1]
    shares = even_shares(traffic, over_nics, found, max(least_seconds(traffic, found), 1e-9))
    assert (shares >= 0).all()
    assert np.allclose(shares.sum(axis=2), 1.0)
    other = found.of[:, None] != found.of[None, :]
    assert not shares[:, other].any()


@pytest.mark.parametrize("fine", [True, False])
def test_pieces_begin_and_end_small(fine):
    sizes = ramp(fine=fine)
    assert sizes.sum() == pytest.approx(1.0)
    assert np.allclose(sizes, sizes[::-1])
    assert sizes[0] < 0.002
    assert sizes.max() < (0.011 if fine else 0.027)
