"""Queues as inputs of compress and decompress."""

from __future__ import annotations

import queue

import numpy as np
import pytest

from qcluster.codec.queues import taken
from qcluster.errors import InputError
from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress


def test_tensors_and_blobs_come_out_of_queues_in_order() -> None:
    tensors: queue.Queue[np.ndarray] = queue.Queue()
    blobs: queue.Queue[bytes] = queue.Queue()
    for number in range(3):
        tensors.put(np.full((4, 5), number, dtype=np.float32))
    for _ in range(3):
        blobs.put(compress(tensors))
    for number in range(3):
        assert np.array_equal(decompress(blobs, max_output_bytes=80), np.full((4, 5), number))


def test_an_empty_queue_is_said() -> None:
    with pytest.raises(InputError, match=r"empty for 0\.01 s"):
        taken(queue.Queue(), wait_s=0.01)


def test_what_is_no_queue_stays() -> None:
    for value in (np.arange(3), b"abc", {"get": 1}):
        assert taken(value) is value
