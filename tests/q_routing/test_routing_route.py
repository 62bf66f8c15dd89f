"""The router end to end: all toggles, fallbacks with reasons, never worse than its seed."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.q_routing import RoutingConfig, RoutingPlan, route, simulator
from qcluster.q_routing import route as public_route
from qcluster.q_routing.angles import ramp, warm_start
from qcluster.q_routing.blocks import Block, quadratic_form, search
from qcluster.q_routing.classical import by_hash
from qcluster.q_routing.formats import read_model_graph
from qcluster.q_routing.quantum import block_ising, qaoa_sampler
from qcluster.q_routing.tokens import build_problem

SMALL = {"qubits": 8, "blocks": 2, "iterations": 8, "shots": 64}


def tokens(n=10, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "id": i,
            "complexity": float(rng.uniform(0.5, 2)),
            "source_gpu": f"g{rng.integers(2)}",
            "group": int(rng.integers(3)),
            "interacts": [int(rng.integers(n))],
        }
        for i in range(n)
    ]


def graph(experts=4, capacity=None):
    extra = {} if capacity is None else {"capacity": capacity}
    return {
        "nodes": [{"id": f"e{i}", "gpu": f"g{i % 2}", **extra} for i in range(experts)],
        "edges": [{"source": "e0", "target": "e1", "bandwidth_gb_s": 50}],
    }


def check(plan, rows, experts):
    assert list(plan.assignment) == [str(row["id"]) for row in rows]
    assert set(plan.assignment.values()) <= {f"e{i}" for i in range(experts)}
    assert {t: e for e, queue in plan.queues.items() for t in queue} == plan.assignment
    capacity = -(-len(rows) // experts)
    assert max(len(queue) for queue in plan.queues.values()) <= capacity
    assert plan.lower_bound <= plan.objective <= plan.baselines["hash"] + 1e-12
    assert RoutingPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize(
    ("qaoa", "hqc", "deterministic"), list(itertools.product((False, True), repeat=3))
)
def test_every_combination_of_toggles(qaoa, hqc, deterministic):
    config = RoutingConfig(qaoa=qaoa, hqc=hqc, deterministic=deterministic, **SMALL)
    rows = tokens()
    plan = route(rows, graph(), config=config, deadline_s=20.0)
    check(plan, rows, 4)
    wanted = {
        (False, False, False): "prices",
        (False, False, True): "hash",
        (False, True, False): "hqc",
        (False, True, True): "hqc",
        (True, False, False): "qaoa",
        (True, False, True): "qaoa",
        (True, True, False): "hqc+qaoa",
        (True, True, True): "hqc+qaoa",
    }[qaoa, hqc, deterministic]
    assert plan.solver.requested == wanted
    assert plan.solver.used == wanted
    assert plan.solver.fallback_reason is None
    if qaoa:
        assert {"hash", "1-opt", "annealing", "uniform", "prices"} <= set(plan.baselines)
        assert plan.quantum_gain == pytest.approx(min(plan.baselines.values()) - plan.objective)
        assert np.array(plan.params["angles"]).shape == (2, 2, 8)
    else:
        assert plan.quantum_gain is None
        assert plan.reasons["quantum_gain"]


def test_small_problems_have_their_optimum_beside_them():
    rows = tokens(4)
    config = RoutingConfig(qaoa=True, **{**SMALL, "qubits": 12})
    plan = route(rows, graph(3), config=config, deadline_s=20.0)
    assert plan.baselines["optimum"] <= plan.objective + 1e-12
    assert plan.params["blocks"] == 1
    large = route(tokens(30), graph(4), config=config, deadline_s=20.0)
    assert "optimum" not in large.baselines
    assert "too many" in large.reasons["baselines.optimum"]


@pytest.mark.parametrize("hqc", [False, True])
def test_never_worse_than_the_classical_seed(hqc):
    for seed in range(3):
        config = RoutingConfig(qaoa=True, hqc=hqc, **SMALL)
        plan = route(tokens(16, seed), graph(), config=config, deadline_s=20.0, seed=seed)
        energies = plan.params["energies"]
        assert plan.objective == pytest.approx(energies[-1])
        assert energies == sorted(energies, reverse=True)
        assert plan.objective <= plan.baselines["hash"] + 1e-12


def test_a_full_queue_falls_back_with_the_reason():
    config = RoutingConfig(qaoa=True, queue_limit=3, **SMALL)
    plan = route(tokens(), graph(), config=config, queue_length=4, deadline_s=5.0)
    assert plan.solver.used == "prices"
    assert "4 jobs wait" in plan.solver.fallback_reason
    hashed = route(
        tokens(), graph(), config=config.with_(deterministic=True), queue_length=4, deadline_s=5.0
    )
    assert hashed.solver.used == "hash"
    assert "the limit is 3" in hashed.solver.fallback_reason


def test_no_time_falls_back_to_the_hash():
    plan = route(tokens(), graph(), config=RoutingConfig(qaoa=True), deadline_s=0.0)
    assert plan.solver.used == "hash"
    assert "no time left" in plan.solver.fallback_reason


@pytest.mark.parametrize("optimizer", ["lbfgs", "gradient_descent"])
@pytest.mark.parametrize("readout", ["best", "most_likely"])
def test_optimizers_and_readouts(optimizer, readout):
    config = RoutingConfig(qaoa=True, optimizer=optimizer, readout=readout, **SMALL)
    plan = route(tokens(6), graph(), config=config, deadline_s=60.0)
    assert plan.solver.used == "qaoa"
    assert plan.params["stopped"] in ("converged", "iterations")
    expected = plan.params["expected"]
    assert expected[-1] < expected[0]


def test_the_drop_in_has_the_same_call_and_no_quantum_import():
    config = RoutingConfig(hqc=True, **SMALL)
    plan = simulator.route(tokens(), graph(), config=config, deadline_s=10.0)
    check(plan, tokens(), 4)
    assert plan.solver.used == "simulator"
    assert plan.quantum_gain is None
    code = (
        "import sys; from qcluster.q_routing import simulator;"
        f"simulator.route({tokens(6)!r}, {graph()!r}, deadline_s=10.0);"
        "bad = [m for m in sys.modules if m.startswith(('qcluster.quantum', 'pennylane', 'qiskit',"
        " 'torch', 'ray'))]; assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_quantum_libraries_the_router_still_answers(monkeypatch):
    monkeypatch.setitem(sys.modules, "pennylane", None)
    config = RoutingConfig(qaoa=True, optimizer="gradient_descent", **SMALL)
    plan = route(tokens(6), graph(), config=config, deadline_s=20.0)
    assert plan.solver.used == "prices"
    assert "pennylane is needed" in plan.solver.fallback_reason


def problem_and_block(seed=0, t=3, k=3, capacity=None):
    problem = build_problem(tokens(8, seed), read_model_graph(graph(4, capacity)), RoutingConfig())
    rng = np.random.default_rng(seed)
    choice = by_hash(problem)
    members = rng.permutation(8)[:t]
    candidates = np.array([
        [choice[i], *rng.permutation([e for e in range(4) if e != choice[i]])[: k - 1]]
        for i in members
    ])  # fmt: skip
    return problem, Block(members, candidates, choice)


@pytest.mark.parametrize("seed", range(5))
def test_block_energy_is_the_objective_of_the_whole(seed):
    problem, block = problem_and_block(seed)
    ising = block_ising(problem, block)
    linear, pairs, constant = quadratic_form(problem, block)
    within, broken = [], []
    for bits in itertools.product((False, True), repeat=9):
        x = np.array(bits)
        energy = ising.energy(np.where(x, -1, 1))
        columns, valid = block.decode(x[None])
        choice = block.choice.copy()
        choice[block.tokens] = block.candidates[np.arange(3), columns[0]]
        fits = (np.bincount(choice, minlength=4) <= problem.capacity).all()
        if valid[0] and fits:
            within.append(energy)
            assert energy == pytest.approx(problem.cost(choice))
            assert energy == pytest.approx(constant + linear @ x + x @ pairs @ x / 2)
        elif not valid[0]:
            broken.append(energy)
    assert min(broken) > min(within)


def test_warm_start_prepares_the_classical_choice():
    from qcluster.quantum import IsingProblem, QAOASimulator

    ising = IsingProblem(np.array([0.7, -0.4, 1.3]))
    bits = np.array([True, False, True])
    start = ramp(ising, 2)
    rng = np.random.default_rng(0)
    angles = warm_start(ising, bits, start, 0.0, rng)
    spins = QAOASimulator(ising).sample(angles[0], angles[1], shots=50, seed=0)
    assert ((spins < 0) == bits).all()
    assert angles.shape == start.shape == (2, 2, 3)


def test_search_takes_over_only_what_improves_and_logs_it():
    problem, _ = problem_and_block()
    config = RoutingConfig(qaoa=True, **SMALL)
    start = by_hash(problem)
    choice, log = search(
        problem, start, qaoa_sampler(config), config, deadline=Deadline.never(), seed=0
    )
    assert problem.cost(choice) <= problem.cost(start)
    assert log["blocks"] == 2
    assert len(log["energies"]) == 3
    assert log["iterations"] > 0


def test_seeds_repeat_and_input_forms_agree(tmp_path):
    import networkx as nx
    import pandas as pd

    rows, config = tokens(8), RoutingConfig(qaoa=True, **SMALL)
    first = route(rows, graph(), config=config, deadline_s=20.0, seed=3)
    again = route(rows, graph(), config=config, deadline_s=20.0, seed=3)
    assert first.assignment == again.assignment
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph()))
    net = nx.Graph()
    net.add_nodes_from((n["id"], {"gpu": n["gpu"]}) for n in graph()["nodes"])
    net.add_edge("e0", "e1", bandwidth_gb_s=50)
    frame = pd.DataFrame([{k: v for k, v in row.items() if k != "interacts"} for row in rows])
    plain = [{k: v for k, v in row.items() if k != "interacts"} for row in rows]
    plans = [route(plain, str(path)), route(frame, net), public_route(plain, graph())]
    assert plans[0].assignment == plans[1].assignment == plans[2].assignment


def test_refusals_reach_the_caller():
    with pytest.raises(InputError, match="holds no token"):
        route([], graph())
    with pytest.raises(InputError, match=r"config\.layers"):
        route(tokens(), graph(), config={"layers": 0})
    with pytest.raises(InputError, match="deadline_s"):
        route(tokens(), graph(), deadline_s=-1.0)
