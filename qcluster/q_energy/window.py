"""Quantiles of each node's power over the coming window, cheap enough for every live plan.

What a cap has to hold against is the spread of power over a whole window, so that is what is
forecast: the quantiles of the last few readings, of one window or of all history. Which of these
lengths to trust is chosen per node by the pinball loss that each had on the blocks just past
(Gneiting 2011), as the best one changes with the job. A node whose last readings are all above
the highest quantile so forecast has begun something new, and only those readings count; a drop has
to last until the back-test sees it, as a pause ends sooner than a cap is lifted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["window_quantiles"]

Floats = NDArray[np.float64]

_ROWS = 128  # readings looked at, evenly spread: quantiles need no more
_BLOCKS = 4
_LEAST = 8  # readings below which history says nothing
_RECENT = 4


def window_quantiles(
    power_w: Floats, steps: int, shares: tuple[float, ...] = (0.5, 0.95)
) -> Floats:
    """(nodes, shares) forecast of the quantiles of the next ``steps`` readings, watts.

    ``power_w`` is (times, nodes), newest last, at least one row, NaN where a node did not answer;
    NaN comes back for a node that never did. ``shares`` rise and hold the median's 0.5.
    Takes time linear in nodes, whatever the length of history.
    """
    run = _filled(power_w)
    levels = np.array(shares)
    if len(run) < _LEAST:
        return _tail(run, len(run), levels).T
    newest = run[-_RECENT:]
    stride = -(-len(run) // _ROWS)
    run, steps = run[::-stride][::-1], max(1, steps // stride)
    block = int(np.clip(steps, _RECENT, max(_RECENT, len(run) // (_BLOCKS + 1))))
    lengths = sorted({_RECENT, block, _BLOCKS * block, len(run)})
    loss = np.zeros((len(lengths), run.shape[1]))
    for end in range(len(run) - block, block - 1, -block):
        for k, length in enumerate(lengths):
            found = _tail(run[:end], length, levels)
            loss[k] += _pinball(run[end : end + block], found, levels)
    # Ties go to the longest history, the steadiest.
    best = len(lengths) - 1 - np.argmin(loss[::-1], axis=0)
    answers = np.stack([_tail(run, length, levels) for length in lengths])
    chosen = answers[best, :, np.arange(run.shape[1])]
    new = (newest > chosen[:, -1]).all(axis=0)
    chosen[new] = np.quantile(newest[:, new], levels, axis=0).T
    return np.asarray(chosen)


def _tail(run: Floats, length: int, levels: Floats) -> Floats:
    """(levels, nodes) quantiles of the last ``length`` rows."""
    found: Floats = np.quantile(run[-length:], levels, axis=0)
    return found


def _pinball(actual: Floats, found: Floats, levels: Floats) -> Floats:
    """(nodes,) mean pinball loss of quantiles (levels, nodes) over rows (times, nodes)."""
    apart = actual[:, None, :] - found
    slope = levels[:, None]
    loss: Floats = np.maximum(slope * apart, (slope - 1.0) * apart).mean(axis=(0, 1))
    return loss


def _filled(power_w: Floats) -> Floats:
    """Gaps take the reading before them; those at the start the first one."""
    known = np.isfinite(power_w)
    if known.all():
        return power_w
    rows = np.where(known, np.arange(len(power_w))[:, None], -1)
    last = np.maximum.accumulate(rows, axis=0)
    first = np.argmax(known, axis=0)
    return np.take_along_axis(power_w, np.where(last < 0, first, last), axis=0)
