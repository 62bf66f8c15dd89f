"""The token router: every combination of its toggles, through the one fallback chain."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import SolverFailed
from qcluster.fallback import Candidate, CircuitBreaker, Stage, certified
from qcluster.plan import Plan
from qcluster.q_routing import classical
from qcluster.q_routing.blocks import Sampler, search, uniform_sampler
from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.formats import read_model_graph, read_tokens
from qcluster.q_routing.gibbs import sampler as drop_in
from qcluster.q_routing.quantum import qaoa_sampler
from qcluster.q_routing.tokens import RoutingProblem, build_problem

__all__ = ["RoutingPlan", "route", "warm_up"]

Ints = NDArray[np.int64]
Answer = Candidate[Ints]

_BREAKER = CircuitBreaker()


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutingPlan(Plan):
    """Which expert each token goes to.

    ``assignment`` maps token ids to expert ids, in the order of the tokens; ``queues`` maps expert
    ids to their tokens in that order, experts without tokens included. Ids are strings.
    ``params`` holds what the solver did: angles (2, layers, qubits), iterations, energies.
    """

    assignment: dict[str, str]
    queues: dict[str, list[str]]
    params: dict[str, Any] = field(default_factory=dict)


def route(
    tokens: Any,
    model_graph: Any,
    *,
    config: RoutingConfig | None = None,
    deadline_s: float = 1.0,
    seed: int = 0,
    queue_length: int = 0,
) -> RoutingPlan:
    """Route tokens to experts.

    Parameters
    ----------
    tokens: records with ``id`` and perhaps ``complexity`` (load, default 1), ``bytes`` (default
        1), ``source_gpu``, ``group``, ``interacts`` (ids): a list of mappings, a DataFrame, or a
        file (JSON list, JSON lines, CSV).
    model_graph: node-link mapping, networkx graph or JSON file. Nodes are experts (``capacity``
        in tokens, default an even share; ``gpu``) unless their ``kind`` is another; edges carry
        ``bandwidth_gb_s``.
    deadline_s: seconds for the answer; baselines run after it.
    queue_length: jobs waiting at the quantum device, held against ``config.queue_limit``.

    Raises InputError naming file, row or field; Infeasible when the capacity is too little.
    """
    config = RoutingConfig.read(config)
    graph, rows = read_model_graph(model_graph), read_tokens(tokens)
    warm_up()
    deadline = Deadline.after(deadline_s)
    problem = build_problem(rows, graph, config)
    stages = _stages(config, queue_length)
    quantum = any(stage.quantum for stage in stages)
    found = certified(
        problem,
        stages=stages,
        fallback=Stage("hash", _hash),
        baselines=_baselines(config) if config.qaoa else (),
        bound=classical.lower_bound,
        verify=classical.verify,
        deadline=deadline,
        seed=seed,
        breaker=_BREAKER,
    )
    return _plan(problem, found, config, seed, quantum)


@functools.cache
def warm_up() -> None:
    """Compile the kernels, once a process, so that the first deadline is not spent on it."""
    rows = [
        {"id": i, "source_gpu": i % 2, "group": 0, "interacts": [(i + 1) % 3]} for i in range(3)
    ]
    nodes = [{"id": i, "gpu": i, "capacity": 2} for i in range(2)]
    graph = {"directed": False, "nodes": nodes, "edges": []}
    problem = build_problem(rows, graph, RoutingConfig())
    never = Deadline.never()
    classical.annealed(problem, classical.by_prices(problem, never), never, 0, 1)
    classical.optimum(problem)
    choice = classical.by_hash(problem)
    search(problem, choice, drop_in(RoutingConfig()), RoutingConfig(), deadline=never, seed=0)


def _stages(config: RoutingConfig, queue_length: int) -> list[Stage[RoutingProblem, Ints]]:
    prices: Stage[RoutingProblem, Ints] = Stage("prices", _prices)
    local: Stage[RoutingProblem, Ints] = Stage("hqc", _hqc)
    if config.qaoa:
        name = "simulator" if config.simulator else "hqc+qaoa" if config.hqc else "qaoa"
        run = _block_search(config, drop_in if config.simulator else qaoa_sampler, queue_length)
        first: Stage[RoutingProblem, Ints] = Stage(name, run, quantum=not config.simulator)
        return [first] if config.deterministic else [first, prices]
    if config.hqc:
        return [local] if config.deterministic else [local, prices]
    return [] if config.deterministic else [prices]


def _hash(problem: RoutingProblem, **_: Any) -> Answer:
    return _answer(problem, classical.by_hash(problem))


def _prices(problem: RoutingProblem, *, deadline: Deadline, seed: int, **_: Any) -> Answer:
    return _answer(problem, classical.by_prices(problem, deadline, seed))


def _hqc(problem: RoutingProblem, *, deadline: Deadline, **_: Any) -> Answer:
    """The hash, then moves for locality and balance, a few sweeps."""
    start = classical.by_hash(problem)
    return _answer(problem, classical.descend(problem, start, deadline, sweeps=3))


def _block_search(config: RoutingConfig, make: Any, queue_length: int) -> Any:
    """A stage that samples blocks; with ``hqc`` from the classical plan, else from the hash."""
    sampler: Sampler = make(config)

    def run(problem: RoutingProblem, *, deadline: Deadline, seed: int, **_: Any) -> Answer:
        if config.queue_limit is not None and queue_length > config.queue_limit:
            raise SolverFailed(
                f"{queue_length} jobs wait at the quantum device, the limit is {config.queue_limit}"
            )
        start = classical.by_hash(problem)
        if config.hqc:
            start = classical.descend(problem, start, deadline.share(0.3), sweeps=3)
        choice, log = search(problem, start, sampler, config, deadline=deadline, seed=seed)
        seeded = "hqc" if config.hqc else "hash"
        return _answer(problem, choice, {**log, "seeded_by": seeded})

    return run


def _answer(problem: RoutingProblem, choice: Ints, notes: dict[str, Any] | None = None) -> Answer:
    return Candidate(choice, problem.cost(choice), notes=notes or {})


def _baselines(config: RoutingConfig) -> tuple[Stage[RoutingProblem, Ints], ...]:
    """What stands beside a sampled answer, each with as much time."""

    def best_of_all(problem: RoutingProblem, **_: Any) -> Answer:
        return _answer(problem, classical.optimum(problem))

    def one_opt(problem: RoutingProblem, *, deadline: Deadline, **_: Any) -> Answer:
        start = classical.by_hash(problem)
        return _answer(problem, classical.descend(problem, start, deadline))

    def annealing(problem: RoutingProblem, *, deadline: Deadline, seed: int, **_: Any) -> Answer:
        start = classical.by_hash(problem)
        return _answer(problem, classical.annealed(problem, start, deadline, seed))

    def uniform(problem: RoutingProblem, *, deadline: Deadline, seed: int, **_: Any) -> Answer:
        start, coins = classical.by_hash(problem), uniform_sampler(config)
        choice, _log = search(problem, start, coins, config, deadline=deadline, seed=seed)
        return _answer(problem, choice)

    return (
        Stage("optimum", best_of_all),
        Stage("1-opt", one_opt),
        Stage("annealing", annealing),
        Stage("uniform", uniform),
        Stage("prices", _prices),
    )


def _plan(
    problem: RoutingProblem, found: Any, config: RoutingConfig, seed: int, quantum: bool
) -> RoutingPlan:
    experts = [problem.expert_ids[e] for e in found.value]
    queues: dict[str, list[str]] = {name: [] for name in problem.expert_ids}
    for token, expert in zip(problem.token_ids, experts, strict=True):
        queues[expert].append(token)
    certificate = found.certificate
    reasons = dict(certificate.reasons)
    if quantum and "optimum" not in certificate.baselines:
        reasons["baselines.optimum"] = "too many assignments to try all"
    return RoutingPlan(
        planner="routing",
        config=config.model_dump(),
        seed=seed,
        solver=found.solver,
        objective=certificate.objective,
        lower_bound=certificate.lower_bound,
        gap=certificate.gap,
        baselines=certificate.baselines,
        quantum_gain=certificate.quantum_gain,
        reasons=reasons,
        wall_s=found.wall_s,
        warnings=[*problem.warnings, *found.warnings],
        assignment=dict(zip(problem.token_ids, experts, strict=True)),
        queues=queues,
        params=dict(found.notes),
    )
