"""Pushed samples: every form, and each way to be wrong named in one line."""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import FormatError, InputError
from qcluster.telemetry import METRICS, Batch, Quality, Ring, open_source
from qcluster.telemetry.sources.push import Push, parse_samples

NOW = 1_700_000_000.0


def parse(data):
    return parse_samples(data, now=NOW)


def test_a_wide_sample():
    (batch,) = parse({"ts_s": NOW, "node": "a", "gpu": 0, "power_w": 512.0, "sm_clock_mhz": 1980})
    (block,) = batch.blocks
    assert (batch.source, batch.ts_s, batch.simulated) == ("push", NOW, False)
    assert (block.entity, block.ids) == ("gpu", ("a/0",))
    assert dict(zip(block.metrics, block.values[0], strict=True)) == {
        "power_w": 512.0,
        "sm_clock_mhz": 1980.0,
    }
    assert not block.quality.any()


def test_lines_of_one_time_become_one_batch_and_times_are_sorted():
    lines = [
        {"ts_s": NOW - 1, "node": "a", "gpu": 1, "power_w": 2},
        {"ts_s": NOW - 2, "node": "a", "node_power_w": 900},
        {"ts_s": NOW - 1, "node": "a", "gpu": 0, "power_w": 1},
        {"ts_s": NOW - 1, "link": "a/0->s", "link_up": 1},
    ]
    first, second = parse("\n".join(map(json.dumps, lines)).encode())
    assert first.ts_s == NOW - 2
    assert {block.entity: block.ids for block in second.blocks} == {
        "gpu": ("a/1", "a/0"),
        "link": ("a/0->s",),
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"node": "a", "gpu": 0, "power_w": 1}',
        '[{"node": "a", "gpu": 0, "power_w": 1}]',
        '{\n "node": "a",\n "gpu": 0, "power_w": 1\n}\n',
        '\n{"node": "a", "gpu": 0, "power_w": 1}\n\n',
    ],
    ids=["object", "list", "pretty", "lines"],
)
def test_every_layout_of_json(text):
    (batch,) = parse(text)
    assert batch.ts_s == NOW, "now, where no time was given"
    assert batch.blocks[0].values[0, 0] == 1


def test_columns_with_null_for_missing():
    (batch,) = parse(
        {"entity": "gpu", "ts_s": NOW, "ids": ["a/0", "a/1"], "columns": {"power_w": [512, None]}}
    )
    block = batch.blocks[0]
    np.testing.assert_array_equal(block.values, [[512], [np.nan]])
    assert block.quality.tolist() == [[0], [Quality.MISSING]]


def test_expert_load_topology_jobs_and_events():
    (batch,) = parse(
        [
            {"expert_load": [[3, 1], [2, 2]]},
            {"expert_load": [[1, 0], [0, 1]]},
            {"topology": {"nodes": [{"id": "a", "gpus": 2}]}},
            {"jobs": [{"id": "j", "gpus": 2}]},
            {"event": {"kind": "alarm", "subject": "a/0", "detail": "hot"}},
        ]
    )
    np.testing.assert_array_equal(batch.expert_load, [[4, 1], [2, 3]])
    assert batch.topology.gpu_ids == ("a/0", "a/1")
    assert batch.jobs[0].id == "j"
    assert (batch.events[0].kind, batch.events[0].ts_s) == ("alarm", NOW)


def test_what_is_pushed_shows_in_a_snapshot():
    ring = Ring()
    for batch in parse({"topology": {"nodes": [{"id": "a", "gpus": 1}]}}) + parse(
        {"node": "a", "gpu": 0, "power_w": 7}
    ):
        ring.add(batch)
    assert ring.snapshot().gpu["power_w"][0] == 7


def test_blanks_and_impossible_values_are_marked_not_refused():
    (batch,) = parse(
        {"node": "a", "gpu": 0, "temperature_c": 9223372036854775794, "power_w": -5, "up": None}
    )
    marks = dict(zip(batch.blocks[0].metrics, batch.blocks[0].quality[0].tolist(), strict=True))
    assert marks == {
        "temperature_c": Quality.SENTINEL,
        "power_w": Quality.RANGE,
        "up": Quality.MISSING,
    }
    assert np.isnan(batch.blocks[0].values).all()


def test_a_fast_clock_is_set_back_and_marked():
    (batch,) = parse({"ts_s": NOW + 3600, "node": "a", "gpu": 0, "power_w": 5})
    assert batch.ts_s == NOW
    assert batch.blocks[0].quality[0, 0] == Quality.SKEW


def test_the_first_of_two_values_stays():
    sample = {"ts_s": NOW, "node": "a", "gpu": 0}
    (batch,) = parse([{**sample, "power_w": 1}, {**sample, "power_w": 2}])
    assert batch.blocks[0].values[0, 0] == 1
    assert batch.blocks[0].quality[0, 0] == Quality.DUPLICATE


GOOD = {"ts_s": NOW, "node": "a", "gpu": 0, "power_w": 1}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "no samples"),
        (b"[]", "no samples"),
        (b"null", "JSON object"),
        (b'"text"', "JSON object"),
        (b"[1]", "row 1"),
        (b"{", "not JSON"),
        (b'{"node": "a"', "not JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"node":"a","gpu":0,"power_w":NaN}', "NaN"),
        (b'{"node":"a","gpu":0,"power_w":Infinity}', "Infinity"),
        (b'{"node":"a","gpu":0,"power_w":1e400}', "power_w.*finite"),
        (b'{"node":"a","gpu":0,"power_w":1' + b"0" * 400 + b"}", "power_w.*finite"),
        (b'{"node":"a","gpu":0,"power_w":1' + b"0" * 6000 + b"}", "JSON"),
        (b'{"node":"a","gpu":0,"power_w":true}', "power_w.*number"),
        (b'{"node":"a","gpu":0,"power_w":"512"}', "power_w.*number"),
        (b'{"node":"a","gpu":0,"power_w":[1]}', "power_w.*number"),
        (b'{"node":"a","gpu":0,"power_mw":512000}', "power_mw.*power_w"),
        (b'{"node":"a","power_w":5}', "power_w.*mean node_power_w, or is 'gpu' missing"),
        (b'{"node":"a","gpu":0,"sm_clock_hz":1e9}', "sm_clock_hz.*sm_clock_mhz"),
        (b'{"node":"a","gpu":0,"colour":1}', "colour"),
        (b'{"node":"a","gpu":0,"node_power_w":1}', "node_power_w"),
        (b'{"node":"a","gpu":true,"power_w":1}', "gpu.*index"),
        (b'{"node":"a","gpu":-1,"power_w":1}', "gpu.*index"),
        (b'{"node":"a","gpu":0.5,"power_w":1}', "gpu.*index"),
        (b'{"gpu":0,"power_w":1}', "node"),
        (b'{"node":"","gpu":0,"power_w":1}', "node"),
        (b'{"node":7,"gpu":0,"power_w":1}', "node"),
        (b'{"node":"\\ud800","gpu":0,"power_w":1}', "node.*printable"),
        (b'{"node":"a","node":"b","gpu":0}', "node.*twice"),
        (b'{"ts_s":null,"node":"a","gpu":0}', "ts_s"),
        (b'{"ts_s":-1,"node":"a","gpu":0}', "ts_s"),
        (b'{"ts_s":1700000000000,"node":"a","gpu":0}', "ts_s.*seconds"),
        (b'{"entity":"rack","ids":["a"],"columns":{"power_w":[1]}}', "entity"),
        (b'{"entity":"gpu","ids":[],"columns":{"power_w":[]}}', "ids"),
        (b'{"entity":"gpu","ids":["a","a"],"columns":{"power_w":[1,2]}}', "ids.*twice"),
        (b'{"entity":"gpu","ids":["a"],"columns":{"power_w":[1,2]}}', "power_w.*1 numbers"),
        (b'{"entity":"gpu","ids":["a"],"columns":{"power_w":[true]}}', "power_w"),
        (b'{"entity":"gpu","ids":["a"],"columns":{"power_w":[1e999]}}', "power_w.*finite"),
        (b'{"entity":"gpu","ids":["a"],"columns":{"power_kw":[1]}}', "power_kw.*power_w"),
        (b'{"entity":"gpu","ids":["a"],"columns":{}}', "columns"),
        (b'{"entity":"gpu","ids":["a"],"columns":{"power_w":[1]},"x":1}', "'x'"),
        (b'{"expert_load":[]}', "expert_load"),
        (json.dumps({"expert_load": [[1] * 1025] * 1024}).encode(), "expert_load.*more than"),
        (b'{"expert_load":[[1,2],[3]]}', "expert_load.*differ"),
        (b'{"expert_load":[[1,-2]]}', "expert_load.*at least 0"),
        (b'{"expert_load":[[1,null]]}', "expert_load"),
        (b'{"topology":{"nodes":[{"id":"a","gpus":true}]}}', "topology.*gpus"),
        (b'{"topology":[]}', "topology"),
        (b'{"topology":{"nodes":[{"id":"a","gpus":1,"clocks_mhz":5}]}}', "topology"),
        (b'{"jobs":[{"id":"j","gpus":0}]}', "jobs.*gpus"),
        (b'{"event":{"kind":"party","subject":"a"}}', "event.kind"),
        (b'{"event":{"kind":"alarm"}}', "event.subject"),
        (b'{"event":[]}', "event"),
        (b"[" * 200_000, "deep|JSON"),
        (b'{"a":' * 200_000, "deep|JSON"),
    ],
    ids=range(55),
)
def test_bad_input_gives_one_clear_line(data, named):
    with pytest.raises(FormatError, match=named) as error:
        parse(data)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_errors_name_the_line():
    text = "\n".join([json.dumps(GOOD), "", json.dumps({**GOOD, "power_w": True})])
    with pytest.raises(FormatError, match="field 'power_w'"):
        parse(text)
    with pytest.raises(FormatError, match="row 3"):
        parse(json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n{broken")


def test_lines_end_where_json_says():
    name = "a\u2003b\ufffd"
    lines = [json.dumps({**GOOD, "node": "a"}), json.dumps({**GOOD, "gpu": 1}, ensure_ascii=False)]
    (batch,) = parse(("\r\n".join(lines) + "\r\n").encode())
    assert batch.blocks[0].ids == ("a/0", "a/1")
    with pytest.raises(FormatError, match=r"row 1.*printable"):
        parse(json.dumps({**GOOD, "node": name + "\u2028"}, ensure_ascii=False) + "\n" + lines[0])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b',"k99999":1}', "k99999"),
        (b'{"a":1}\n' * 200_000, "row 1,"),
        (b"[" + b"[" * 1_000_000, "deep"),
    ],
    ids=["twin", "lines", "deep"],
)
def test_large_nonsense_is_refused_at_its_first_fault(data, says):
    with pytest.raises(FormatError, match=says):
        parse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fields = st.sampled_from(
    ["ts_s", "node", "gpu", "link", "entity", "ids", "columns", "expert_load", "topology", "jobs",
     "event", "power_w", "nodes", "id", "gpus"]
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(fields, json_values | st.dictionaries(fields, json_values), max_size=5))
def test_whatever_comes_is_taken_or_refused_in_one_line(document):
    try:
        outcome = parse(json.dumps(document))
    except InputError as error:
        outcome = str(error)
    assert "\n" not in outcome if isinstance(outcome, str) else isinstance(outcome[0], Batch)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([m.name for m in METRICS.values() if m.entity == "gpu"]),
        st.floats(0, 1),
        min_size=1,
    )
)
def test_wide_and_columns_say_the_same(values):
    (wide,) = parse({"ts_s": NOW, "node": "a", "gpu": 3, **values})
    (tall,) = parse(
        {
            "ts_s": NOW,
            "entity": "gpu",
            "ids": ["a/3"],
            "columns": {k: [v] for k, v in values.items()},
        }
    )
    assert wide.blocks == tall.blocks


def test_the_source_delivers_in_order_and_drops_the_oldest_when_full():
    async def scenario():
        source = Push(queue=2)
        assert source.offer(Batch(source="x", ts_s=1.0))
        assert source.offer(Batch(source="x", ts_s=2.0))
        assert not source.offer(Batch(source="x", ts_s=3.0))
        source.close()
        return source.dropped, [batch.ts_s async for batch in source.batches()]

    assert asyncio.run(scenario()) == (1, [2.0, 3.0])


def test_the_source_waits_for_what_comes_later():
    async def scenario():
        source = Push()
        reader = asyncio.ensure_future(anext(source.batches()))
        await asyncio.sleep(0)
        source.offer(Batch(source="x", ts_s=4.0))
        return await reader

    assert asyncio.run(scenario()).ts_s == 4.0


def test_push_takes_no_argument():
    assert open_source("push").name == "push"
    with pytest.raises(InputError, match="no argument"):
        open_source("push:now")


def test_now_is_the_clock():
    before = time.time()
    (batch,) = parse_samples({"node": "a", "gpu": 0, "power_w": 5})
    assert before <= batch.ts_s <= time.time()
