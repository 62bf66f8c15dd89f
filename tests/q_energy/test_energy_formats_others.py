"""Power telemetry as others keep it: broken rows, other hands' CSV, counters, pipes, Prometheus."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest

from qcluster.errors import FormatError
from qcluster.q_energy import read_trace
from qcluster.q_energy.formats import parse_trace

SMI = "timestamp, index, power.draw [W]\n"
SMI_ROWS = "2026/01/01 00:00:0{0}.500, 0, 85.{0}0 W\n2026/01/01 00:00:0{0}.500, 1, 90.{0}0 W\n"


@pytest.mark.parametrize(
    ("text", "watts", "words"),
    [
        ("2026/01/01 00:00:02.500, 0, [N/A]\n", [85.1, 90.1], "row 4 first: there is no power"),
        ("2026/01/01 00:00:02.500, 0, [Unknown Error]\n", [85.1, 90.1], "no power reading"),
        ("2026/01/01 00:00:02.500, 0, N/A\n", [85.1, 90.1], "no power reading"),
        ("2026/01/01 00:0", [85.1, 90.1], "row 4 first: it is a message or cut"),
        ("2026/01/01 00:00:02.500, 0, 8", [85.1, 90.1], "row 4 first: the last line is cut"),
        ("Unable to determine the device handle: GPU is lost.\n", [85.1, 90.1], "a message"),
        (SMI + SMI_ROWS.format(2), [85.1, 85.2, 90.1, 90.2], "row 4 first: it repeats the header"),
    ],
)
def test_broken_rows_of_nvidia_smi_are_left_out_and_counted(
    text: str, watts: list[float], words: str
) -> None:
    trace = parse_trace(SMI + SMI_ROWS.format(1) + text)
    assert trace.power_w.tolist() == watts
    assert words in trace.warnings[0]


def test_gpus_of_nvidia_smi_go_by_index_serial_or_bus() -> None:
    rows = "2026/01/01 00:00:01, {}, 85 W, 91 W\n2026/01/01 00:00:01, {}, [N/A], 92 W\n"
    for name, texts in (("uuid", ("GPU-a", "GPU-b")), ("pci.bus_id", ("0:1B", "0:2B"))):
        head = f"timestamp, {name}, power.draw [W], power.draw.instant [W]\n"
        trace = parse_trace(head + rows.format(*texts), node="n")
        assert trace.ids == ("n/0", "n/1")
        assert trace.power_w.tolist() == [85, 92]
    lines = "2026/01/01 00:00:01, 85 W\n"
    assert parse_trace("timestamp, power.draw [W]\n" + lines).power_w.tolist() == [85]
    with pytest.raises(FormatError, match=r"row 3: one time, several GPUs"):
        parse_trace("timestamp, power.draw [W]\n" + 2 * lines)


def test_csv_of_other_places(tmp_path: Path) -> None:
    for text in (
        "ts_s;node;power_w\r\n0;a;300,5\r\n1;a;310\r\n",
        "# from a spreadsheet\nTime\tNode\tPower_W\n0\ta\t300.5\n1\ta\t310\n",
        "ts_s , node , power_w\n 0 , a , 300.5 \n1, a, 310\n2,a",
    ):
        trace = parse_trace(text)
        assert trace.ids == ("a",)
        assert trace.power_w.tolist() == [300.5, 310]
    path = tmp_path / "wide.csv"
    path.write_text("ts_s,node,power_w\n0,a,300\n", encoding="utf-16")
    assert read_trace(path).power_w.tolist() == [300]


def test_energy_counters_give_power_and_name_their_resets() -> None:
    trace = parse_trace("ts_s,gpu,energy_mj\n0,0,1000\n2,0,601000\n3,0,50\n4,0,300050\n")
    assert trace.power_w.tolist() == [300, 300]
    assert "row 4 first: the energy counter was reset" in trace.warnings[0]
    lines = '{"ts_s": 1, "node": "a", "energy_j": 5}\n{"ts_s": 3, "node": "a", "energy_j": 11}\n'
    assert parse_trace(lines).power_w.tolist() == [3]


def test_logs_of_mlperf_with_prefixes_and_broken_lines() -> None:
    event = '[1,0]<stdout>::::MLLOG {{"time_ms": {}, "key": "power_reading", "value": {}}}\n'
    text = "starting, up\nloading\n" + event.format(1000, 7) + event.format(2000, "null")
    text = text.partition("\n")[2] + '0: :::MLLOG {"key"\n' + event.format(3000, 8)
    trace = parse_trace(text)
    assert trace.power_w.tolist() == [7, 8]
    assert trace.ts_s.tolist() == [1, 3]
    assert len(trace.warnings) == 2
    meter = "Time,08-23-2021 20:34:2{}.124,Watts,{},Volts,229.5,Mark,a\n"
    trace = parse_trace(meter.format(1, "145.3") + meter.format(2, "-1.0") + "\nend\n")
    assert trace.power_w.tolist() == [145.3]
    assert len(trace.warnings) == 2
    with pytest.raises(FormatError, match=r"row 1.*'Watts': wants a number"):
        parse_trace(meter.format(1, "x"))


def test_documents_of_telemetry_without_power_pass() -> None:
    text = (
        '{"topology": {"nodes": []}}\n{"ts_s": 1, "node": "a", "gpu": 0, "sm_clock_mhz": 3}\n'
        '{"ts_s": 1, "node": "a", "gpu": 0, "power_w": null}\n'
        '{"ts_s": 2, "ids": ["a/0", "a/1"], "columns": {"power_w": [5, 6], "sm_clock_mhz": [1, 2]}}'
        '\n{"ts_s": 3, "node": "a", "gp'
    )
    trace = parse_trace(text)
    assert trace.ids == ("a/0", "a/1")
    assert trace.power_w.tolist() == [5, 6]
    assert [line.partition(": ")[2] for line in trace.warnings] == [
        "there is no power reading", "the last line is cut",
    ]  # fmt: skip
    listed = '[{"ts_s": 0, "node": "a", "power_w": 5},\n{"ts_s": 1, "node": "a", "power_w": 6}]'
    assert parse_trace(listed).power_w.tolist() == [5, 6]


def test_answers_of_prometheus() -> None:
    series = {"__name__": "DCGM_FI_DEV_POWER_USAGE", "Hostname": "h", "gpu": "3"}
    blank = [3, "9223372036854775794"]
    result = [
        {"metric": series, "values": [[1, "5"], [2.5, "6"], blank]},
        {"metric": {"__name__": "up"}, "values": [[1, "1"]]},
    ]
    trace = parse_trace(json.dumps({"status": "success", "data": {"result": result}}, indent=1))
    assert trace.ids == ("h/3",)
    assert trace.ts_s.tolist() == [1, 2.5]
    assert "no power reading" in trace.warnings[0]
    result[0]["values"] = ["x"]
    with pytest.raises(FormatError, match=r"row 1.*wants \[time, value\]"):
        parse_trace(json.dumps({"resultType": "matrix", "result": result}))
    with pytest.raises(FormatError, match="no series is a GPU's or node's power"):
        parse_trace(json.dumps({"resultType": "matrix", "result": result[1:]}))


def test_scrapes_with_times_and_of_several_exporters() -> None:
    line = 'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="{}"{}}} {}\n'
    here = ',Hostname="h"'
    text = line.format("G", here, "5 1000") + line.format("G", here, "6 2500")
    assert parse_trace(text).ts_s.tolist() == [1, 2.5]
    assert parse_trace(text.replace("2500", "2000.5") + "# EOF\n").ts_s.tolist() == [1000, 2000.5]
    again = parse_trace(2 * line.format("G", here, 5))
    assert "stands several times without a time" in again.warnings[0]
    two = line.format("G", here, 5) + line.format("H", here.replace("h", "i"), 6)
    assert parse_trace(two).ids == ("h/0", "i/0")
    with pytest.raises(FormatError, match="G and H are both GPU 'scrape/0'"):
        parse_trace(line.format("G", "", 5) + line.format("H", "", 6))
    moment = line.format("G", here, 5).replace("USAGE", "USAGE_INSTANT")
    assert parse_trace(moment).power_w.tolist() == [5]


def test_long_streams_keep_the_last_seconds_and_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcluster.q_energy.readings._MANY", 500)
    rows = (f"{t},{n},{900 if t == 7 else 300 + t % 5}\n" for t in range(2000) for n in "ab")
    text = "ts_s,node,power_w\n" + "".join(rows)
    lines = "".join(
        json.dumps({"ts_s": float(t), "node": n, "power_w": float(w)}) + "\n"
        for t, n, w in (row.split(",") for row in text.splitlines()[1:])
    )
    whole = parse_trace(text)
    for form in (text, lines):
        monkeypatch.setattr("qcluster.q_energy.format_csv._CHUNK", 100)
        short = parse_trace(form, last_s=30.0)
        assert len(short.power_w) < 700
        for index in range(2):
            times, watts = short.series(index)
            assert (times[0], watts[0]) == (7, 900)
            assert np.isin(np.arange(1970, 2000), times).all()
        shares = (0.5, 0.95)
        assert np.array_equal(short.quantiles(shares, 30.0), whole.quantiles(shares, 30.0))
    with pytest.raises(FormatError, match=r"row 3003.*runs backward by 1497 s"):
        parse_trace(text.replace("\n1500,b", "\n2,b"), last_s=30.0)


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(b"ts_s,node,power_w\n0,a,5\n0,b,6\n")
    text = io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed)))
    monkeypatch.setattr("sys.stdin", text)
    assert read_trace("-").ids == ("a", "b")
