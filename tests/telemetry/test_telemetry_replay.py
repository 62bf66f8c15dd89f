"""Replay: each format, the traps of real recordings, pacing and time stamps."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import time

import numpy as np
import pytest

from qcluster.errors import FormatError, InputError
from qcluster.telemetry import Quality, Ring, open_source
from qcluster.telemetry.sources.replay import Recording, Replay, read
from qcluster.telemetry.sources.replay.routing import window_loads


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def node_power(batch):
    (block,) = batch.blocks
    return dict(zip(block.ids, block.values[:, block.metrics.index("node_power_w")], strict=True))


def events(batches):
    return [(e.kind, e.subject) for batch in batches for e in batch.events]


HEAD = "node,run,time_ms,power_w\n"


@pytest.mark.parametrize("name", ["power.csv", "power.csv.gz", "POWER.CSV"])
def test_node_power(tmp_path, name):
    path = write(tmp_path / name, HEAD + "a,0,1000,10\nb,0,1100,20\na,0,3000,11\nb,0,3100,21\n")
    first, second = read(path)
    assert first.period_s == 2.0
    assert [node.id for node in first.topology.nodes] == ["a", "b"]
    assert second.topology is None
    assert (first.ts_s, second.ts_s) == (1.1, 3.1)
    assert node_power(first) == {"a": 10, "b": 20}
    assert node_power(second) == {"a": 11, "b": 21}


def test_the_wide_form_with_missing_cells_and_other_columns(tmp_path):
    path = write(
        tmp_path / "wide.csv",
        "ts_s,node,gpu,power_w,temp_c,note\n1,a,0,300,50,x\n1,a,1,,51,\n2,a,0,310,50,y\n",
    )
    first, second = read(path)
    assert first.topology.gpu_ids == ("a/0", "a/1")
    block = first.blocks[0]
    assert block.metrics == ("power_w", "temperature_c")
    np.testing.assert_array_equal(block.values, [[300, 50], [np.nan, 51]])
    assert second.blocks[0].ids == ("a/0",)


SMI = """timestamp, index, name, power.draw [W], clocks.current.sm [MHz], utilization.gpu [%], \
memory.used [MiB], temperature.gpu
2024/05/07 15:11:19.869, 0, NVIDIA H100, 512.34 W, 1980 MHz, 87 %, 1024 MiB, 61
2024/05/07 15:11:19.871, 1, NVIDIA H100, [N/A], 345 MHz, 0 %, 0 MiB, 30
2024/05/07 15:11:20.869, 0, NVIDIA H100, 500.00 W, 1965 MHz, 90 %, 1024 MiB, 62
"""


@pytest.mark.parametrize("units", [True, False])
def test_the_log_of_nvidia_smi(tmp_path, units):
    text = SMI
    if not units:
        for unit in (" W,", " MHz,", " %,", " MiB,"):
            text = text.replace(unit, ",")
    first, second = read(write(tmp_path / "smi.csv", text))
    assert first.topology.gpu_ids == ("node0/0", "node0/1")
    found = dict(zip(first.blocks[0].metrics, first.blocks[0].values.T.tolist(), strict=True))
    assert found.pop("power_w") == [512.34, pytest.approx(np.nan, nan_ok=True)]
    assert found == {
        "sm_clock_mhz": [1980, 345],
        "utilization": [pytest.approx(0.87), 0],
        "memory_used_bytes": [2**30, 0],
        "temperature_c": [61, 30],
    }
    assert second.ts_s - first.ts_s == pytest.approx(0.998)
    again = text + "Unable to determine the device handle: GPU is lost.\n" + text + "2024/05/0"
    assert len(list(read(write(tmp_path / "smi.csv", again)))) == 2
    with pytest.raises(FormatError, match=r"row 2.*timestamp"):
        list(read(write(tmp_path / "smi.csv", text.replace("2024/05/07", "yesterday"))))


def test_a_gap_is_told_when_the_node_is_back(tmp_path):
    rows = [(t, "a") for t in (0, 2, 4, 16, 18)] + [(t, "b") for t in range(0, 20, 2)]
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\n" + "".join(
        f"{node},{t * 1000},{100 + t}\n" for t, node in sorted(rows)))  # fmt: skip
    assert events(read(path)) == [("gap", "a")]


def test_duplicate_and_backward_time_stamps(tmp_path):
    path = write(
        tmp_path / "p.csv",
        "node,time_ms,power_w\na,0,1\na,2000,3\na,1857,2\na,2000,99\na,4000,4\na,6000,5\n",
    )
    batches = list(read(Recording(path, period_s=2.0)))
    assert [batch.ts_s for batch in batches] == sorted(batch.ts_s for batch in batches)
    assert [node_power(b)["a"] for b in batches] == [2, 3, 4, 5], "in order, first reading kept"


def test_nodes_on_one_meter_are_marked_but_for_the_first(tmp_path):
    lines = [f"{node},{t}000,{100 + t * (1 if node != 'c' else 2)}\n"
             for t in range(12) for node in "abc"]  # fmt: skip
    batch = next(iter(read(write(tmp_path / "p.csv", "node,time_ms,power_w\n" + "".join(lines)))))
    assert batch.blocks[0].quality[:, 0].tolist() == [0, Quality.SHARED, 0]


def test_runs_are_played_one_after_another_or_alone(tmp_path):
    text = HEAD + "".join(f"a,{r},{r * 10**7 + t * 1000},{r * 100 + t}\n"
                          for r in (1, 0) for t in range(4))  # fmt: skip
    path = write(tmp_path / "p.csv", text)
    batches = list(read(path))
    assert [node_power(b)["a"] for b in batches] == [0, 1, 2, 3, 100, 101, 102, 103]
    assert np.diff([b.ts_s for b in batches]).max() == pytest.approx(1.0)
    alone = list(read(Recording(path, run="1")))
    assert [node_power(b)["a"] for b in alone] == [100, 101, 102, 103]
    with pytest.raises(FormatError, match="no run '7'"):
        list(read(Recording(path, run="7")))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no rows"),
        ("node,time_ms,power_w\n", "no rows"),
        ("node,time_ms,power_w\na,0\n", "row 2.*3 cells"),
        ("node,time_ms,power_w\na,0,1\na,x,1\n", "row 3.*time_ms"),
        ("node,time_ms,power_w\na,,1\n", "row 2.*time_ms"),
        ("node,time_ms,power_w\na,inf,1\n", "row 2.*time_ms"),
        ("node,time_ms,power_w\na,0,lots\n", "row 2.*power_w"),
        ("node,time_ms,power_kw\na,0,1\n", "power_kw.*power_w"),
        ("node,power_w\na,1\n", "ts_s"),
        ("node,time_ms,colour\na,0,1\n", "no column"),
        ("node,gpu,ts_s,power_w\na,x,0,1\n", "row 2.*gpu"),
        ("node,ts_s,power_w,power_w\na,0,1,1\n", "twice"),
        ("# kept by hand\n\nnode,time_ms,power_w\na,0,1\n\na,2,lots\n", "row 6.*power_w"),
        ("node;time_ms;power_w\na;0;1,5\na;x;1,5\n", "row 3.*time_ms"),
        ("node;time_ms;power_w\na;0\n", "row 2.*3 cells"),
        ('node\ttime_ms\tpower_w\na\t0\t"1"2\n', "row 2.*not CSV"),
    ],
)
def test_bad_tables_name_row_and_column(tmp_path, text, named):
    with pytest.raises(FormatError, match=named):
        list(read(write(tmp_path / "p.csv", text)))


def test_broken_files_are_refused_in_one_line(tmp_path):
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(gzip.compress(b"node,time_ms,power_w\n" * 1000)[:-20])
    for path in (torn, write(tmp_path / "no.npz", "x"), write(tmp_path / "a.xyz", "x")):
        with pytest.raises(FormatError, match=path.name):
            list(read(path))
    (tmp_path / "latin.csv").write_bytes(b"node,time_ms,power_w\n\xff,1,1\n")
    with pytest.raises(FormatError, match="UTF-8"):
        list(read(tmp_path / "latin.csv"))
    whole = bytearray(gzip.compress(b"node,time_ms,power_w\n" * 1000))
    whole[20:40] = bytes(20)
    (tmp_path / "rot.csv.gz").write_bytes(whole)
    with pytest.raises(FormatError, match=r"rot\.csv\.gz: is not a whole gzip file"):
        list(read(tmp_path / "rot.csv.gz"))
    (tmp_path / "bad.gz.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match=r"bad\.gz\.csv\.gz: holds no rows"):
        list(read(tmp_path / "bad.gz.csv.gz"))


TABLE = "node;run;ts_s;power_w\na;0;0,5;300,25\na;0;1,5;310\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.csv", TABLE.encode("utf-16")),
        ("p.csv.gz", gzip.compress(b"\xfe\xff" + TABLE.encode("utf-16-be"))),
        ("p.csv", TABLE.replace("\n", "\r\n").encode("utf-8-sig")),
        ("p.tsv", TABLE.replace(",", ".").replace(";", "\t").encode()),
        ("p.csv", ("# from a spreadsheet\n" + TABLE + ";;;\n").encode()),
        ("p.csv", TABLE.replace(",", ".").replace(";", " , ").encode()),
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    first, second = read(tmp_path / name)
    assert (first.ts_s, second.ts_s) == (0.5, 1.5)
    assert (node_power(first), node_power(second)) == ({"a": 300.25}, {"a": 310})


def test_a_cut_table_in_utf_16_is_refused_in_one_line(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(TABLE.encode("utf-16")[:-1])
    with pytest.raises(FormatError, match=r"p\.csv: is not UTF-16 text$"):
        list(read(path))


def test_json_lines(tmp_path):
    lines = [{"ts_s": t, "node": "a", "gpu": 0, "power_w": t} for t in (5, 6, 8)]
    path = write(tmp_path / "s.jsonl.gz", "\n".join(map(json.dumps, lines)))
    batches = list(read(path))
    assert [b.ts_s for b in batches] == [5, 6, 8]
    assert batches[0].period_s in (1.0, 2.0)
    assert not any(block.quality.any() for b in batches for block in b.blocks)
    with pytest.raises(FormatError, match="ts_s"):
        list(read(write(tmp_path / "n.jsonl", '{"node": "a", "gpu": 0, "power_w": 1}')))
    with pytest.raises(FormatError, match=r"n2.jsonl.*power_w"):
        list(
            read(write(tmp_path / "n2.jsonl", '{"ts_s": 1, "node": "a", "gpu": 0, "power_w": "x"}'))
        )


MLLOG = ':::MLLOG {"time_ms": %d, "key": "%s", "value": %s}\n'


def test_mlperf_power_logs(tmp_path):
    text = MLLOG % (0, "power_measurement_start", "null") + "noise\n"
    text += "".join(MLLOG % (1000 * t, "power_reading", 2000 + t) for t in range(3))
    batches = list(read(write(tmp_path / "node_7.txt", text)))
    assert [node_power(b)["node_7"] for b in batches] == [2000, 2001, 2002]
    ranked = text.replace(":::", "[1,0]<stdout>::::")
    assert len(list(read(write(tmp_path / "node_7.txt", ranked)))) == 3
    for cut, named in ((text[:-10], "row 5"), (text.replace("2001", '"x"'), "row 4.*value"),
                       ("nothing\n", "no power readings")):  # fmt: skip
        with pytest.raises(FormatError, match=named):
            list(read(write(tmp_path / "node_7.txt", cut)))


def test_the_real_mlperf_log(data_dir):
    batches = list(read(data_dir / "energy" / "mlperf_power" / "sample_mllog_node.txt"))
    assert 100 <= len(batches) <= 110
    assert batches[0].period_s == pytest.approx(2.0, abs=0.1)


def test_a_saved_scrape(tmp_path, data_dir):
    (batch,) = read(data_dir / "ray" / "ray-2.60-metrics.prom")
    assert batch.topology.nodes[0].id == "192.0.2.10"
    with pytest.raises(FormatError, match="no series"):
        list(read(write(tmp_path / "x.prom", "up 1\n")))
    with pytest.raises(FormatError, match=r"x\.prom.*row 1"):
        list(read(write(tmp_path / "x.prom", "up up up\n")))


def test_routing_decisions_become_windows(tmp_path):
    ids = np.random.default_rng(0).integers(0, 8, (2500, 3, 2)).astype(np.uint8)
    np.savez(tmp_path / "r.npz", expert_ids=ids)
    batches = list(read(tmp_path / "r.npz"))
    assert [b.ts_s for b in batches] == [0, 1], "the 500 tokens left over make no window"
    for window, batch in enumerate(batches):
        part = ids[1000 * window : 1000 * (window + 1)]
        for layer in range(3):
            wanted = np.bincount(part[:, layer].ravel(), minlength=8)
            np.testing.assert_array_equal(batch.expert_load[layer], wanted)
    (short,) = read(Recording(tmp_path / "r.npz", window=5000))
    assert short.expert_load.sum() == 2500 * 3 * 2


def test_windows_of_load(tmp_path):
    load = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "l.npz", expert_load=load)
    np.testing.assert_array_equal([b.expert_load for b in read(tmp_path / "l.npz")], load)


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"expert_ids": np.zeros((3, 2), int)},
        {"expert_ids": np.zeros((3, 2, 1))},
        {"expert_ids": np.full((3, 2, 1), -1)},
        {"expert_load": np.full((2, 3, 4), np.nan)},
        {"expert_load": np.full((2, 3, 4), -1.0)},
        {"expert_load": np.array([[{}]], dtype=object)},
        {"expert_load": np.zeros((0, 3, 4))},
    ],
    ids=range(8),
)
def test_bad_archives_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FormatError, match=r"x\.npz"):
        list(read(tmp_path / "x.npz"))


def test_the_grammar_of_the_spec(tmp_path):
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\na,0,1\n")
    source = Replay(f"{path}?run=3&window=50&period=2&loop=1@4")
    assert source.recording == Recording(path, 4.0, run="3", window=50, period_s=2.0, loop=True)
    odd = write(tmp_path / "a?b@2.csv", "node,time_ms,power_w\na,0,1\n")
    assert Replay(str(odd)).recording == Recording(odd)


@pytest.mark.parametrize(
    ("suffix", "named"),
    [("@0", "speed"), ("@fast", "speed"), ("@-1", "speed"), ("@inf", "speed"),
     ("?colour=1", "colour"), ("?window=0", "window"),
     ("x", "no such file")],
)  # fmt: skip
def test_a_bad_spec_names_what_is_wrong(tmp_path, suffix, named):
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\na,0,1\n")
    with pytest.raises(InputError, match=named):
        open_source(f"replay:{path}{suffix}")
    with pytest.raises(InputError, match="FILE"):
        open_source("replay:")


def collect(source, most):
    async def take():
        out = []
        async for batch in source.batches():
            out.append(batch)
            if len(out) == most:
                break
        return out

    return asyncio.run(take())


def test_time_is_moved_to_now_and_keeps_its_spacing_at_any_speed(tmp_path):
    rows = "".join(f"a,{t * 2000},{t}\n" for t in range(10))
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\n" + rows)
    begin = time.time()
    batches = collect(open_source(f"replay:{path}@max"), 99)
    assert len(batches) == 10
    assert begin <= batches[0].ts_s <= time.time()
    assert np.diff([b.ts_s for b in batches]) == pytest.approx(2.0)
    assert batches[0].source == f"replay:{path}@max"


def test_a_loop_goes_on_in_time(tmp_path):
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\na,0,1\na,1000,2\na,2000,3\n")
    batches = collect(open_source(f"replay:{path}?loop=1@max"), 7)
    assert np.diff([b.ts_s for b in batches]) == pytest.approx(1.0)


def test_slow_motion_says_how_often_batches_come(tmp_path):
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\na,0,1\na,20,2\n")
    batches = collect(open_source(f"replay:{path}@0.5"), 99)
    assert [b.period_s for b in batches] == [pytest.approx(0.04)] * 2


def test_speed_paces(tmp_path, monkeypatch):
    path = write(tmp_path / "p.csv", "node,time_ms,power_w\na,0,1\na,1000,2\na,2000,3\n")
    now, pauses = 100.0, []

    async def sleep(seconds):
        nonlocal now
        now += seconds
        pauses.append(seconds)

    monkeypatch.setattr("qcluster.telemetry.sources.replay.asyncio.sleep", sleep)
    monkeypatch.setattr("qcluster.telemetry.sources.replay.time.monotonic", lambda: now)
    collect(open_source(f"replay:{path}@20"), 99)
    assert sum(pauses) == pytest.approx(2.0 / 20)
    assert [p for p in pauses if p] == pytest.approx([0.05, 0.05])


# Real recordings


@pytest.mark.parametrize(("run", "meters"), [("0", 34), ("1", 34)])
def test_the_64_node_h100_recording(data_dir, run, meters):
    path = data_dir / "energy" / "mlperf_power" / f"gpt3_64node_run{run}.csv.gz"
    ring, total, shared = Ring(history=10_000), 0, 0
    for batch in read(path):
        ring.add(batch)
        block = batch.blocks[0]
        total += block.values.size
        shared = max(shared, int((block.quality & Quality.SHARED > 0).any(axis=1).sum()))
    with gzip.open(path, "rt") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    snapshot = ring.snapshot()
    assert len(snapshot.topology.nodes) == 64
    assert 64 - shared == meters
    assert total >= 0.99 * rows
    assert np.isfinite(snapshot.power_w[-1]).all()
    assert 3000 < np.nanmean(snapshot.power_w) < 9000


def test_the_traps_of_real_recordings_are_survived(data_dir):
    for path in sorted((data_dir / "energy" / "mlperf_power").glob("*.csv.gz")):
        ring = Ring()
        stamps = []
        for batch in read(path):
            ring.add(batch)
            stamps.append(batch.ts_s)
        assert (np.diff(stamps) > 0).all(), path.name
        assert np.isfinite(ring.snapshot().power_w).any(), path.name
    noisy = data_dir / "energy" / "mlperf_power" / "llama2lora_8node.csv.gz"
    assert {kind for kind, _ in events(read(noisy))} == {"gap"}


def test_the_h100_counters(data_dir):
    ring, before = Ring(), None
    for batch in read(data_dir / "energy" / "h100_counters" / "t2.csv.gz"):
        ring.add(batch)
        if before is None:
            before = batch
    snapshot = ring.snapshot()
    assert snapshot.topology.gpu_ids == tuple(f"node0/{i}" for i in range(8))
    assert {"power_w", "temperature_c", "utilization", "energy_w", "nvlink_tx_gb_s"} <= set(
        snapshot.gpu
    )
    assert (snapshot.gpu["utilization"] <= 1).all()


@pytest.mark.parametrize("domain", ["intent", "law"])
def test_the_real_router_traces(data_dir, domain):
    path = data_dir / "routing" / f"dsv2lite_{domain}.npz"
    batches = list(read(path))
    assert len(batches) == 8
    assert all(b.expert_load.shape == (26, 64) for b in batches)
    assert all((b.expert_load.sum(axis=1) == 6000).all() for b in batches)
    with np.load(path) as file:
        whole = window_loads(file["expert_ids"], len(file["expert_ids"]))[0]
    table = data_dir / "routing" / f"dsv2lite_{domain}_load.csv"
    wanted = np.loadtxt(table, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(whole, wanted)
