"""Prometheus text: value for value what the reference parser reads; bad lines are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from qcluster.errors import FormatError
from qcluster.telemetry.sources.exposition import Reader


def reference(text):
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def assert_same(text, reader=None):
    ours, theirs = (reader or Reader()).parse(text), reference(text)
    order = sorted(range(len(theirs)), key=lambda i: (theirs[i].name, str(theirs[i].labels)))
    mine = sorted(range(len(ours.series)),
                  key=lambda i: (ours.series[i].name, str(ours.series[i].labels)))  # fmt: skip
    assert [(ours.series[i].name, ours.series[i].labels) for i in mine] == [
        (theirs[i].name, theirs[i].labels) for i in order
    ]
    np.testing.assert_array_equal(ours.values[mine], [theirs[i].value for i in order])
    stamps = [theirs[i].timestamp for i in order]
    np.testing.assert_array_equal(ours.ts_s[mine], [math.nan if t is None else t for t in stamps])


def test_a_real_ray_scrape_value_for_value(data_dir):
    text = (data_dir / "ray" / "ray-2.60-metrics.prom").read_text()
    reader = Reader()
    assert_same(text, reader)
    assert_same(text, reader)
    assert len(reader.parse(text).series) == 1663


def test_a_real_dcgm_scrape_value_for_value(data_dir):
    assert_same((data_dir / "ray" / "dcgm-sample.prom").read_text())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n# a comment\n",
        "up 1",
        "up 1\n",
        "up  1 \n",
        "up\t1\n",
        "up{} 1\n",
        'up{a="b"} 1 1700000000123\n',
        'up{a="b",} 1\n',
        'up{a="b", c="d"} 1\n',
        'up { a = "b" } 1\n',
        'up{a="}"} 1\n',
        'up{a="x y # z"} 1\n',
        'up{a="q\\"uote",b="back\\\\slash",c="new\\nline"} 1\n',
        'up{a=""} 1\n',
        'up{a="ü{,="} 1\n',
        "up NaN\nup2 +Inf\nup3 -Inf\nup4 1e+06\nup5 -0.0\nup6 1e-320\n",
        "up 9223372036854775794\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 3\nh_count 3\nh_sum 1.5\n",
        "ns:rule:sum 4\n",
    ],
)  # fmt: skip
def test_all_forms_of_lines(text):
    assert_same(text)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("up 1\nup\n", 2),
        ("up one\n", 1),
        ("up 1\nup 1_000\n", 2),
        ('up{a="b} 1\n', 1),
        ('up{a=b} 1\n', 1),
        ('up{a="b" 1\n', 1),
        ('up{a="1",a="2"} 1\n', 1),
        ("9up 1\n", 1),
        ("up 1 2 3\n", 1),
        ("<html>not found</html>\n", 1),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(text, row):
    with pytest.raises(FormatError, match=f"row {row}"):
        Reader().parse(text)


def test_a_bad_number_in_a_known_series_is_named_too():
    reader = Reader()
    reader.parse("a 1\nb 2\n")
    for text in ("a 1\nb x\n", "a 1\nb 1_0\n"):
        with pytest.raises(FormatError, match="row 2"):
            reader.parse(text)


def test_a_series_is_one_object_from_scrape_to_scrape():
    reader = Reader()
    first, second = reader.parse('a{x="1"} 1\n'), reader.parse('a{x="1"} 2\n')
    assert first.series[0] is second.series[0]
    assert second.values.tolist() == [2]


def test_series_that_are_no_longer_sent_are_forgotten(monkeypatch):
    monkeypatch.setattr("qcluster.telemetry.sources.exposition.MIN_KNOWN", 10)
    reader = Reader()
    for pod in range(500):
        scrape = reader.parse(f'up{{pod="{pod}"}} {pod}\nup 1\n')
        assert scrape.values.tolist() == [pod, 1]
        assert scrape.series[0].labels == {"pod": str(pod)}
        assert len(reader._known) <= 20


def test_the_number_of_series_is_bounded(monkeypatch):
    monkeypatch.setattr("qcluster.telemetry.sources.exposition.MAX_SERIES", 10)
    with pytest.raises(FormatError, match="more than 10 series"):
        Reader().parse("".join(f"up{i} 1\n" for i in range(11)))


names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,6}", fullmatch=True)
label_names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "))


def escape(text):
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(names, st.dictionaries(label_names, texts, max_size=3), st.floats()), max_size=6
    )
)
def test_whatever_is_written_reads_back(rows):
    lines = []
    for name, labels, value in rows:
        inside = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value!r}")
    scrape = Reader().parse("\n".join(lines))
    assert [(s.name, s.labels) for s in scrape.series] == [(n, d) for n, d, _ in rows]
    np.testing.assert_array_equal(scrape.values, [v for _, _, v in rows])
