"""Exporters scraped over loopback: DCGM, Ray, any; blanks, slices, resets, skew, silence."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import numpy as np
import pytest

from qcluster.errors import FormatError, InputError, NotReady
from qcluster.telemetry import Batch, Quality, Ring, open_source
from qcluster.telemetry.sources.dcgm import dcgm_rules
from qcluster.telemetry.sources.endpoint import Endpoint
from qcluster.telemetry.sources.prometheus import general
from qcluster.telemetry.sources.ray_metrics import ray, ray_rules, ray_urls
from qcluster.telemetry.sources.scraper import Scraper

NOW = 1_700_000_000.0


def endpoint(rules=dcgm_rules):
    return Endpoint("host", rules)


def cells(block):
    """(id, metric) -> (value, quality)."""
    return {
        (name, metric): (block.values[i, j], int(block.quality[i, j]))
        for i, name in enumerate(block.ids)
        for j, metric in enumerate(block.metrics)
    }


def gpu_line(field, value, gpu=0, host="n1", **labels):
    extra = "".join(f',{k}="{v}"' for k, v in labels.items())
    return f'{field}{{gpu="{gpu}",UUID="GPU-{gpu}",Hostname="{host}"{extra}}} {value}\n'


def test_the_real_dcgm_sample_with_its_blank(data_dir):
    text = (data_dir / "ray" / "dcgm-sample.prom").read_text()
    (block,) = endpoint().blocks(text, NOW)
    assert cells(block) == {
        ("host/0", "sm_clock_mhz"): (139, 0),
        ("host/0", "mem_clock_mhz"): (405, 0),
    }


def test_units_become_ours():
    text = (
        gpu_line("DCGM_FI_DEV_POWER_USAGE", 512.5)
        + gpu_line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5_000_000)
        + gpu_line("DCGM_FI_DEV_GPU_UTIL", 87)
        + gpu_line("DCGM_FI_DEV_FB_USED", 1024)
        + gpu_line("DCGM_FI_PROF_SM_ACTIVE", 0.5)
        + gpu_line("DCGM_FI_PROF_NVLINK_TX_BYTES", 3.5e11)
    )
    (block,) = endpoint().blocks(text, NOW)
    assert {metric: value for (_, metric), (value, _) in cells(block).items()} == {
        "power_w": 512.5,
        "energy_j": 5000,
        "utilization": pytest.approx(0.87),
        "memory_used_bytes": 2**30,
        "sm_active": 0.5,
        "nvlink_tx_gb_s": pytest.approx(350),
    }


@pytest.mark.parametrize("blank", ["9223372036854775792", "9223372036854775794", "140737488355328",
                                   "2147483632", "2147483647", "70368744177664"])  # fmt: skip
def test_blanks_are_missing_in_every_unit(blank):
    text = gpu_line("DCGM_FI_DEV_GPU_TEMP", blank) + gpu_line("DCGM_FI_DEV_GPU_UTIL", blank)
    text += gpu_line("DCGM_FI_DEV_FB_USED", blank)
    (block,) = endpoint().blocks(text, NOW)
    assert np.isnan(block.values).all()
    assert (block.quality == Quality.SENTINEL).all()


def test_a_blank_counter_is_seen_although_its_unit_is_scaled():
    big = gpu_line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 236_748_562_886_000)
    (block,) = endpoint().blocks(big, NOW)
    assert block.values[0, 0] == 236_748_562_886, "above 2^46 mJ, and real"
    blank = gpu_line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 9223372036854775794)
    (block,) = endpoint().blocks(blank, NOW)
    assert block.quality[0, 0] == Quality.SENTINEL


def test_slices_of_one_gpu_count_once():
    slices = [("1", "1g.10gb", 300, 0.7, 1000), ("2", "3g.40gb", 300, 0.35, 3000)]
    text = "".join(
        gpu_line("DCGM_FI_DEV_POWER_USAGE", power, GPU_I_ID=i, GPU_I_PROFILE=p)
        + gpu_line("DCGM_FI_PROF_SM_ACTIVE", active, GPU_I_ID=i, GPU_I_PROFILE=p)
        + gpu_line("DCGM_FI_DEV_FB_USED", used, GPU_I_ID=i, GPU_I_PROFILE=p)
        for i, p, power, active, used in slices
    )
    (block,) = endpoint().blocks(text, NOW)
    found = cells(block)
    assert found["n1/0", "power_w"] == (300, Quality.SHARED)
    assert found["n1/0", "memory_used_bytes"] == (4000 * 2**20, 0)
    assert found["n1/0", "sm_active"][0] == pytest.approx(0.7 / 7 + 0.35 * 3 / 7)


def test_the_same_series_twice_is_marked_and_the_first_kept():
    text = gpu_line("DCGM_FI_DEV_POWER_USAGE", 300) + gpu_line(
        "DCGM_FI_DEV_POWER_USAGE", 400, pod="x"
    )
    (block,) = endpoint().blocks(text, NOW)
    assert cells(block) == {("n1/0", "power_w"): (300, Quality.DUPLICATE)}


def test_samples_with_old_time_stamps_are_marked_stale():
    old, new = int((NOW - 60) * 1000), int(NOW * 1000)
    text = gpu_line("DCGM_FI_DEV_POWER_USAGE", f"300 {old}") + gpu_line(
        "DCGM_FI_DEV_GPU_TEMP", f"50 {new}"
    )
    (block,) = endpoint().blocks(text, NOW)
    assert cells(block)["n1/0", "power_w"][1] == Quality.STALE
    assert cells(block)["n1/0", "temperature_c"][1] == 0


def test_counters_of_another_device_in_the_same_place_begin_anew():
    one, ring = endpoint(), Ring()
    field = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"

    def scrape(ts, uuid, value):
        text = f'{field}{{gpu="0",UUID="{uuid}",Hostname="n"}} {value}\n'
        blocks = one.blocks(text, NOW)
        ring.add(Batch(source="dcgm", ts_s=ts, blocks=blocks))
        return int(blocks[0].quality[0, 0])

    assert scrape(1.0, "GPU-a", 1_000) == 0
    assert scrape(2.0, "GPU-b", 9e12) == Quality.RESET
    assert np.isnan(ring.snapshot().gpu["energy_w"][0]), "not nine billion joules in a second"
    assert scrape(3.0, "GPU-b", 9e12 + 500_000) == 0
    assert ring.snapshot().gpu["energy_w"][0] == 500


def test_a_changed_list_of_series_is_laid_out_anew():
    one = endpoint()
    first = gpu_line("DCGM_FI_DEV_POWER_USAGE", 1, gpu=0) + gpu_line(
        "DCGM_FI_DEV_POWER_USAGE", 2, gpu=1
    )
    one.blocks(first, NOW)
    (block,) = one.blocks(gpu_line("DCGM_FI_DEV_POWER_USAGE", 3, gpu=1), NOW)
    assert cells(block) == {("n1/1", "power_w"): (3, 0)}


def test_the_real_ray_scrape(data_dir):
    text = (data_dir / "ray" / "ray-2.60-metrics.prom").read_text()
    (block,) = endpoint(ray_rules).blocks(text, NOW)
    found = cells(block)
    assert found["192.0.2.10", "node_cpu"] == (pytest.approx(0.999), 0)
    assert found["192.0.2.10", "node_memory_bytes"] == (3.659116544e09, 0)


def test_rays_gpu_gauges():
    labels = 'GpuIndex="1",GpuDeviceName="NVIDIA H100",ip="10.0.0.7"'
    text = (
        f"ray_node_gpus_utilization{{{labels}}} 50\nray_node_gram_used{{{labels}}} 2048\n"
        f"ray_node_gpu_power_milliwatts{{{labels}}} 512000\n"
    )
    one = endpoint(ray_rules)
    (block,) = one.blocks(text, NOW)
    assert {m: v for (_, m), (v, _) in cells(block).items()} == {
        "utilization": 0.5,
        "memory_used_bytes": 2**31,
        "power_w": 512,
    }
    (node,) = one.nodes()
    assert (node.id, node.gpus, node.model) == ("10.0.0.7", 2, "NVIDIA H100")


def test_where_a_ray_cluster_serves_its_metrics():
    nodes = [
        {"Alive": True, "NodeManagerAddress": "10.0.0.2", "MetricsExportPort": 8080},
        {"Alive": True, "NodeManagerAddress": "fd00::1", "MetricsExportPort": 9000},
        {"Alive": False, "NodeManagerAddress": "10.0.0.3", "MetricsExportPort": 8080},
        {"Alive": True, "NodeManagerAddress": "10.0.0.4", "MetricsExportPort": 0},
    ]
    assert ray_urls(nodes) == ("http://10.0.0.2:8080/metrics", "http://[fd00::1]:9000/metrics")
    with pytest.raises(NotReady, match="Ray"):
        ray_urls(nodes[2:])


@pytest.mark.parametrize(
    ("profile", "share"),
    [("7g.80gb", 1), ("3g.40gb", 3 / 7), ("1g.10gb+me", 1 / 7), ("?", 1 / 7)],
)
def test_a_slice_counts_by_its_size(profile, share):
    text = gpu_line("DCGM_FI_PROF_SM_ACTIVE", 0.5, GPU_I_ID="1", GPU_I_PROFILE=profile)
    (block,) = endpoint().blocks(text, NOW)
    assert block.values[0, 0] == pytest.approx(0.5 * share)


def test_any_exporter_may_use_our_own_names():
    text = (
        'power_w{node="a",gpu="3"} 400\nqcluster_node_power_w{node="a"} 5000\n'
        'link_up{link="a/3->s"} 1\nlink_up 1\nsomething_else 3\n'
    )
    blocks = {block.entity: cells(block) for block in endpoint(general).blocks(text, NOW)}
    assert blocks == {
        "gpu": {("a/3", "power_w"): (400, 0)},
        "node": {("a", "node_power_w"): (5000, 0)},
        "link": {("a/3->s", "link_up"): (1, 0)},
    }


def test_clock_skew_is_read_from_the_answers_date():
    source = Scraper("dcgm", "http://h:1/metrics", dcgm_rules)
    text = gpu_line("DCGM_FI_DEV_POWER_USAGE", 1)
    for offset, mark in ((0, 0), (-90, Quality.SKEW), (90, Quality.SKEW)):
        date = formatdate(NOW + offset, usegmt=True)
        (block,) = source.take("http://h:1/metrics", text, NOW, date).blocks
        assert block.quality[0, 0] == mark


def test_nodes_that_fall_silent_stay_in_the_topology():
    source = Scraper("dcgm", "http://h:1/metrics,http://g:1/metrics", dcgm_rules)
    one = gpu_line("DCGM_FI_DEV_POWER_USAGE", 1, gpu=3, host="n1", modelName="NVIDIA H100")
    two = gpu_line("DCGM_FI_DEV_POWER_USAGE", 1, gpu=0, host="n2")
    first = source.take("http://h:1/metrics", one, NOW)
    second = source.take("http://g:1/metrics", two, NOW)
    third = source.take("http://g:1/metrics", two, NOW + 1)
    assert [(n.id, n.gpus, n.model) for n in first.topology.nodes] == [("n1", 4, "NVIDIA H100")]
    assert [n.id for n in second.topology.nodes] == ["n1", "n2"]
    assert third.topology is None


@pytest.mark.parametrize(
    ("argument", "urls", "period"),
    [
        ("a:9400", ("http://a:9400/metrics",), 1.0),
        (
            "http://a:9400/x,https://b/metrics,period=5",
            ("http://a:9400/x", "https://b/metrics"),
            5.0,
        ),
        ("http://a:1/,http://a:1", ("http://a:1/metrics",), 1.0),
    ],
)
def test_urls(argument, urls, period):
    source = open_source(f"dcgm:{argument}")
    assert (source.urls, source.period_s) == (urls, period)


@pytest.mark.parametrize("kind", ["dcgm", "prometheus"])
def test_exporters_need_an_address(kind):
    with pytest.raises(InputError, match="URL"):
        open_source(kind)


@pytest.mark.parametrize("argument", ["file:///etc/passwd", "http://", "http://a:99999/m",
                                      "a:1,period=0", "a:1,period=x"])  # fmt: skip
@pytest.mark.parametrize("kind", ["dcgm", "ray", "prometheus"])
def test_bad_specs_are_refused(kind, argument):
    with pytest.raises(InputError):
        open_source(f"{kind}:{argument}")


def test_a_text_without_known_series_is_refused():
    source = Scraper("dcgm", "http://h:1/metrics", dcgm_rules)
    with pytest.raises(FormatError, match="no series"):
        source.take("http://h:1/metrics", "up 1\n", NOW)


def take(source, n):
    async def run():
        batches = source.batches()
        out = [await anext(batches) for _ in range(n)]
        await batches.aclose()
        return out

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_a_real_exporter_text_over_loopback(exporter, data_dir):
    text = (data_dir / "ray" / "dcgm-sample.prom").read_text()
    begin = time.time()
    batches = take(open_source(f"dcgm:{exporter((200, text)).url},period=0.02"), 3)
    ring = Ring()
    for batch in batches:
        ring.add(batch)
    snapshot = ring.snapshot()
    assert not snapshot.simulated
    assert snapshot.topology.gpu_ids == ("127.0.0.1/0",)
    assert snapshot.gpu["sm_clock_mhz"].tolist() == [139]
    assert begin <= batches[0].ts_s <= time.time()


def test_an_exporter_that_fails_gives_one_alarm_and_clears_it(exporter):
    good = gpu_line("DCGM_FI_DEV_POWER_USAGE", 1)
    server = exporter((500, ""), (503, ""), (200, "<html>"), (200, good), (200, good))
    batches = take(open_source(f"dcgm:{server.url},period=0.02"), 3)
    assert [[e.kind for e in b.events] for b in batches] == [["alarm"], ["clear"], []]
    assert "500" in batches[0].events[0].detail


def test_a_dead_exporter_does_not_hold_up_a_live_one(exporter):
    live = exporter((200, gpu_line("DCGM_FI_DEV_POWER_USAGE", 1))).url
    batches = take(open_source(f"dcgm:http://127.0.0.1:9/metrics,{live},period=0.02"), 4)
    assert sum(bool(b.blocks) for b in batches) == 3
    assert [e.subject for b in batches for e in b.events] == ["http://127.0.0.1:9/metrics"]


def test_a_counter_reset_is_marked_in_the_snapshot(exporter):
    name = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
    server = exporter((200, gpu_line(name, 9_000_000)), (200, gpu_line(name, 1_000)))
    ring = Ring()
    for batch in take(open_source(f"prometheus:{server.url},period=0.02"), 2):
        ring.add(batch)
    snapshot = ring.snapshot()
    assert snapshot.gpu_quality["energy_j"][0] == Quality.RESET
    assert np.isnan(snapshot.gpu["energy_w"][0])


def test_a_slow_reader_makes_periods_fall_out_and_nothing_pile_up(exporter):
    server = exporter((200, gpu_line("DCGM_FI_DEV_POWER_USAGE", 1)))

    async def run():
        batches = open_source(f"dcgm:{server.url},period=0.01").batches()
        await anext(batches)
        await asyncio.sleep(0.5)
        await batches.aclose()

    asyncio.run(run())
    assert server.asked <= 5, "one taken, two in the queue, one that waits for room"


def ray_node(server, alive=True):
    address = {"NodeManagerAddress": "127.0.0.1", "MetricsExportPort": server.server_port}
    return {"Alive": alive, **address}


def test_ray_nodes_that_join_and_leave_are_followed(exporter):
    def text(ip):
        return (200, f'ray_node_cpu_utilization{{ip="{ip}"}} 50\n')

    first, second = exporter(text("10.0.0.1")), exporter(text("10.0.0.2"))
    cluster = [ray_node(first)]
    source = ray("period=0.01", nodes=lambda: cluster)
    source.discover_s = 0.05

    async def run():
        batches = source.batches()
        seen = [(await anext(batches)).blocks[0].ids[0]]
        cluster[:] = [ray_node(first, alive=False), ray_node(second)]
        while seen[-1] == "10.0.0.1":
            seen.append((await anext(batches)).blocks[0].ids[0])
        asked = first.asked
        later = [(await anext(batches)).blocks[0].ids[0] for _ in range(10)]
        cluster.clear()
        await asyncio.sleep(0.1)
        assert source.urls == (second.url,), "a cluster that cannot be asked stays as it was"
        await batches.aclose()
        return first.asked - asked, set(later[5:])

    more, ids = asyncio.run(asyncio.wait_for(run(), 20))
    assert more <= 3
    assert ids == {"10.0.0.2"}


def test_ray_without_a_cluster_says_so_when_it_is_read():
    source = open_source("ray")
    assert source.name == "ray"
    with pytest.raises(NotReady, match="cluster around it"):
        take(source, 1)


def test_an_answer_that_never_ends_is_given_up(exporter, monkeypatch):
    monkeypatch.setattr("qcluster.telemetry.sources.scraper.ANSWER_S", 0.05)
    server = exporter((200, "up 1\n"))
    server.hold.clear()
    (batch,) = take(open_source(f"dcgm:{server.url},period=0.02"), 1)
    server.hold.set()
    assert "Timeout" in batch.events[0].detail


def test_an_endless_answer_is_cut(exporter, monkeypatch):
    monkeypatch.setattr("qcluster.telemetry.sources.scraper.MAX_BYTES", 1000)
    (batch,) = take(open_source(f"dcgm:{exporter((200, 'x' * 5000)).url},period=0.02"), 1)
    assert "more than" in batch.events[0].detail
