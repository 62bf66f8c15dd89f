"""A Hugging Face cache whose long layers are read at two levels while generating.

    register_hf()
    model.set_attn_implementation("qcluster")
    model.generate(ids, past_key_values=TwoLevelCache())

Keys and values lie in room that grows by halves (transformers' own cache copies everything for
every token), and a decoding step of one query a head over float32 keys on the CPU goes to
``DecodeCache``: clusters of keys, 8-bit rows of those that matter. Everything else reads the same
keys and values as from any other cache: padding, sliding windows, soft caps, prompts, other types
and devices.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, cast

import torch

from qcluster.errors import InputError, MissingDependency
from qcluster.q_attention.decode import DecodeCache

try:
    from transformers.cache_utils import Cache, DynamicLayer
except ImportError:  # pragma: no cover - transformers is in the dev extra
    raise MissingDependency("transformers", needed_for="TwoLevelCache", extra="hf") from None

__all__ = ["TwoLevelCache", "held_behind"]

_HELD: weakref.WeakValueDictionary[int, DecodeCache] = weakref.WeakValueDictionary()
"""By where their keys begin in memory: attention functions are given tensors, not caches."""


class TwoLevelCache(Cache):
    """``past_key_values`` for models of this attention implementation.

    Parameters
    ----------
    tolerance: wanted relative error of each layer's attention, about (see ``DecodeCache``).

    Raises InputError for a tolerance outside of (0, 1).
    """

    def __init__(self, tolerance: float = 0.02) -> None:
        if not 0 < tolerance < 1:
            raise InputError(f"wants a number in (0, 1), got {tolerance}", field="tolerance")
        super().__init__(layer_class_to_replicate=functools.partial(_Layer, tolerance))


class _Layer(DynamicLayer):
    """A layer's keys and values, held by a ``DecodeCache`` where it can hold them."""

    keys: Any
    values: Any

    def __init__(self, tolerance: float = 0.02) -> None:
        super().__init__()
        self._tolerance = tolerance
        self._held: DecodeCache | None = None
        self._shown: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values (batch, heads, new, dim); all of them come back."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._held = None
        new = (key_states, value_states)
        holds = all(
            x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad for x in new
        )
        if not holds:
            self._held = None
            found = super().update(key_states, value_states, *args, **options)
            return cast(tuple[torch.Tensor, torch.Tensor], found)
        if self._held is not None and self.keys is self._shown:
            self._held.append(key_states, value_states)
        else:
            # The first keys, or keys that somebody cropped, selected or put in another order.
            whole = [torch.cat([old, x], 2) if old.numel() else x.clone()
                     for old, x in zip((self.keys, self.values), new, strict=True)]  # fmt: skip
            self._held = DecodeCache(*whole, tolerance=self._tolerance)
        self.keys, self.values = self._held.keys, self._held.values
        self._shown = self.keys
        _HELD[self.keys.data_ptr()] = self._held
        return self.keys, self.values


def held_behind(key: torch.Tensor) -> DecodeCache | None:
    """The cache whose keys these are, all of them; None for other tensors."""
    found = _HELD.get(key.data_ptr())
    if found is None:
        return None
    # A freed place may have become another tensor's, and a slice begins where the whole does.
    own = found.keys
    same = own.data_ptr() == key.data_ptr() and own.shape == key.shape
    return found if same and own.stride() == key.stride() else None
