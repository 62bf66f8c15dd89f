"""The memory profiler and the leak test behind it."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.qtransformers import AdvancedMemoryProfiler
from qcluster.qtransformers.leaks import find_leak, rising_p_value
from qcluster.qtransformers.memory_report import MemoryReport
from qcluster.qtransformers.profiler import live_tensor_bytes

MB = 2**20


def noise(draw: np.random.Generator, n: int, memory: float = 0.0) -> np.ndarray:
    out = draw.normal(size=n)
    for t in range(1, n):
        out[t] = memory * out[t - 1] + np.sqrt(1 - memory**2) * out[t]
    return out


def warm_up(draw: np.random.Generator, n: int) -> np.ndarray:
    rise = 1 - np.exp(-np.arange(n) / draw.uniform(5, 30))
    return draw.uniform(4, 20) * rise + noise(draw, n)


def sawtooth(draw: np.random.Generator, n: int) -> np.ndarray:
    period = draw.integers(5, 41)
    phase = (np.arange(n) + draw.integers(period)) % period / period
    return draw.uniform(3, 10) * phase + noise(draw, n) * draw.choice([0.1, 1.0])


def collections(draw: np.random.Generator, n: int) -> np.ndarray:
    out, level, left = np.empty(n), 0.0, draw.integers(8, 31)
    rate = draw.uniform(0.1, 0.6)
    for t in range(n):
        level, left = level + rate * draw.exponential(), left - 1
        if not left:
            level, left = 0.0, draw.integers(8, 31)
        out[t] = level
    return out + noise(draw, n) * 0.5


NULLS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "white": noise,
    "correlated": lambda draw, n: noise(draw, n, 0.7),
    "warm-up": warm_up,
    "sawtooth": sawtooth,
    "collections": collections,
}


def share_of_leaks(pattern: str, slope: float, runs: int) -> float:
    draw = np.random.default_rng([runs, len(pattern)])
    made = (NULLS[pattern](draw, 200) + slope * np.arange(200) for _ in range(runs))
    return sum(find_leak(series).verdict == "leak" for series in made) / runs


@pytest.mark.parametrize("pattern", NULLS)
def test_false_alarms_stay_below_five_percent(pattern: str) -> None:
    # Seeded: the full 2,000 runs are in benchmarks/training.py.
    assert share_of_leaks(pattern, 0.0, 400) <= 0.05


@pytest.mark.parametrize("pattern", ["white", "correlated", "warm-up"])
def test_a_slow_leak_is_found(pattern: str) -> None:
    assert share_of_leaks(pattern, 0.05, 200) >= 0.95


def test_the_slope_is_that_of_the_leak() -> None:
    draw = np.random.default_rng(0)
    found = find_leak(1e6 + noise(draw, 300) * 100 + 37.0 * np.arange(300))
    assert found.verdict == "leak"
    assert found.slope_low <= 37.0 <= found.slope_high
    assert found.slope == pytest.approx(37.0, rel=0.1)


def test_growth_too_small_to_matter_is_no_leak() -> None:
    series = 1e6 + 3.0 * np.arange(300)
    assert find_leak(series).verdict == "leak"
    assert find_leak(series, smallest_slope=10.0).verdict == "no leak seen"


@pytest.mark.parametrize("series", [[], [1.0], np.zeros(50), np.arange(100.0)])
def test_short_series_cannot_tell(series: list[float]) -> None:
    found = find_leak(series)
    assert found.verdict == "cannot tell"
    assert "120" in found.reason


def test_a_flat_line_is_no_leak() -> None:
    assert find_leak(np.full(500, 7.0)).verdict == "no leak seen"


@pytest.mark.parametrize(
    ("values", "options", "field"),
    [
        ([1.0, np.nan], {}, "values"),
        ([[1.0], [2.0]], {}, "values"),
        ([1.0], {"level": 0.0}, "level"),
        ([1.0], {"smallest_slope": -1.0}, "smallest_slope"),
    ],
)
def test_bad_series_are_named(values: list[float], options: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=field):
        find_leak(values, **options)


@pytest.mark.parametrize("n", [3, 5, 6])
def test_p_values_equal_enumeration(n: int) -> None:
    def score(order: tuple[int, ...]) -> int:
        return sum(np.sign(b - a) for i, a in enumerate(order) for b in order[i + 1 :])

    every = [score(order) for order in permutations(range(n))]
    draw = np.random.default_rng(n)
    for _ in range(10):
        order = tuple(draw.permutation(n).tolist())
        expected = sum(other >= score(order) for other in every) / len(every)
        assert rising_p_value(order) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=9))
def test_p_values_are_chances_and_reversal_is_never_surer(floors: list[float]) -> None:
    forward, backward = rising_p_value(floors), rising_p_value(floors[::-1])
    assert 0 < forward <= 1
    assert forward + backward >= 1


def test_the_calls_of_the_documentation() -> None:
    profiler = AdvancedMemoryProfiler()
    with profiler.profile_block("attention_computation"):
        torch.randn(64, 64).softmax(-1)
    report = profiler.generate_report()
    assert report.blocks[0].name == "attention_computation"
    assert report.peak_bytes > 10 * MB
    assert report.blocks[0].leak.verdict == "cannot tell"


def test_torch_memory_on_the_cpu_is_seen() -> None:
    profiler = AdvancedMemoryProfiler()
    before = live_tensor_bytes()
    with profiler.profile_block("big"):
        held = torch.ones(8 * MB)
    assert profiler.generate_report().live_tensor_bytes - before >= 32 * MB
    del held
    assert live_tensor_bytes() - before < MB


def test_views_and_gradients_are_counted_once() -> None:
    before = live_tensor_bytes()
    weight = torch.nn.Parameter(torch.ones(MB))
    views = [weight[i:] for i in range(5)]
    weight.sum().backward()
    assert live_tensor_bytes() - before == pytest.approx(8 * MB, abs=4096)
    del views


def test_blocks_nest() -> None:
    profiler = AdvancedMemoryProfiler()
    with profiler.profile_block("outer"):
        for _ in range(3):
            with profiler.profile_block("inner"):
                pass
    calls = {block.name: block.calls for block in profiler.generate_report().blocks}
    assert calls == {"inner": 3, "outer": 1}


def test_exceptions_pass_and_are_measured() -> None:
    profiler = AdvancedMemoryProfiler()
    with pytest.raises(KeyError), profiler.profile_block("fails"):
        raise KeyError
    assert profiler.generate_report().blocks[0].calls == 1


def test_threads_lose_no_sample() -> None:
    profiler = AdvancedMemoryProfiler(track_tensors=False)

    def work(name: str) -> None:
        for _ in range(200):
            with profiler.profile_block(name), profiler.profile_block("shared"):
                pass

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = {block.name: block.calls for block in profiler.generate_report().blocks}
    assert calls == {"shared": 800, **{f"t{i}": 200 for i in range(4)}}


def test_a_leak_is_named() -> None:
    profiler = AdvancedMemoryProfiler(track_tensors=False)
    held = []
    for _ in range(200):
        with profiler.profile_block("leaks"):
            held.append(torch.ones(MB // 4))
    report = profiler.generate_report()
    assert report.leaks == ("leaks",)
    assert report.blocks[0].leak.slope == pytest.approx(MB, rel=0.1)


def test_memory_of_the_samples_is_bounded() -> None:
    profiler = AdvancedMemoryProfiler(track_tensors=False, keep=64)
    for _ in range(1000):
        profiler.sample()
    block = profiler.generate_report().blocks[0]
    assert block.calls == 1000
    assert 32 <= len(block.resident) <= 64
    steps = np.diff(block.times_s)
    assert (steps > 0).all()
    assert block.samples_every == 16


def test_python_allocations_on_request() -> None:
    assert AdvancedMemoryProfiler().generate_report().python_bytes is None
    profiler = AdvancedMemoryProfiler(trace_python=True)
    with profiler.profile_block("lists"):
        held = [[i] for i in range(50_000)]
    assert profiler.generate_report().python_peak_bytes > 2 * MB
    profiler.close()
    assert not tracemalloc.is_tracing()
    del held


def test_ratio_to_a_reference() -> None:
    profiler = AdvancedMemoryProfiler(reference_bytes=320 * MB)
    with profiler.profile_block("compressed"):
        held = torch.ones(8 * MB)
    assert profiler.generate_report().ratio_to_reference == pytest.approx(10, rel=0.05)
    del held


@pytest.mark.parametrize("options", [{"reference_bytes": 0}, {"keep": 3}])
def test_bad_sizes_are_named(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        AdvancedMemoryProfiler(**options)


def test_reports_go_through_json_and_into_a_page(tmp_path: Path) -> None:
    profiler = AdvancedMemoryProfiler()
    for _ in range(5):
        with profiler.profile_block("<b>"):
            pass
    report = profiler.generate_report()
    assert MemoryReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    page = report.to_html(tmp_path / "memory.html")
    assert (tmp_path / "memory.html").read_text() == page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    start, end = page.index("<svg"), page.index("</svg>") + 6
    drawing = ET.fromstring(page[start:end])
    assert len(drawing.find("polyline").get("points").split()) == 5
