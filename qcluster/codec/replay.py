"""The next weights from the last ones and the optimizer's moments: one AdamW step, bit for bit.

The same IEEE operations in the same order as torch's AdamW with ``foreach=False`` on the CPU
(Loshchilov and Hutter, 2019), in single precision; all of them are correctly rounded, so sender
and receiver predict the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.container import digest
from qcluster.codec.dtypes import DType, to_bits
from qcluster.codec.floats import to_float_bits, to_values
from qcluster.errors import InputError

__all__ = ["OptimizerState", "predict_next"]

F32 = NDArray[np.float32]
Bits = NDArray[Any]

_FIELDS = ("exp_avg", "exp_avg_sq", "step", "lr", "betas", "eps", "weight_decay")


@dataclass(frozen=True)
class OptimizerState:
    """Moments (n,) after the step, and the step's numbers."""

    exp_avg: F32
    exp_avg_sq: F32
    step: int
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float

    @classmethod
    def read(cls, data: Mapping[str, Any], size: int) -> OptimizerState:
        """From a mapping with the names that torch uses. Raises InputError naming the field."""
        missing = [name for name in _FIELDS if name not in data]
        if missing:
            raise InputError("is needed", field=f"optimizer_state.{missing[0]}")
        moments = []
        for name in _FIELDS[:2]:
            dtype, _, bits, _ = to_bits(data[name])
            if bits.size != size or not dtype.is_float or dtype.parts > 1:
                raise InputError(f"wants {size} floating-point elements",
                                 field=f"optimizer_state.{name}")  # fmt: skip
            moments.append(to_values(bits, dtype).astype(np.float32))
        try:
            first, second = (float(b) for b in data["betas"])
            lr, eps, decay = (float(data[name]) for name in ("lr", "eps", "weight_decay"))
            step = int(data["step"])
        except (TypeError, ValueError) as error:
            raise InputError(f"wants numbers: {error}", field="optimizer_state") from None
        numbers = (first, second, lr, eps, decay)
        if step < 1 or not all(map(math.isfinite, numbers)) or not 0 <= first < 1 or not (
            0 <= second < 1
        ):  # fmt: skip
            raise InputError("wants step >= 1, finite numbers and betas in [0, 1)",
                             field="optimizer_state")  # fmt: skip
        return cls(moments[0], moments[1], step, lr, (first, second), eps, decay)

    def digest(self) -> bytes:
        """Of all that the prediction depends on besides the weights."""
        numbers = repr(self._numbers()).encode()
        return digest(self.exp_avg, self.exp_avg_sq, numbers)

    def _numbers(self) -> tuple[Any, ...]:
        return self.step, self.lr, self.betas, self.eps, self.weight_decay


def predict_next(bits: Bits, dtype: DType, to: DType, state: OptimizerState) -> Bits:
    """The bits (n,), as type ``to``, of the weights after the step."""
    f = np.float32
    weights: Any = to_values(bits, dtype).astype(f)
    first, second = state.betas
    with np.errstate(all="ignore"):
        weights *= f(1 - state.lr * state.weight_decay)
        size = state.lr / (1 - first**state.step)
        below = np.sqrt(state.exp_avg_sq) / f(math.sqrt(1 - second**state.step)) + f(state.eps)
        weights = weights + f(-size) * state.exp_avg / below
    return to_float_bits(weights.astype(np.float64), to)
