"""Queues as inputs: ``queue.Queue``, ``multiprocessing.Queue`` and ``ray.util.queue.Queue``."""

from __future__ import annotations

import queue
from typing import Any

from qcluster.errors import InputError

__all__ = ["WAIT_S", "taken"]

WAIT_S = 60.0
"""Seconds that a queue may be empty."""


def taken(source: Any, wait_s: float = WAIT_S) -> Any:
    """The next item where ``source`` is a queue, else ``source`` itself.

    Raises InputError where nothing comes within ``wait_s``.
    """
    if not all(callable(getattr(source, name, None)) for name in ("get", "put", "qsize")):
        return source
    try:
        return source.get(timeout=wait_s)
    except queue.Empty:
        raise InputError(f"the queue was empty for {wait_s:g} s", field="queue") from None
