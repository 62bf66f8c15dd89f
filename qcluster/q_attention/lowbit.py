"""Low-bit copies of keys and values, written once and read by every query.

Each channel has its own step; channels of wide range get more bits, so that the sum of squared
steps is least for the bits spent. Rounding is dithered: a uniform random shift is added before
rounding and taken away after reading (Schuchman, 1964), which makes every error uniform over one
step, of mean zero, independent of the others and of the data. The shift comes from a seeded
generator, not from memory. Nothing here knows queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_BITS", "LowBit", "allocate_bits", "shrink"]

MAX_BITS = 12


@dataclass(frozen=True, eq=False)
class LowBit:
    """A low-bit copy.

    ``values`` (groups, n, channels) as read back; ``step`` (groups, 1, channels) the width of the
    uniform error; ``bits`` (groups, channels) of every row's channels.
    """

    values: torch.Tensor
    step: torch.Tensor
    bits: torch.Tensor

    @property
    def row_bytes(self) -> float:
        """Bytes of one row's codes."""
        return float(self.bits[0].sum()) / 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of offsets and steps of one group, 16 bits each."""
        return 4 * int(self.bits.shape[-1])

    @property
    def row_variance(self) -> torch.Tensor:
        """Expected squared length of a row's error, (groups, 1, 1)."""
        return self.step.square().sum(-1, keepdim=True) / 12


def allocate_bits(spread: torch.Tensor, total: int) -> torch.Tensor:
    """(groups, channels) bits, at least 1 each, ``total`` a group, for ranges ``spread``.

    Greedy on the fall of the squared step, which is optimal because the falls shrink with every
    bit. Raises InputError when ``total`` is not between 1 and MAX_BITS a channel.
    """
    import torch

    channels = spread.shape[-1]
    if not channels <= total <= MAX_BITS * channels:
        raise InputError(f"{total} bits for {channels} channels", field="bits")
    levels = torch.arange(1, MAX_BITS + 1, device=spread.device, dtype=torch.float64)
    squares = (spread.double().unsqueeze(-1) / (2**levels - 1)).square()
    falls = (squares[..., :-1] - squares[..., 1:]).flatten(-2)
    best = falls.argsort(dim=-1, descending=True, stable=True)[..., : total - channels]
    taken = torch.zeros_like(falls).scatter(-1, best, 1.0)
    bits: torch.Tensor = 1 + taken.reshape(-1, channels, MAX_BITS - 1).sum(-1).long()
    return bits


def shrink(values: torch.Tensor, total: int, *, seed: int = 0, dither: bool = True) -> LowBit:
    """A copy of ``values`` (groups, n, channels) in ``total`` bits a row.

    ``dither=False`` rounds to the nearest level: smaller errors, but they depend on the data.
    """
    import torch

    with torch.no_grad():
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        bits = allocate_bits((high - low)[:, 0], total)
        # A little wider than the range, so that no code falls outside.
        step = ((high - low) / (2 ** bits.to(values.dtype) - 1).unsqueeze(1)) * (1 + 1e-5)
        step = step.clamp(min=torch.finfo(values.dtype).tiny)
        place = (values - low) / step
        if dither:
            generator = torch.Generator().manual_seed(seed)
            shift = torch.rand(values.shape[1:], generator=generator, dtype=values.dtype)
            shift = shift.to(values.device)
            read = (torch.floor(place + shift) - shift + 0.5) * step + low
        else:
            read = torch.round(place) * step + low
    return LowBit(read, step, bits)
