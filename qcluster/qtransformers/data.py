"""Data sets as the loop reads them: a length, and a batch of tensors for a list of indices.

Torch's map-style data sets, tables of columns, plain lists and Ray Data (``stream.py``) are all
turned into a ``Source``. What has no length (streams without an end) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcluster.errors import InputError
from qcluster.qtransformers.stream import Stream

__all__ = ["Batch", "Collate", "Columns", "Items", "Source", "TokenWindows", "as_source"]

Batch = dict[str, Tensor]
Collate = Callable[[list[Any]], Mapping[str, Tensor]]


class Source(Protocol):
    """Random access to batches."""

    labels_a_sample: int | None
    """How many labels the loss of one sample is the mean of, where that is the same for all."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Tensors by name, each with ``len(indices)`` rows."""
        ...


class Columns:
    """Tensors of equal length by name.

    Raises InputError for no columns or columns of unequal length.
    """

    labels_a_sample: int | None = None

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self.columns = {name: torch.as_tensor(value) for name, value in columns.items()}
        sizes = {name: len(value) for name, value in self.columns.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"columns of one length wanted, came {sizes}", field="dataset")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Rows of every column."""
        rows = torch.from_numpy(indices)
        return {name: column[rows] for name, column in self.columns.items()}


class Items:
    """A map-style data set whose items are dicts, (inputs, labels) pairs or token tensors."""

    labels_a_sample: int | None = None

    def __init__(self, items: Any, collate: Collate | None = None) -> None:
        self.items, self.collate = items, collate or join

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Items read one by one (or by ``__getitems__``) and collated."""
        rows = indices.tolist()
        fetch = getattr(self.items, "__getitems__", None)
        picked = fetch(rows) if callable(fetch) else [self.items[row] for row in rows]
        return dict(self.collate(picked))


class TokenWindows:
    """Windows of a long text for next-token prediction.

    Parameters
    ----------
    tokens: (n,) token ids; ``uint8`` and ``uint16`` stay as small as they are.
    length: tokens predicted a window; a window holds one more.
    stride: distance between window starts; None is ``length``.

    Raises InputError where the text is shorter than one window.
    """

    def __init__(self, tokens: Any, length: int, stride: int | None = None) -> None:
        self.tokens = torch.as_tensor(tokens)
        self.length, self.stride = length, stride or length
        if len(self.tokens) <= length:
            raise InputError(
                f"{len(self.tokens)} tokens are fewer than a window of {length + 1}",
                field="tokens",
            )
        self.labels_a_sample: int | None = length
        self._span = torch.arange(length + 1)

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """``input_ids`` and ``labels``, the same (batch, length + 1) int64."""
        starts = torch.from_numpy(indices) * self.stride
        ids = self.tokens[starts[:, None] + self._span].long()
        return {"input_ids": ids, "labels": ids}


def as_source(dataset: Any, collate: Collate | None = None, *, field: str = "dataset") -> Source:
    """Turn what users have into a ``Source``.

    Accepts a ``Source``, a mapping of columns, a Ray data set, a sequence, and anything with a
    length and item access. Raises InputError for the rest and for empty data, naming ``field``.
    """
    source: Source
    if hasattr(dataset, "batch") and hasattr(dataset, "__len__"):
        source = cast(Source, dataset)
    elif isinstance(dataset, Mapping):
        source = Columns(dataset)
    elif hasattr(dataset, "iter_batches") and hasattr(dataset, "count"):
        source = Stream(dataset, field)
    elif isinstance(dataset, Tensor) and dataset.dim() == 2:
        source = Columns({"input_ids": dataset, "labels": dataset})
    elif hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        source = Items(dataset, collate)
    else:
        raise InputError(
            f"{type(dataset).__name__} has no length or no item access; wanted a torch data set, "
            "columns, a list or a Ray data set",
            field=field,
        )
    if len(source) < 1:
        raise InputError("there are no samples", field=field)
    return source


def join(items: list[Any]) -> Batch:
    """Stack samples, padding ragged rows on the right: labels with -100, the rest with 0.

    A tensor of ids alone serves as input and label; a pair is (input_ids, labels). Where rows are
    ragged and there is no ``attention_mask``, one is made.
    """
    rows = [_as_row(item) for item in items]
    out: Batch = {}
    for name in rows[0]:
        values = [torch.as_tensor(row[name]) for row in rows]
        if len({value.shape for value in values}) == 1:
            out[name] = torch.stack(values)
            continue
        filler = -100 if name == "labels" else 0
        out[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler)
        if name == "input_ids" and "attention_mask" not in rows[0]:
            ones = [torch.ones(len(value), dtype=torch.long) for value in values]
            out["attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    return out


def _as_row(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"input_ids": item[0], "labels": item[1]}
    if isinstance(item, Tensor):
        return {"input_ids": item, "labels": item}
    raise InputError(
        f"a sample is a dict, a pair or a tensor of ids, not {type(item).__name__}", field="dataset"
    )
