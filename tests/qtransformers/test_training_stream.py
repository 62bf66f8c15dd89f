"""Streams of rows: a window is held, the order is one, and reading goes on after a resume."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_worlds import StopAt, tiny

from qcluster.errors import InputError, SolverFailed
from qcluster.qtransformers.loop import TrainingLoop
from qcluster.qtransformers.order import GlobalOrder
from qcluster.qtransformers.stream import Stream


class Rows:
    """What the stream asks of a Ray data set, without Ray."""

    def __init__(self, size: int, says: int | None = None) -> None:
        self.size, self.says = size, size if says is None else says
        self.context = SimpleNamespace(execution_options=SimpleNamespace(preserve_order=False))

    def count(self) -> int:
        return self.says

    def iter_batches(self, batch_size: int, **_: Any) -> Iterator[dict[str, Any]]:
        for start in range(0, self.size, batch_size):
            ids = np.arange(start, min(start + batch_size, self.size))
            ragged = np.empty(len(ids), dtype=object)
            ragged[:] = [np.array([i % 17, 3, i % 5, 1]) for i in ids]
            yield {"input_ids": ragged, "labels": np.stack(list(ragged))}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 700), st.integers(1, 90))
def test_every_row_is_read_once_an_epoch_within_its_window(
    size: int, window: int, batch: int
) -> None:
    order, stream = GlobalOrder(size, batch, seed=3, window=window), Stream(Rows(size))
    for epoch in range(2):
        seen, read = [], epoch * size
        while read < (epoch + 1) * size:
            stream.passed(order.first_of_window(read))
            chosen = order.batch(read)
            assert stream.batch(chosen)["labels"][:, 0].tolist() == (chosen % 17).tolist()
            seen += chosen.tolist()
            read += len(chosen)
        assert sorted(seen) == list(range(size))
        assert max(abs(at - row) for at, row in enumerate(seen)) < order.window
    assert size <= stream.rows_pulled <= 2 * size
    assert stream.most_held <= 2 * order.window + batch + 2 * 256


def test_windows_over_everything_shuffle_as_if_there_were_none() -> None:
    for seen in (0, 50, 100, 150):
        assert np.array_equal(
            GlobalOrder(100, 7, window=500).batch(seen), GlobalOrder(100, 7).batch(seen)
        )


def test_a_run_on_a_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    config = {"max_steps": 30, "batch_size": 20, "shuffle_window": 100}

    def loop(**more: Any) -> TrainingLoop:
        return TrainingLoop(tiny(), Stream(Rows(400)), Stream(Rows(30)), config=config, **more)

    whole = loop().run()
    loop(directory=tmp_path, callbacks=[StopAt(13)]).run()
    rest = loop(directory=tmp_path)
    report = rest.run(resume=True)
    assert report.resumed_from == 13
    assert np.array_equal(report.losses, whole.losses)
    assert report.evaluations[-1] == whole.evaluations[-1]
    # What was seen is read past, and not kept.
    assert rest.train.rows_pulled == 400 + 200 + 56
    assert rest.train.most_held <= 2 * 100 + 256


def test_streams_travel_to_workers_without_their_place() -> None:
    stream = Stream(Rows(600))
    stream.batch(np.arange(300, 310))
    again = pickle.loads(pickle.dumps(stream))
    assert again.rows_pulled == 0
    assert again.batch(np.array([2]))["labels"].tolist() == [[2, 3, 2, 1]]


def test_rows_that_do_not_come_are_missed() -> None:
    with pytest.raises(SolverFailed, match="gave 40 rows where it had counted 50"):
        Stream(Rows(40, says=50)).batch(np.array([45]))
    with pytest.raises(InputError, match="no samples"):
        Stream(Rows(0))
