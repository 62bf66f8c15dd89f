"""Readers of power telemetry and PSPLIB files: what they take, what they refuse, and how."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcluster.errors import FormatError
from qcluster.q_energy import PowerTrace, Task, read_psplib, read_trace
from qcluster.q_energy.formats import parse_trace
from qcluster.q_energy.psplib import parse_psplib

CSV = "node,time_ms,power_w\nb,1000,20\na,0,10\na,1000,11\nb,0,21\n"


def test_csv_is_sorted_by_entity_and_time() -> None:
    trace = parse_trace("node,ts_s,power_w\nb,0,21\nb,1,20\na,0,10\na,1,11\n")
    assert trace.ids == ("a", "b")
    assert trace.ts_s.tolist() == [0, 1, 0, 1]
    assert trace.power_w.tolist() == [10, 11, 21, 20]
    assert trace.period_s == 1.0
    assert trace.newest_s == 1.0


def test_units_in_column_names_are_converted() -> None:
    trace = parse_trace("hostname,time_ms,power_mw,gpu\nh,1000,250000,3\n")
    assert trace.ids == ("h/3",)
    assert trace.ts_s.tolist() == [1.0]
    assert trace.power_w.tolist() == [250.0]


def test_json_lines_and_mlperf_logs() -> None:
    lines = '{"ts_s": 0, "node": "a", "power_w": 5}\n\n{"ts_s": 1, "node": "a", "power_w": 6}\n'
    assert parse_trace(lines).power_w.tolist() == [5, 6]
    iso = '{"timestamp": "2026-01-01T00:00:00Z", "host": "a", "gpu": 0, "power": 5}'
    assert parse_trace(iso).ids == ("a/0",)
    event = {"time_ms": 2000, "key": "power_reading", "value": 7}
    log = f':::MLLOG {{"key": "start", "time_ms": 1}}\nnoise\n:::MLLOG {json.dumps(event)}\n'
    trace = parse_trace(log, node="n7")
    assert trace.ids == ("n7",)
    assert trace.ts_s.tolist() == [2.0]


def test_logs_of_nvidia_smi() -> None:
    head = "timestamp, index, power.draw [W], utilization.gpu [%]\n"
    trace = parse_trace(
        head
        + "2026/01/01 00:00:01.500, 0, 85.20 W, 3 %\n2026/01/01 00:00:01.500, 1, 90.00 W, 4 %\n",
        node="a",
    )
    assert trace.ids == ("a/0", "a/1")
    assert trace.power_w.tolist() == [85.2, 90.0]
    assert trace.ts_s.tolist() == [1767225601.5] * 2
    with pytest.raises(FormatError, match=r"row 2 first: there is no power reading"):
        parse_trace(head + "2026/01/01 00:00:01.500, 0, [N/A], 3 %\n")
    with pytest.raises(FormatError, match=r"row 2.*YYYY/MM/DD"):
        parse_trace(head + "yesterday, 0, 85.20 W, 3 %\n")


SCRAPE = """# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).
# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a",Hostname="h1",modelName="NVIDIA H100"} 512.5
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-b",Hostname="h1",modelName="NVIDIA H100"} %s
"""


def test_scrapes_of_exporters() -> None:
    trace = parse_trace(SCRAPE % "433")
    assert trace.ids == ("h1/0", "h1/1")
    assert trace.power_w.tolist() == [512.5, 433.0]
    assert not trace.warnings
    blank = parse_trace((SCRAPE % "9223372036854775792").partition("gauge\n")[2])
    assert blank.ids == ("h1/0",)
    assert "1 reading is an exporter's blank marker" in blank.warnings[0]


def test_scrapes_without_power_are_refused() -> None:
    with pytest.raises(FormatError, match="no series that telemetry knows"):
        parse_trace("# TYPE up gauge\nup 1\n", file="a.prom")
    with pytest.raises(FormatError, match="no power readings"):
        parse_trace('DCGM_FI_DEV_SM_CLOCK{gpu="0",Hostname="h1"} 1410\n')
    with pytest.raises(FormatError, match="no power readings"):
        parse_trace('DCGM_FI_DEV_POWER_USAGE{gpu="0",Hostname="h1"} NaN\n')


def test_iso_time_stamps_need_a_zone() -> None:
    good = parse_trace("timestamp,node,power_w\n2026-01-01T00:00:01+00:00,a,5\n")
    assert good.ts_s.tolist() == [1767225601.0]
    with pytest.raises(FormatError, match=r"row 2.*no time zone"):
        parse_trace("timestamp,node,power_w\n2026-01-01T00:00:01,a,5\n")
    with pytest.raises(FormatError, match="ISO 8601"):
        parse_trace("timestamp,node,power_w\nyesterday,a,5\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("node,ts_s,power_w\n", "no readings"),
        ("node,power_w\na,1\n", "no time column"),
        ("node,ts_s\na,1\n", "no power column"),
        ("node,ts_s,power_w\na,1\n", "row 2: has 2 cells"),
        ("node,ts_s,power_w\na,0,5\na,1,nan\n", "row 3.*NaN"),
        ("node,ts_s,power_w\na,0,\n", "row 2 first: there is no power reading"),
        ("node,ts_s,power_w\na,0,1_000\n", "row 2.*wants a number"),
        ("node,ts_s,power_w\n,0,5\n", "row 2.*'node': is empty"),
        ("node,ts_s,power_w,power_w\na,0,5,6\n", "'power_w' stands twice"),
        ("node,ts_s,power_w\na,,5\n", "row 2.*'ts_s': wants a time"),
        ("node,ts_s,power_w\na,0,inf\n", "row 2.*inf is no power"),
        ("node,ts_s,power_w\na,1715960307185,5\n", "row 2.*no time in seconds"),
        ("node,gpu,ts_s,power_w\na,0,0,65000\n", "row 2.*milliwatts for the GPU a/0"),
        ("node,ts_s,power_w\na,0,90\nb,0,95\nc,0,91000\n", "row 4.*c looks like milliwatts"),
        ("node,ts_s,power_w\na,0,\x00\n", "row 2: holds NUL bytes"),
        ("node,ts_s,energy_j\na,0,-5\na,1,6\n", "row 2.*not what a counter holds"),
        ("+-----+\n| NVIDIA-SMI 525 |\n", "table for people"),
        ("# gpu pwr\n# Idx W\n 0 43\n", "nvidia-smi dmon"),
        ("<html></html>", "HTML"),
        ("# nothing\n", "has no header"),
        ("[]", "no readings"),
        ("[1]", "row 1: wants a list of JSON objects"),
        ('{"data": {"result": 3}}', "is not|no power|wants"),
        ('{"sm_clock_mhz": 3, "ts_s": 1}', "no power readings among 1 documents"),
        ("node,ts_s,power_w\na,0,x\n", "row 2.*wants a number"),
        ("node,ts_s,power_w\na,inf,5\n", "not a time"),
        ("node,ts_s,power_w\na,0,-5\n", "negative"),
        ("node,ts_s,power_w\na,0,9223372036854775794\n", "blank marker"),
        ("node,ts_s,power_w\na,0,140737488355328.0\n", "blank marker"),
        ("node,ts_s,power_w\na,0,2147483632\n", "blank marker"),
        ("node,ts_s,power_w\na,0,450000\na,1,455000\n", "looks like milliwatts"),
        ("node,ts_s,power_w\na,0,500\na,1,505\na,2,999999\n", "more than one node"),
        ("node,ts_s,power_w\na,100,5\na,0,5\n", "row 3.*runs backward by 100 s"),
        ('{"ts_s": 0}', "no power"),
        ('{"power_w": 0}', "no time"),
        ('{"ts_s": 0, "power_w": true}', "wants a number"),
        ('{"ts_s": 0, "power_w": NaN}', "nan is not a reading"),
        ('{"ts_s": 0, "power_w": 1e400}', "inf is not a reading"),
        ('{"ts_s": 0,', "not JSON"),
        ('{"ts_s": 0, "power_w": 1}\n[1]', "row 2.*wants a JSON object"),
        (":::MLLOG {}", "no power_reading"),
        (":::MLLOG {", "not JSON"),
    ],
)
def test_bad_readings_are_named(text: str, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse_trace(text)


def test_deep_json_is_refused() -> None:
    with pytest.raises(FormatError, match=r"nested too deeply|not JSON"):
        parse_trace('{"a":' * 200_000)


def test_small_disorder_and_duplicates_are_repaired_with_a_warning() -> None:
    trace = parse_trace("node,ts_s,power_w\na,1,5\na,0.9,6\na,1,7\na,2,8\n")
    assert trace.power_w.tolist() == [6, 5, 8]
    assert any("out of order" in line for line in trace.warnings)
    assert any("repeat a time" in line for line in trace.warnings)


def test_runs_may_stand_in_any_order() -> None:
    trace = parse_trace("node,run,time_ms,power_w\na,1,900000,5\na,2,0,6\n")
    assert trace.power_w.tolist() == [6, 5]


def test_shared_meters_are_told() -> None:
    rows = [f"{n},{t},{100 + t % 3}" for n in "ab" for t in range(10)]
    trace = parse_trace("node,ts_s,power_w\n" + "\n".join(rows))
    assert trace.shared_meters() == 1
    assert "2 entities give 1 distinct series" in trace.warnings[0]


def test_quantiles_look_at_the_window_only() -> None:
    trace = parse_trace("node,ts_s,power_w\na,0,900\na,100,10\na,101,20\na,102,30\n")
    assert trace.quantiles((0.5, 1.0), 10.0).tolist() == [[20.0, 30.0]]


def test_files_name_themselves(tmp_path: Path) -> None:
    path = tmp_path / "power.csv.gz"
    path.write_bytes(gzip.compress(b"ts_s,power_w\n0,5\n"))
    assert read_trace(path).ids == ("power",)
    path.write_bytes(gzip.compress(CSV.encode())[:-9])
    with pytest.raises(FormatError, match=r"power\.csv\.gz: is not a whole gzip"):
        read_trace(path)
    path.write_bytes(b"\xff\xff")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_trace(path)
    with pytest.raises(FormatError, match="No such file"):
        read_trace(tmp_path / "absent")
    with pytest.raises(FormatError):
        read_trace(tmp_path)


@given(st.text(max_size=200))
def test_any_text_gives_a_trace_or_a_named_error(text: str) -> None:
    try:
        trace = parse_trace(text)
    except FormatError:
        return
    assert np.isfinite(trace.power_w).all()


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats(0, 2e4)), min_size=1)
)
def test_traces_are_sorted_unique_and_survive_json(rows: list[tuple[str, int, float]]) -> None:
    rows.sort(key=lambda row: row[1])
    names, times, watts = zip(*rows, strict=True)
    trace = PowerTrace.of(np.array(names), np.array(times, float), np.array(watts))
    keys = list(zip(trace.entity.tolist(), trace.ts_s.tolist(), strict=True))
    assert keys == sorted(set(keys))
    assert PowerTrace.from_dict(trace.to_dict()) == trace


SM = """file
  - renewable                 :  2   R
  - nonrenewable              :  0   N
  - doubly constrained        :  0   D
PRECEDENCE RELATIONS:
jobnr.    #modes  #successors   successors
   1        1          2           2   3
   2        2          1           3
   3        1          0
************************************************************************
REQUESTS/DURATIONS:
jobnr. mode duration  R 1  R 2
------------------------------------------------------------------------
  1      1     0       0    0
  2      1     4       3    5
         2     6       2    1
  3      1     2       1    1
************************************************************************
"""


def test_psplib_reads_precedence_demands_and_modes() -> None:
    tasks = parse_psplib(SM, watts_per_unit=10.0)
    assert tasks == (
        Task("1", 0, 0.0),
        Task("2", 4, 80.0, ("1",), ((4, 80.0), (6, 30.0))),
        Task("3", 2, 20.0, ("1", "2")),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("- renewable", "- nothing"), "not a PSPLIB file"),
        ((":  2   R", ":  x   R"), "count of resources"),
        (("   1        1          2", "   1        1          3"), "that many successors"),
        (("  3      1     2       1    1\n", ""), "only one of the two tables"),
        (("  1      1     0       0    0", "  1      1     0"), "wants a mode"),
        (("REQUESTS", "NOTHING"), "no rows under"),
        (("2   3\n", "2   x\n"), "whole numbers"),
        (("         2     6       2    1\n", ""), "job 2 has 1 modes where it should have 2"),
        (("- renewable", "projects : 2\n- renewable"), "row .*: wants one project"),
        (("REQUESTS", "PRECEDENCE RELATIONS\nREQUESTS"), "second project"),
    ],
)
def test_psplib_refuses(change: tuple[str, str], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse_psplib(SM.replace(*change))


def test_psplib_in_other_hands_writing() -> None:
    tasks = parse_psplib(SM)
    assert parse_psplib(SM.lower()) == tasks
    assert parse_psplib(SM.replace("\n", "\r\n ").replace("   ", "\t")) == tasks


def test_real_traces_read(data_dir: Path) -> None:
    folder = data_dir / "energy" / "mlperf_power"
    big = read_trace(folder / "gpt3_64node_run0.csv.gz")
    # The other GPT-3 run and the 64-node LoRA runs are alike, and most of all bytes.
    small = [read_trace(path) for path in sorted(folder.iterdir()) if "64node" not in path.name]
    assert len(small) >= 5
    for trace in (big, *small):
        assert (trace.power_w > 0).all()
        assert 0.5 < trace.period_s < 3.0
    assert len(big.ids) == 64
    assert big.shared_meters() == 30


def test_real_projects_read(data_dir: Path) -> None:
    for size, folder in ((32, "j30"), (62, "j60"), (122, "j120")):
        for path in (data_dir / "energy" / "psplib" / folder).iterdir():
            assert len(read_psplib(path)) == size
    with pytest.raises(FormatError, match=r"absent\.sm"):
        read_psplib("absent.sm")
