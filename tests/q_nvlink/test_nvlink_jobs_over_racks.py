"""Plans start from jobs packed over racks as gangs: each in one rack where that can be had."""

from __future__ import annotations

from nvlink_cases import star_data

from qcluster.deadline import Deadline
from qcluster.q_nvlink import Fabric, parse_node_link, plan_fabric
from qcluster.q_nvlink.placement import verify_placement
from qcluster.q_nvlink.problem import PlacementProblem, admit
from qcluster.q_nvlink.racks import pack_jobs
from qcluster.telemetry import Job


def racks(count: int = 3, gpus: int = 8) -> Fabric:
    """Stars of GPUs, one host each, joined by one slow switch."""
    nodes: list = [{"id": "spine", "kind": "ibswitch"}]
    edges: list = []
    for r in range(count):
        nodes.append({"id": f"s{r}", "kind": "nvswitch"})
        for i in range(gpus):
            gpu = f"h{r}/{i}"
            nodes.append({"id": gpu, "kind": "gpu", "host": f"h{r}"})
            edges.append({"source": gpu, "target": f"s{r}", "bandwidth": 450.0})
            edges.append({"source": gpu, "target": "spine", "bandwidth": 50.0, "kind": "ib"})
    return parse_node_link({"nodes": nodes, "edges": edges})


def asked(fabric, jobs, reference=None) -> PlacementProblem:
    admission = admit(fabric, jobs)
    return PlacementProblem(fabric, admission.jobs, admission.home, reference or {})


def hosts(fabric: Fabric, gpus: list[int]) -> set[str]:
    return {fabric.nodes[u].host for u in gpus}


def all_to_all(name: str, gpus: int, **more) -> Job:
    return Job(id=name, gpus=gpus, kind="all_to_all", bytes=1e8, **more)


def test_jobs_that_fit_a_rack_only_in_one_way_each_get_one():
    fabric = racks()
    jobs = [all_to_all(f"j{i}", k) for i, k in enumerate((5, 5, 5, 3, 3, 3))]
    problem = asked(fabric, jobs)
    found = pack_jobs(problem, Deadline.after(1.0))
    assert found is not None
    verify_placement(problem, found)
    assert all(len(hosts(fabric, gpus)) == 1 for gpus in found.values())
    plan = plan_fabric(fabric, jobs, deadline_s=10.0)
    assert plan.objective <= problem.cost(found) * (1 + 1e-9)


def test_wide_jobs_take_ranks_host_by_host():
    fabric = racks()
    found = pack_jobs(asked(fabric, [all_to_all("w", 16)]), Deadline.after(1.0))
    assert found is not None
    order = [fabric.nodes[u].host for u in found["w"]]
    assert order == sorted(order)
    assert len(set(order)) == 2


def test_those_that_run_and_those_that_are_pinned_stay():
    fabric = racks()
    jobs = [all_to_all("runs", 2), all_to_all("pinned", 1, pinned=("h1/0",)), all_to_all("new", 6)]
    there = (fabric.index["h0/3"], fabric.index["h0/5"])
    problem = asked(fabric, jobs, {"runs": there})
    found = pack_jobs(problem, Deadline.after(1.0), keep=True)
    assert found is not None
    verify_placement(problem, found)
    assert tuple(found["runs"]) == there
    assert found["pinned"] == [fabric.index["h1/0"]]
    assert len(hosts(fabric, found["new"])) == 1


def test_nothing_where_there_is_one_rack_or_half_a_pin():
    one = parse_node_link(star_data(8))
    assert pack_jobs(asked(racks(1), [all_to_all("a", 4)]), Deadline.after(1.0)) is None
    half = all_to_all("a", 4, pinned=("g0",))
    assert pack_jobs(asked(one, [half]), Deadline.after(1.0)) is None
