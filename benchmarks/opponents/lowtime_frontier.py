"""lowtime (Perseus' solver) on a pipeline: one JSON problem on stdin, its frontier on stdout.

Runs in the opponents' environment and imports nothing of qcluster. Costs are a exp(b t) + c of the
quantised time t, the same closed form that the other side's curves are sampled from.
"""

import json
import math
import sys
import time

import networkx as nx
from lowtime.cost_model import CostModel
from lowtime.operation import (
    CandidateExecutionOptions,
    DummyOperation,
    ExecutionOption,
    Operation,
    OperationSpec,
)
from lowtime.solver import PhillipsDessouky


class Closed(CostModel):
    """cost = a exp(b t) + c with given coefficients."""

    def __init__(self, a: float, b: float, c: float) -> None:
        self.a, self.b, self.c = a, b, c

    def __call__(self, quant_time: int) -> float:
        return self.a * math.exp(self.b * quant_time) + self.c


def solve(problem: dict) -> dict:
    """All (time, cost) points and the seconds they took."""
    specs = []
    for kind in problem["kinds"]:
        cost = Closed(*kind["cost"])
        options = CandidateExecutionOptions(
            [
                ExecutionOption(real_time=t + 0.5, unit_time=1.0, cost=cost(t), knob=t)
                for t in range(kind["low"], kind["high"] + 1)
            ]
        )
        specs.append(OperationSpec(options, cost))
    dag = nx.DiGraph()
    n = len(problem["ops"])
    for i, op in enumerate(problem["ops"]):
        dag.add_node(i, op=Operation(specs[op["kind"]]))
    dag.add_node(n, op=DummyOperation())
    dag.add_node(n + 1, op=DummyOperation())
    for i, op in enumerate(problem["ops"]):
        for other in op["after"]:
            dag.add_edge(other, i)
    for i in range(n):
        if dag.in_degree(i) == 0:
            dag.add_edge(n, i)
        if dag.out_degree(i) == 0:
            dag.add_edge(i, n + 1)
    dag.graph["source_node"], dag.graph["sink_node"] = n, n + 1
    began = time.process_time()
    points = [(r.quant_time, r.cost) for r in PhillipsDessouky(dag).run()]
    return {"points": points, "cpu_s": time.process_time() - began}


if __name__ == "__main__":
    json.dump(solve(json.load(sys.stdin)), sys.stdout)
