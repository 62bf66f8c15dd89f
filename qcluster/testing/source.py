"""What every telemetry source must do. Subclass in a test module and give it a source:

    class TestMySource(SourceConformance):
        def open(self) -> Source:
            return MySource("argument")

Needs pytest to run, but imports nothing of it. Each check opens a source of its own and closes it;
``batches`` is how many are looked at, ``seconds`` how long they may take to come.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import threading
import time
from typing import Any, ClassVar

import numpy as np

from qcluster.telemetry.ring import Ring
from qcluster.telemetry.schema import METRICS, Batch
from qcluster.telemetry.sources import Source

__all__ = ["SourceConformance"]


class SourceConformance:
    """Batches are well formed, in order of time, named, serialisable; the event loop stays free."""

    batches: ClassVar[int] = 5
    seconds: ClassVar[float] = 20.0
    simulated: ClassVar[bool] = False
    """Whether its batches must say that they are simulated."""
    blocking_s: ClassVar[float] = 0.5
    """The longest that one turn of the source may hold up everybody else on the event loop."""

    def open(self) -> Source:
        """A fresh source."""
        raise NotImplementedError

    def collect(self) -> list[Batch]:
        """The first batches; fewer where the source ends by itself."""

        async def take() -> list[Batch]:
            out: list[Batch] = []
            stream: Any = self.open().batches()
            try:
                while len(out) < self.batches:
                    out.append(await anext(stream))
            except StopAsyncIteration:
                pass
            finally:
                await stream.aclose()
            return out

        async def limited() -> list[Batch]:
            return await asyncio.wait_for(take(), self.seconds)

        return asyncio.run(limited())

    def test_it_has_a_name_and_batches_carry_one(self) -> None:
        assert self.open().name
        assert all(batch.source for batch in self.collect())

    def test_it_says_whether_it_is_simulated(self) -> None:
        assert {batch.simulated for batch in self.collect()} == {self.simulated}

    def test_time_is_in_seconds_finite_and_does_not_run_backwards(self) -> None:
        stamps = [batch.ts_s for batch in self.collect()]
        assert stamps, "no batch came"
        assert all(math.isfinite(ts) and 0 <= ts < 1e11 for ts in stamps)
        assert stamps == sorted(stamps)

    def test_periods_are_positive(self) -> None:
        assert all(0 < batch.period_s < 1e6 for batch in self.collect())

    def test_blocks_hold_known_metrics_of_their_entity(self) -> None:
        for batch in self.collect():
            for block in batch.blocks:
                shape = (len(block.ids), len(block.metrics))
                assert block.values.shape == block.quality.shape == shape
                assert block.values.dtype == np.float64
                assert block.quality.dtype == np.uint8
                assert len(set(block.ids)) == len(block.ids)
                assert len(set(block.metrics)) == len(block.metrics)
                assert all(METRICS[name].entity == block.entity for name in block.metrics)

    def test_values_are_possible_and_nan_has_a_reason(self) -> None:
        for batch in self.collect():
            for block in batch.blocks:
                low = np.array([METRICS[name].low for name in block.metrics])
                high = np.array([METRICS[name].high for name in block.metrics])
                missing = np.isnan(block.values)
                assert (block.quality[missing] > 0).all()
                assert (missing | ((block.values >= low) & (block.values <= high))).all()

    def test_expert_loads_are_counts_of_layers_and_experts(self) -> None:
        for batch in self.collect():
            if batch.expert_load is not None:
                assert batch.expert_load.ndim == 2
                assert np.isfinite(batch.expert_load).all()
                assert (batch.expert_load >= 0).all()

    def test_ids_belong_to_the_topology_that_it_describes(self) -> None:
        ring = Ring()
        for batch in self.collect():
            ring.add(batch)
        assert ring.unknown_rows == 0
        assert ring.snapshot().to_dict()

    def test_batches_cross_processes_unchanged(self) -> None:
        for batch in self.collect():
            assert pickle.loads(pickle.dumps(batch)) == batch
            assert Batch.from_dict(json.loads(json.dumps(batch.to_dict()))) == batch

    def test_it_leaves_the_event_loop_free(self) -> None:
        async def watch() -> float:
            worst, done = 0.0, asyncio.Event()

            async def tick() -> None:
                nonlocal worst
                while not done.is_set():
                    before = time.monotonic()
                    await asyncio.sleep(0.005)
                    worst = max(worst, time.monotonic() - before)

            ticking = asyncio.create_task(tick())
            stream: Any = self.open().batches()
            try:
                for _ in range(self.batches):
                    await anext(stream)
            except StopAsyncIteration:
                pass
            finally:
                await stream.aclose()
                done.set()
                await ticking
            return worst

        assert asyncio.run(watch()) < self.blocking_s

    def test_it_can_be_cancelled_while_it_waits_and_leaves_no_thread(self) -> None:
        before = threading.active_count()

        async def cancel() -> None:
            stream: Any = self.open().batches()
            reader = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await stream.aclose()

        asyncio.run(cancel())
        assert threading.active_count() <= before
