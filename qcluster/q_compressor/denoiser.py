"""Training of the denoiser: on a tensor's own quantised and true values, in steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.denoise import CHANNELS, LARGEST, UNIT, Denoiser
from qcluster.errors import InputError

__all__ = ["fit_denoiser"]

F64 = NDArray[np.float64]


def fit_denoiser(decoded: F64, original: F64, *, steps: int = 150, seed: int = 0) -> Denoiser:
    """From values (n,) in steps, by Adam on the mean square error.

    Raises InputError for shapes that differ or values that are not finite.
    """
    if decoded.ndim != 1 or decoded.shape != original.shape or decoded.size < 16:
        raise InputError(f"wants equal vectors, got {decoded.shape} and {original.shape}",
                         field="decoded")  # fmt: skip
    if not (np.isfinite(decoded).all() and np.isfinite(original).all()):
        raise InputError("wants finite values", field="decoded")
    import torch

    generator = torch.Generator().manual_seed(seed)
    first = 0.3 * torch.randn(CHANNELS, 1, 5, generator=generator)
    second = 0.5 * torch.randn(CHANNELS, CHANNELS, 1, generator=generator)
    third = 0.02 * torch.randn(1, CHANNELS, 3, generator=generator)
    weights = [w.requires_grad_() for w in (first, second, third)]
    optimizer = torch.optim.Adam(weights, lr=0.02)
    x = torch.from_numpy(decoded.astype(np.float32))[None, None]
    wanted = torch.from_numpy((original - decoded).astype(np.float32))[None, None]
    conv = torch.nn.functional.conv1d
    for _ in range(steps):
        optimizer.zero_grad()
        hidden = conv(conv(x, first, padding=2).relu(), second).relu()
        loss = (conv(hidden, third, padding=1).clamp(-0.5, 0.5) - wanted).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    flat = np.concatenate([w.detach().numpy().reshape(-1) for w in weights])
    whole = np.clip(np.rint(flat * UNIT), -LARGEST, LARGEST).astype(int)
    return Denoiser(tuple(int(w) for w in whole))
