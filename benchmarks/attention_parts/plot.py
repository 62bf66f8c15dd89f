"""Lines on logarithmic axes as SVG, without a plotting library."""

from __future__ import annotations

import math
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, EDGE = 900, 520, 70, 290, 40
INKS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
        "#9c6b4e", "#9498a0", "#000000")  # fmt: skip
DASHES = ("", "6 3", "2 3")


def scatter(series: dict[str, list[tuple[float, float]]], x: str, y: str) -> str:
    """One line a series of (x, y) above 0, with a legend; colour and dash tell them apart."""
    points = [p for line in series.values() for p in line]
    spans = [
        (math.log10(min(p[i] for p in points)) - 0.05, math.log10(max(p[i] for p in points)) + 0.05)
        for i in (0, 1)
    ]

    def place(value: float, axis: int) -> float:
        low, high = spans[axis]
        part = (math.log10(value) - low) / (high - low)
        if axis == 0:
            return LEFT + part * (WIDTH - LEFT - RIGHT)
        return HEIGHT - EDGE - part * (HEIGHT - 2 * EDGE)

    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    head += 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    out = [head]
    for axis in (0, 1):
        low, high = spans[axis]
        ticks = [m * 10.0**e for e in range(-6, 3) for m in (1, 2, 5)]
        for tick in (t for t in ticks if low <= math.log10(t) <= high):
            at = place(tick, axis)
            ends = (at, HEIGHT - EDGE, at, EDGE) if axis == 0 else (LEFT, at, WIDTH - RIGHT, at)
            out.append('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#ddd"/>'
                       .format(*ends))  # fmt: skip
            where = (at, HEIGHT - EDGE + 16, "middle") if axis == 0 else (LEFT - 6, at + 4, "end")
            out.append('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{:g}</text>'
                       .format(*where, tick))  # fmt: skip
    for number, (name, line) in enumerate(series.items()):
        style = f'stroke="{INKS[number % len(INKS)]}" stroke-width="2" fill="none"'
        style += f' stroke-dasharray="{DASHES[number % len(DASHES)]}"'
        path = " ".join(f"{place(a, 0):.1f},{place(b, 1):.1f}" for a, b in sorted(line))
        out.append(f'<polyline points="{path}" {style}/>')
        top = EDGE + 20 * number
        out.append(f'<line x1="{WIDTH - RIGHT + 15}" y1="{top}" x2="{WIDTH - RIGHT + 45}" '
                   f'y2="{top}" {style}/>')  # fmt: skip
        out.append(f'<text x="{WIDTH - RIGHT + 52}" y="{top + 4}">{escape(name)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    out.append(f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" '
               f'text-anchor="middle">{escape(y)}</text></svg>')  # fmt: skip
    return "\n".join(out) + "\n"
