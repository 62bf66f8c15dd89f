"""Router traces: what a model's gates decided, stored and played back.

A trace holds the experts of every token in every layer and, where the recorder saw them, gate
weights, full gate logits and hidden states. It is stored as npz: ``expert_ids`` (tokens, layers,
k), ``num_experts``, and perhaps ``gate_weight`` (same shape; or ``gate_w1e4``, ten thousandths),
``logits`` (tokens, layers, experts), ``hidden`` (tokens, layers, width) and ``seq_len``
(sequences,), the tokens of each sequence in order. It knows nothing of placements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.csv_table import read_rows
from qcluster.errors import FormatError, InputError
from qcluster.q_routing.formats import count_picks, read_arrays
from qcluster.q_routing.problem import count
from qcluster.text_file import read_text

__all__ = ["Arrivals", "Trace", "Window", "read_arrivals", "replay"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trace:
    """Router decisions of ``tokens`` tokens in ``layers`` layers.

    ``expert_ids`` (tokens, layers, k); ``gate_weight`` the same shape; ``logits`` (tokens, layers,
    num_experts); ``hidden`` (tokens, layers, width) what the gates saw; ``seq_len`` (sequences,).
    What was not recorded is None.
    """

    expert_ids: Ints
    num_experts: int
    gate_weight: Floats | None = None
    logits: Floats | None = None
    hidden: Floats | None = None
    seq_len: Ints | None = None

    def __post_init__(self) -> None:
        ids = np.asarray(self.expert_ids)
        if ids.dtype.kind not in "iu" or ids.ndim != 3 or 0 in ids.shape:
            message = f"wants whole numbers (tokens, layers, k), got {ids.dtype} of {ids.shape}"
            raise InputError(message, field="expert_ids")
        experts = count(self.num_experts, "num_experts")
        if ids.min() < 0 or ids.max() >= experts:
            raise InputError(f"holds an expert outside 0 to {experts - 1}", field="expert_ids")
        object.__setattr__(self, "expert_ids", ids.astype(np.int64))
        self._take("gate_weight", ids.shape)
        self._take("logits", (*ids.shape[:2], experts))
        self._take("hidden", (*ids.shape[:2], None))
        if self.seq_len is not None:
            lengths = np.asarray(self.seq_len)
            if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or (lengths < 1).any():
                raise InputError("wants lengths of at least 1", field="seq_len")
            if int(lengths.sum()) != len(ids):
                message = f"adds up to {int(lengths.sum())} tokens of {len(ids)}"
                raise InputError(message, field="seq_len")
            object.__setattr__(self, "seq_len", lengths.astype(np.int64))

    def _take(self, name: str, shape: tuple[int | None, ...]) -> None:
        """Hold an array as float32 after a look at its shape (None: any size) and values."""
        if (given := getattr(self, name)) is None:
            return
        array = np.asarray(given)
        fits = array.ndim == len(shape) and all(
            b is None or a == b for a, b in zip(array.shape, shape, strict=True)
        )
        if array.dtype.kind not in "iuf" or not fits:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            message = f"wants numbers ({wanted}), got {array.dtype} of {array.shape}"
            raise InputError(message, field=name)
        if not np.isfinite(array).all():
            raise InputError("holds a value that is not finite", field=name)
        object.__setattr__(self, name, array.astype(np.float32))

    def __len__(self) -> int:
        return len(self.expert_ids)

    @property
    def load(self) -> NDArray[np.float64]:
        """(layers, num_experts) how often each expert was picked."""
        return count_picks(self.expert_ids, self.num_experts)

    def part(self, begin: int, end: int) -> Trace:
        """Tokens ``begin`` to ``end`` of it; sequences are cut at the edges."""
        lengths = None
        if self.seq_len is not None:
            edge = np.concatenate([[0], np.cumsum(self.seq_len)])
            lengths = np.diff(np.unique(np.clip(edge, begin, min(end, len(self)))))
        arrays = (self.gate_weight, self.logits, self.hidden)
        weight, logits, hidden = (None if a is None else a[begin:end] for a in arrays)
        ids = self.expert_ids[begin:end]
        return Trace(ids, self.num_experts, weight, logits, hidden, lengths)

    def write(self, path: str | Path) -> None:
        """Store it as npz; readers see the old file or the whole new one.

        Ids take the smallest type that holds them, floats two bytes each.
        """
        small = np.min_scalar_type(self.num_experts - 1)
        arrays: dict[str, NDArray[Any]] = {
            "expert_ids": self.expert_ids.astype(small),
            "num_experts": np.array(self.num_experts),
        }
        for name in ("gate_weight", "logits", "hidden"):
            if (array := getattr(self, name)) is not None:
                limit = float(np.finfo(np.float16).max)
                fits = np.abs(array).max(initial=0.0) <= limit
                arrays[name] = array.astype(np.float16) if fits else array
        if self.seq_len is not None:
            arrays["seq_len"] = self.seq_len.astype(np.int32)
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        except OSError as error:
            raise FormatError(error.strerror or "cannot be written", file=path) from None

    @classmethod
    def read(cls, path: str | Path, num_experts: int | None = None) -> Trace:
        """A trace from its file; ``num_experts`` where the file does not say it.

        Raises FormatError naming file and array.
        """
        arrays = read_arrays(Path(path))
        if "expert_ids" not in arrays:
            raise FormatError("holds no expert_ids", file=path)
        ids = arrays["expert_ids"]
        if "num_experts" in arrays:
            stored = arrays["num_experts"]
            if stored.shape != () or stored.dtype.kind not in "iu":
                raise FormatError("wants one whole number", file=path, field="num_experts")
            num_experts = int(stored)
        elif num_experts is None:
            num_experts = int(ids.max(initial=0)) + 1 if ids.dtype.kind in "iu" else 1
        weight = arrays.get("gate_weight")
        if weight is None and "gate_w1e4" in arrays:
            weight = arrays["gate_w1e4"].astype(np.float32) / 1e4
        try:
            return cls(
                ids, num_experts, weight, arrays.get("logits"), arrays.get("hidden"),
                arrays.get("seq_len"),
            )  # fmt: skip
        except InputError as error:
            raise error.at(file=path) from None


@dataclass(frozen=True, eq=False)
class Arrivals:
    """When requests came and how many tokens each had: ``ts_s`` (n,) rising, ``tokens`` (n,)."""

    ts_s: NDArray[np.float64]
    tokens: Ints


def read_arrivals(path: str | Path) -> Arrivals:
    """Requests of a public trace: CSV with TIMESTAMP, ContextTokens and GeneratedTokens (Azure),
    or JSON lines with timestamp in ms, input_length and output_length (Mooncake); perhaps gzipped.

    Times count from the first request. Raises FormatError naming file and row.
    """
    path = Path(path)
    text = read_text(path)
    lines = text.lstrip()[:1] == "{"
    rows: Any = enumerate(text.splitlines(), 1) if lines else _table(text, path)
    times, tokens = [], []
    for number, row in rows:
        try:
            ts, size = _json_request(row) if lines else _csv_request(row)
        except (KeyError, TypeError, ValueError) as error:
            message = f"is no request: {type(error).__name__} {error}"
            raise FormatError(message, file=path, row=number) from None
        if not np.isfinite(ts) or size < 0:
            raise FormatError("has a time or a length out of range", file=path, row=number)
        times.append(ts)
        tokens.append(size)
    if not times:
        raise FormatError("holds no requests", file=path)
    order = np.argsort(times, kind="stable")
    ts_s = np.asarray(times)[order]
    return Arrivals(ts_s - ts_s[0], np.asarray(tokens, dtype=np.int64)[order])


def _table(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV by the names of its header, as far as both go."""
    (_, first), *table = read_rows(text, file=path) or [(1, [])]
    header = [name.strip() for name in first]
    for number, cells in table:
        yield number, dict(zip(header, cells, strict=False))


def _json_request(line: str) -> tuple[float, int]:
    row = json.loads(line)
    return float(row["timestamp"]) / 1e3, int(row["input_length"]) + int(row["output_length"])


def _csv_request(row: dict[str, str]) -> tuple[float, int]:
    stamp = row["TIMESTAMP"].strip()
    # Seven decimals of a second are one more than datetime reads.
    whole, _, fraction = stamp.partition(".")
    ts = datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")
    return ts, int(row["ContextTokens"]) + int(row["GeneratedTokens"])


@dataclass(frozen=True, eq=False)
class Window:
    """What came between ``ts_s`` and the next window: picks (tokens, layers, k) and their load."""

    ts_s: float
    expert_ids: Ints
    load: NDArray[np.float64]


def replay(
    trace: Trace,
    *,
    window: int = 1000,
    arrivals: Arrivals | None = None,
    window_s: float = 10.0,
    speed: float = 1.0,
) -> Iterator[Window]:
    """Play a trace back as windows of load.

    Without ``arrivals``, ``window`` tokens each, one a second. With them, windows of ``window_s``
    seconds: each request takes as many tokens as it had from the trace, which starts over when it
    is used up; ``speed`` > 1 lets requests come faster. Windows without tokens are left out.

    Raises InputError when the trace is shorter than a window, or a time is not above 0.
    """
    for name, value in (("window_s", window_s), ("speed", speed)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"wants a number above 0, got {value}", field=name)
    if arrivals is None:
        size = count(window, "window")
        if len(trace) < size:
            raise InputError(f"the trace holds {len(trace)} tokens", field="window")
        for i in range(len(trace) // size):
            picks = trace.expert_ids[i * size : (i + 1) * size]
            yield Window(float(i), picks, count_picks(picks, trace.num_experts))
        return
    number = (arrivals.ts_s / speed // window_s).astype(np.int64)
    position = 0
    for n in np.unique(number):
        size = int(arrivals.tokens[number == n].sum())
        if size:
            picks = trace.expert_ids[np.arange(position, position + size) % len(trace)]
            position = (position + size) % len(trace)
            yield Window(float(n * window_s), picks, count_picks(picks, trace.num_experts))
