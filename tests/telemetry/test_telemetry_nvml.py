"""NVML: units, topology, lost GPUs, boards that cannot, machines without a driver."""

from __future__ import annotations

import asyncio
import sys
import threading

import numpy as np
import pytest

from qcluster.errors import InputError, NotReady
from qcluster.telemetry import Ring, open_source
from qcluster.telemetry.sources.nvml import Nvml, NvmlNode, driver_state
from qcluster.testing.nvml import (
    FakeGpu,
    FakeNvml,
    NVMLError,
    NVMLError_DriverNotLoaded,
    NVMLError_GpuIsLost,
    NVMLError_LibraryNotFound,
    NVMLError_NoPermission,
)


def values(batch):
    return {
        metric: block.values[:, i]
        for block in batch.blocks
        for i, metric in enumerate(block.metrics)
    }


def test_values_come_in_our_units():
    with NvmlNode(FakeNvml(2), "a") as node:
        found = values(node.read(5.0))
    assert {name: column[0] for name, column in found.items() if len(column) == 2} == {
        "power_w": 350,
        "power_limit_w": 700,
        "power_held_s": 0,
        "energy_j": 10_000,
        "sm_clock_mhz": 1980,
        "mem_clock_mhz": 2619,
        "temperature_c": 45,
        "utilization": 0.9,
        "memory_used_bytes": 40 << 30,
        "nvlink_tx_bytes": 1_024_000,
        "nvlink_rx_bytes": 2_048_000,
        "up": 1,
        "xid_error": 0,
        "link_up": 1,
    }
    assert 0 <= found["node_cpu"][0] <= 1
    assert found["node_memory_bytes"][0] > 1e6


def test_the_topology_of_a_machine_with_a_switch():
    with NvmlNode(FakeNvml(8), "a") as node:
        topology = node.topology()
    (host,) = topology.nodes
    assert (host.id, host.gpus, host.min_w, host.max_w) == ("a", 8, 200, 700)
    assert host.model == "NVIDIA H100 80GB HBM3"
    assert (min(host.clocks_mhz), max(host.clocks_mhz)) == (345, 1980)
    assert [(x.source, x.target, x.links, x.bandwidth_gb_s) for x in topology.links] == [
        (f"a/{i}", "a/nvswitch", 18, 450.0) for i in range(8)
    ]


def test_a_rack_is_one_domain_by_its_cluster_id():
    gpu = FakeGpu(cluster=bytes(range(16)), clique=7, nvlink_version=5)
    with NvmlNode(FakeNvml([gpu]), "a") as node:
        topology = node.topology()
    assert topology.nodes[0].domain == "nvl-00010203-7"
    assert topology.links[0].target == "nvl-00010203-7/nvswitch"
    assert topology.links[0].bandwidth_gb_s == 900


def test_direct_links_are_counted_once_a_pair():
    gpus = [FakeGpu(peers=p, nvlink_version=2) for p in ([1, 1, 2], [0, 0], [0, None])]
    with NvmlNode(FakeNvml(gpus), "a") as node:
        topology = node.topology()
    assert [(x.id, x.links, x.bandwidth_gb_s) for x in topology.links] == [
        ("a/0->a/1", 2, 50.0),
        ("a/0->a/2", 1, 25.0),
    ]


def test_a_lane_that_goes_down_shows_in_link_up():
    fake = FakeNvml(1)
    with NvmlNode(fake, "a") as node:
        node.read(1.0)
        fake.gpus[0].peers[:9] = [None] * 9
        assert values(node.read(2.0))["link_up"].tolist() == [0.5]
        fake.gpus[0].peers[:] = [None] * 18
        assert values(node.read(3.0))["link_up"].tolist() == [0]


def test_a_lost_gpu_is_reported_once_and_comes_back():
    fake, ring = FakeNvml(2), Ring()
    with NvmlNode(fake, "a") as node:
        ring.add(node.read(1.0))
        fake.gpus[1].lost = True
        for ts in (2.0, 3.0):
            ring.add(node.read(ts))
        snapshot = ring.snapshot()
        assert snapshot.alive.tolist() == [True, False]
        assert np.isnan(snapshot.gpu["power_w"][1])
        fake.gpus[1].lost = False
        ring.add(node.read(4.0))
    snapshot = ring.snapshot()
    assert snapshot.alive.all()
    assert [(e.kind, e.subject) for e in snapshot.events] == [
        ("gpu_lost", "a/1"),
        ("gpu_back", "a/1"),
    ]


def test_what_a_board_does_not_support_is_left_out():
    gpu = FakeGpu(unsupported={"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetNvLinkState",
                               "nvmlDeviceGetPowerManagementLimitConstraints",
                               "nvmlDeviceGetSupportedGraphicsClocks", "nvmlDeviceGetPciInfo",
                               "nvmlDeviceGetGpuFabricInfo",
                               "nvmlDeviceGetNvLinkVersion"})  # fmt: skip
    with NvmlNode(FakeNvml([gpu]), "a") as node:
        batch = node.read(1.0)
    assert "energy_j" not in values(batch)
    assert batch.topology.links == ()
    assert batch.topology.nodes[0].max_w == 0, "unknown"


def test_the_topology_is_sent_once():
    with NvmlNode(FakeNvml(1), "a") as node:
        assert node.read(1.0).topology is not None
        assert node.read(2.0).topology is None


@pytest.mark.parametrize(
    ("fake", "state"),
    [
        (FakeNvml(4), "ready"),
        (FakeNvml(0), "no GPU"),
        (FakeNvml(init_error=NVMLError_LibraryNotFound()), "no driver"),
        (FakeNvml(init_error=NVMLError_DriverNotLoaded()), "driver not loaded"),
        (FakeNvml(init_error=NVMLError_NoPermission()), "no permission"),
        (FakeNvml(init_error=OSError("bad ELF header")), "broken"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_state_of_a_driver_has_a_name(fake, state):
    found = driver_state(fake)
    assert found.state == state
    assert found.detail
    assert fake.sessions == 0
    if state != "ready":
        with pytest.raises(NotReady, match="NVML"), NvmlNode(fake, "a"):
            pass
        assert fake.sessions == 0


def test_without_a_driver_the_source_says_so_when_it_is_read(monkeypatch):
    broken = FakeNvml(init_error=NVMLError_LibraryNotFound())
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    source = open_source("nvml")

    async def first():
        return await anext(source.batches())

    with pytest.raises(NotReady, match="no driver"):
        asyncio.run(first())


def test_the_source_reads_every_period_and_closes_the_driver(monkeypatch):
    fake = FakeNvml(2)
    monkeypatch.setitem(sys.modules, "pynvml", fake)

    async def three():
        batches = open_source("nvml:node=x,period=0.01").batches()
        out = [await anext(batches) for _ in range(3)]
        await batches.aclose()
        return out

    out = asyncio.run(three())
    assert out[0].topology.gpu_ids == ("x/0", "x/1")
    assert out[0].ts_s < out[1].ts_s < out[2].ts_s
    assert fake.sessions == 0


def test_a_driver_that_blocks_does_not_hold_up_the_loop():
    fake, release = FakeNvml(1), threading.Event()
    slow = fake.nvmlDeviceGetCount
    fake.nvmlDeviceGetCount = lambda: (release.wait(10), slow())[1]

    async def scenario():
        source = Nvml("node=x", nv=fake)
        reader = asyncio.ensure_future(anext(source.batches()))
        await asyncio.sleep(0.05)
        assert not reader.done(), "the loop runs while the driver hangs"
        release.set()
        return await reader

    assert asyncio.run(scenario()).blocks


@pytest.mark.parametrize("argument", ["period=0", "period=x", "colour=1", "node="])
def test_bad_specs_are_refused(argument):
    with pytest.raises(InputError):
        open_source(f"nvml:{argument}")


def test_the_double_raises_the_codes_own_class():
    assert isinstance(NVMLError(15), NVMLError_GpuIsLost)
