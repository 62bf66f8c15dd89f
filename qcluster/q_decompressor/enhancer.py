"""The recurrent enhancer: an LSTM (Hochreiter and Schmidhuber, 1997) along rows of decoded values
predicts what quantisation took, in steps.

Inference is plain NumPy in double precision; it is not certified to the last bit across machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.container import Entry
from qcluster.errors import FormatError, InputError

__all__ = ["Enhancer"]

F64 = NDArray[np.float64]
WEIGHTS = Path(__file__).with_name("enhancer.safetensors")
_NAMES = ("wx", "wh", "b", "wo")
# Elements of a tensor that are still corrected; the recurrence is slow.
LONGEST = 1 << 22


@dataclass(frozen=True)
class Enhancer:
    """Weights of one cell: ``wx`` (4 h, 1), ``wh`` (4 h, h), ``b`` (4 h,), ``wo`` (h,)."""

    wx: F64
    wh: F64
    b: F64
    wo: F64

    @classmethod
    def shipped(cls) -> Enhancer:
        """The default weights, fitted on low-rank matrices with a seed."""
        return _shipped()

    def correction(self, rows: F64) -> F64:
        """Predicted residuals (n, columns) of rows (n, columns), both in steps."""
        count, columns = rows.shape
        hidden = len(self.wo)
        state, cell = np.zeros((count, hidden)), np.zeros((count, hidden))
        out = np.empty_like(rows)
        for c in range(columns):
            gates = rows[:, c : c + 1] @ self.wx.T + state @ self.wh.T + self.b
            i, f, g, o = np.split(gates, 4, axis=1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            state = _sigmoid(o) * np.tanh(cell)
            out[:, c] = state @ self.wo
        return out

    def apply(self, values: F64, entry: Entry) -> tuple[F64, str]:
        """Corrected values (n,), and what was done."""
        step = entry.ops[0][1].get("step")
        if not isinstance(step, (int, float)) or not step > 0 or len(entry.shape) < 1:
            return values, "nothing: no step is known"
        if values.size > LONGEST:
            return values, f"nothing: more than {LONGEST} elements"
        rows = values.reshape(-1, entry.shape[-1] * entry.dtype.parts) / step
        change = np.clip(self.correction(np.clip(rows, -64, 64)), -0.5, 0.5)
        size = float(np.sqrt(np.mean(np.square(change))))
        return (values + change.reshape(-1) * step), f"moved values by {size:.3f} steps (rms)"

    @classmethod
    def fit(
        cls, pairs: Sequence[tuple[F64, F64]], *, hidden: int = 8, epochs: int = 60, seed: int = 0
    ) -> Enhancer:
        """From pairs (decoded, original), each (rows, columns) in steps. Raises InputError."""
        import torch

        if not pairs or any(d.shape != o.shape or d.ndim != 2 for d, o in pairs):
            raise InputError("wants pairs of matrices of equal shape", field="pairs")
        torch.manual_seed(seed)
        cell = torch.nn.LSTM(1, hidden, batch_first=True).double()
        out = torch.nn.Linear(hidden, 1, bias=False).double()
        torch.nn.init.zeros_(out.weight)
        weights = [*cell.parameters(), *out.parameters()]
        optimizer = torch.optim.Adam(weights, lr=0.01)
        data = [(torch.from_numpy(np.clip(d, -64, 64)), torch.from_numpy(o - d)) for d, o in pairs]
        for _ in range(epochs):
            for decoded, error in data:
                optimizer.zero_grad()
                hiddens, _ = cell(decoded[:, :, None])
                loss = (out(hiddens)[:, :, 0] - error).square().mean()
                loss.backward()
                optimizer.step()

        def taken(tensor: Any) -> F64:
            return np.asarray(tensor.detach().numpy(), dtype=np.float64)

        bias = taken(cell.bias_ih_l0) + taken(cell.bias_hh_l0)
        return cls(taken(cell.weight_ih_l0), taken(cell.weight_hh_l0), bias, taken(out.weight)[0])

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors."""
        from safetensors.numpy import save_file

        save_file({k: np.ascontiguousarray(v) for k, v in vars(self).items()}, str(path))

    @classmethod
    def load(cls, path: str | Path) -> Enhancer:
        """Read the weights. Raises FormatError naming the file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(str(path))
            weights = [found[name].astype(np.float64) for name in _NAMES]
        except (OSError, SafetensorError, KeyError) as error:
            raise FormatError(f"is no enhancer: {error}", file=path) from None
        hidden = weights[3].size
        shapes = [(4 * hidden, 1), (4 * hidden, hidden), (4 * hidden,), (hidden,)]
        if [w.shape for w in weights] != shapes:
            raise FormatError("has weights of other shapes", file=path)
        return cls(*weights)


@lru_cache(maxsize=1)
def _shipped() -> Enhancer:
    return Enhancer.load(WEIGHTS)


def _sigmoid(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
