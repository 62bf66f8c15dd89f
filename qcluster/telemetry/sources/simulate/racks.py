"""The clusters that the simulator knows: topology, the processor's electrical figures, the jobs.

Figures are the vendors' data sheets for bandwidth, clocks and power limits. The H100's idle power,
power awake and thermal resistance agree with recordings of a real node; the other models' are
round numbers near published ones. A rack is a description; it holds no
state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qcluster.errors import NotFound
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.topology import Link, Node, Topology

__all__ = ["RACKS", "GpuModel", "Rack", "Training", "rack"]

HOURS_4 = 4 * 3600.0


@dataclass(frozen=True)
class GpuModel:
    """Electrical and thermal figures of one GPU.

    Watts, MHz, bytes; ``idle_w`` is drawn asleep at the lowest clock, ``awake_w`` at the highest
    clock without work; ``ohm_c_per_w`` is die temperature above inlet for each watt, ``tau_s`` the
    time constant with which temperature follows power. ``host_w`` is the rest of the node.
    """

    name: str
    idle_w: float
    awake_w: float
    min_w: float
    max_w: float
    min_mhz: int
    max_mhz: int
    step_mhz: int
    memory_mhz: int
    memory_bytes: float
    inlet_c: float
    ohm_c_per_w: float
    tau_s: float = 5.0
    host_w: float = 500.0


@dataclass(frozen=True)
class Training:
    """A job that the simulator runs on ``ranks`` (positions in ``topology.gpu_ids``).

    ``activity`` is the share of peak switching activity while computing, ``compute`` the share of
    an iteration of ``iteration_s`` seconds that computes rather than waits for the network. Every
    ``checkpoint_every_s`` seconds it writes a checkpoint for ``checkpoint_s`` seconds.
    """

    job: Job
    ranks: tuple[int, ...]
    activity: float = 0.9
    compute: float = 0.8
    iteration_s: float = 2.7
    checkpoint_every_s: float = 120.0
    checkpoint_s: float = 6.0
    mixture: bool = False


@dataclass(frozen=True)
class Rack:
    """A cluster to simulate.

    ``layers`` x ``experts`` is the size of its mixture-of-experts job, ``picks_per_gpu_s`` how many
    routed picks (tokens times top-k) each of its GPUs handles a second in each layer.
    """

    name: str
    topology: Topology
    gpu: GpuModel
    jobs: tuple[Training, ...]
    layers: int
    experts: int
    picks_per_gpu_s: int


_GB200 = GpuModel(
    name="GB200",
    idle_w=185,
    awake_w=270,
    min_w=200,
    max_w=1200,
    min_mhz=345,
    max_mhz=2062,
    step_mhz=15,
    memory_mhz=3996,
    memory_bytes=186e9,
    inlet_c=30,
    ohm_c_per_w=0.028,
    host_w=620,
)
_H100 = GpuModel(
    name="H100",
    idle_w=72,
    awake_w=120,
    min_w=200,
    max_w=700,
    min_mhz=345,
    max_mhz=1980,
    step_mhz=15,
    memory_mhz=2619,
    memory_bytes=80e9,
    inlet_c=27,
    ohm_c_per_w=0.051,
    host_w=2000,
)
_V100 = GpuModel(
    name="V100",
    idle_w=43,
    awake_w=58,
    min_w=150,
    max_w=300,
    min_mhz=135,
    max_mhz=1530,
    step_mhz=15,
    memory_mhz=877,
    memory_bytes=32e9,
    inlet_c=27,
    ohm_c_per_w=0.13,
    host_w=750,
)


def _node(name: str, gpus: int, model: GpuModel, domain: str) -> Node:
    clocks = tuple(range(model.min_mhz, model.max_mhz + 1, model.step_mhz))
    return Node(
        id=name, gpus=gpus, model=model.name, min_w=model.min_w, max_w=model.max_w,
        clocks_mhz=clocks, domain=domain,
    )  # fmt: skip


def _nvl72(nodes: int) -> Rack:
    """GB200 NVL72: every GPU has 18 NVLink 5 lanes of 50 GB/s to its rack's switch plane.

    A rack holds 18 nodes of 4; more nodes make more racks, joined by 400 Gb/s rails.
    """
    hosts = tuple(_node(f"node{i:02d}", 4, _GB200, f"rack{i // 18}") for i in range(nodes))
    links = [
        Link(source=gpu, target=f"{host.domain}/nvswitch", bandwidth_gb_s=900.0, links=18)
        for host in hosts
        for gpu in host.gpu_ids
    ]
    if nodes > 18:
        links += _rails(hosts)
    topology = Topology(nodes=hosts, links=tuple(links))
    jobs = _jobs(4 * nodes, _GB200)
    return Rack("nvl72", topology, _GB200, jobs, layers=16, experts=128, picks_per_gpu_s=240_000)


def _dgx_h100(nodes: int) -> Rack:
    """DGX H100 pod: NVSwitch inside a node, one 400 Gb/s rail a GPU between nodes."""
    hosts = tuple(_node(f"dgx{i:02d}", 8, _H100, f"dgx{i:02d}") for i in range(nodes))
    links = [
        Link(source=gpu, target=f"{host.id}/nvswitch", bandwidth_gb_s=450.0, links=18)
        for host in hosts
        for gpu in host.gpu_ids
    ]
    topology = Topology(nodes=hosts, links=(*links, *_rails(hosts)))
    jobs = _jobs(8 * nodes, _H100)
    return Rack("dgx-h100", topology, _H100, jobs, layers=16, experts=64, picks_per_gpu_s=60_000)


def _rails(hosts: tuple[Node, ...]) -> list[Link]:
    """One network card of 50 GB/s a GPU; cards of one index share a leaf, leaves a spine."""
    cards = [
        Link(source=gpu, target=f"pod0/rail{rail}", bandwidth_gb_s=50.0, kind="infiniband")
        for host in hosts
        for rail, gpu in enumerate(host.gpu_ids)
    ]
    n = len(hosts)
    uplinks = [
        Link(source=f"pod0/rail{rail}", target="pod0/spine", bandwidth_gb_s=50.0 * n, links=n,
             kind="infiniband")
        for rail in range(hosts[0].gpus)
    ]  # fmt: skip
    return cards + uplinks


# NVIDIA's hybrid cube mesh: pairs of GPUs and the number of NVLink 2 lanes of 25 GB/s between them.
_CUBE_MESH = (
    (0, 1, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2), (1, 2, 2), (1, 3, 1), (1, 5, 2), (2, 3, 2),
    (2, 6, 1), (3, 7, 1), (4, 5, 1), (4, 6, 1), (4, 7, 2), (5, 6, 2), (5, 7, 1), (6, 7, 2),
)  # fmt: skip


def _dgx1_v100(nodes: int) -> Rack:
    """DGX-1V nodes: a hybrid cube mesh of 8 GPUs, one 100 Gb/s NIC for each pair of GPUs."""
    hosts = tuple(_node(f"dgx1-{i:02d}", 8, _V100, f"dgx1-{i:02d}") for i in range(nodes))
    links = [
        Link(source=f"{host.id}/{a}", target=f"{host.id}/{b}", bandwidth_gb_s=25.0 * n, links=n)
        for host in hosts
        for a, b, n in _CUBE_MESH
    ]
    if nodes > 1:
        links += [
            Link(source=gpu, target="pod0/leaf", bandwidth_gb_s=6.25, kind="infiniband")
            for host in hosts
            for gpu in host.gpu_ids
        ]
    jobs = _jobs(8 * nodes, _V100)
    topology = Topology(nodes=hosts, links=tuple(links))
    return Rack("dgx1-v100", topology, _V100, jobs, layers=4, experts=16, picks_per_gpu_s=20_000)


def _jobs(gpus: int, model: GpuModel) -> tuple[Training, ...]:
    """Half of the GPUs train a mixture of experts, a quarter data parallel, a sixth a pipeline.

    What is left stays idle, so that planners have room to move.
    """
    sizes = (max(2, gpus // 2 // 4 * 4), max(1, gpus // 4), max(1, gpus // 6))
    starts = (0, sizes[0], sizes[0] + sizes[1])
    ranks = [tuple(range(s, min(s + n, gpus))) for s, n in zip(starts, sizes, strict=True)]
    moe, ring, pipeline = (len(r) for r in ranks)
    jobs = [
        Training(
            Job(id="moe-pretrain", gpus=moe, kind="all_to_all", bytes=6e9,
                power_w=moe * 0.75 * model.max_w, duration_s=HOURS_4),
            ranks[0], activity=0.93, compute=0.74, mixture=True,
        ),
        Training(
            Job(id="dense-sft", gpus=ring, kind="ring", bytes=14e9,
                power_w=ring * 0.8 * model.max_w, duration_s=HOURS_4),
            ranks[1], activity=0.97, compute=0.86, iteration_s=1.9, checkpoint_every_s=200.0,
        ),
        Training(
            Job(id="long-context", gpus=pipeline, kind="pipeline", bytes=2e9,
                power_w=pipeline * 0.6 * model.max_w, duration_s=HOURS_4),
            ranks[2], activity=0.85, compute=0.66, iteration_s=4.3, checkpoint_every_s=310.0,
        ),
    ]  # fmt: skip
    return tuple(job for job in jobs if job.ranks)


RACKS: dict[str, tuple[Callable[[int], Rack], int]] = {
    "nvl72": (_nvl72, 18),
    "dgx-h100": (_dgx_h100, 4),
    "dgx1-v100": (_dgx1_v100, 1),
}
"""Name to what builds it from a number of nodes, and the default number."""


def rack(name: str, nodes: int | None = None) -> Rack:
    """The rack of this name, with its usual number of nodes unless told otherwise.

    Raises NotFound with the names that there are.
    """
    if name not in RACKS:
        raise NotFound(f"no rack called '{name}' to simulate; there are: {', '.join(RACKS)}")
    build, usual = RACKS[name]
    return build(usual if nodes is None else nodes)
