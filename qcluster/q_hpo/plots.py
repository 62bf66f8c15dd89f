"""Plots of a study as SVG files: history, importance, parallel coordinates. No library needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from qcluster.q_hpo.importance import importance
from qcluster.q_hpo.study import Study

__all__ = ["history_svg", "importance_svg", "parallel_svg", "write_plots"]

_W, _H, _PAD = 720, 400, 60
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.axis{stroke:#888;fill:none}"
    ".dot{fill:#5b8bd0}.bad{fill:#c33}.best{stroke:#d07020;stroke-width:2;fill:none}"
    ".bar{fill:#5b8bd0}.line{fill:none;stroke-width:1.2;opacity:.6}"
)


def write_plots(study: Study, directory: Path) -> list[Path]:
    """Write ``history.svg``, ``importance.svg`` and ``parallel.svg``; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    pages = {
        "history.svg": history_svg(study),
        "importance.svg": importance_svg(study),
        "parallel.svg": parallel_svg(study),
    }
    for name, text in pages.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in pages]


def history_svg(study: Study) -> str:
    """Value of every trial and the best so far; failed trials as crosses at the bottom."""
    trials = study.history
    values = [t.value for t in trials if t.value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    parts, path, best = [], [], math.inf if study.mode == "min" else -math.inf
    for t in trials:
        x = _PAD + (t.number + 0.5) * (_W - 2 * _PAD) / max(len(trials), 1)
        if t.value is None:
            parts.append(f'<text class="bad" x="{x - 3:.1f}" y="{_H - _PAD + 14}">x</text>')
            continue
        parts.append(f'<circle class="dot" r="3" cx="{x:.1f}" cy="{_y(t.value, low, high):.1f}"/>')
        best = min(best, t.value) if study.mode == "min" else max(best, t.value)
        path.append(f"{x:.1f},{_y(best, low, high):.1f}")
    parts.append(f'<polyline class="best" points="{" ".join(path)}"/>')
    return _page("Value by trial; the line is the best so far", parts + _value_axis(low, high))


def importance_svg(study: Study) -> str:
    """Share of variance that each parameter explains alone."""
    shares = importance(study.view())
    parts = []
    step = (_H - 2 * _PAD) / max(len(shares), 1)
    for i, (name, share) in enumerate(shares.items()):
        y, width = _PAD + i * step, min(share, 1.0) * (_W - 3 * _PAD)
        parts.append(
            f'<rect class="bar" x="{2 * _PAD}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{0.7 * step:.1f}"/>'
            f'<text x="4" y="{y + 0.5 * step:.1f}">{escape(name[:18])}</text>'
            f'<text x="{2 * _PAD + width + 4:.1f}" y="{y + 0.5 * step:.1f}">{share:.2f}</text>'
        )
    return _page("Importance: share of the model's variance", parts)


def parallel_svg(study: Study) -> str:
    """One line a trial through all parameters; blue is best, red is worst."""
    done = [t for t in study.history if t.value is not None]
    axes = [*study.space.names, "value"]
    at = [_PAD + i * (_W - 2 * _PAD) / max(len(axes) - 1, 1) for i in range(len(axes))]
    rank = np.argsort(
        np.argsort([(t.value or 0) * (1 if study.mode == "min" else -1) for t in done])
    )
    parts = []
    for t, place in zip(done, rank, strict=True):
        heights = [*study.space.point(t.config), 1 - place / max(len(done) - 1, 1)]
        points = " ".join(f"{x:.1f},{_y(h, 0, 1):.1f}" for x, h in zip(at, heights, strict=True))
        shade = 220 * (1 - place / max(len(done) - 1, 1))
        parts.append(
            f'<polyline class="line" stroke="hsl({shade:.0f},70%,50%)" points="{points}"/>'
        )
    for x, name in zip(at, axes, strict=True):
        parts.append(f'<path class="axis" d="M{x:.1f} {_PAD}V{_H - _PAD}"/>')
        parts.append(f'<text x="{x - 20:.1f}" y="{_H - _PAD + 16}">{escape(name[:12])}</text>')
    return _page("Parallel coordinates, best on top of the last axis", parts)


def _y(value: float, low: float, high: float) -> float:
    return _H - _PAD - (value - low) / ((high - low) or 1.0) * (_H - 2 * _PAD)


def _value_axis(low: float, high: float) -> list[str]:
    axis = f'<path class="axis" d="M{_PAD} {_PAD}V{_H - _PAD}H{_W - _PAD}"/>'
    marks = [
        f'<text x="4" y="{_y(float(value), low, high) + 4:.1f}">{value:.4g}</text>'
        for value in np.linspace(low, high, 5)
    ]
    return [axis, *marks]


def _page(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}">'
    return "\n".join(
        [
            head,
            f"<style>{_STYLE}</style>",
            f'<text x="{_PAD}" y="24">{title}</text>',
            *parts,
            "</svg>\n",
        ]
    )
