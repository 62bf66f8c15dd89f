"""Plots of a study as SVG files: history, importance, parallel coordinates. No library needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from qcluster.q_hpo.importance import importance
from qcluster.q_hpo.parameter import Parameter
from qcluster.q_hpo.study import Study

__all__ = ["history_svg", "importance_svg", "parallel_svg", "write_plots"]

_W, _H, _PAD = 720, 400, 64
_MOST_MARKS = 12
_MOST_PARAMETERS = 16
_FAR = 10  # interquartile ranges from the median
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.axis{stroke:#888;fill:none}"
    ".dot{fill:#5b8bd0}.bad{fill:#c33;font-size:11px}.best{stroke:#d07020;stroke-width:2;fill:none}"
    ".mark{font:10px sans-serif;fill:#777}.bar{fill:#5b8bd0}"
    ".line{fill:none;stroke-width:1.2;opacity:.6}"
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
    """Value of every trial and the best so far; failed trials as crosses below the axis."""
    trials = study.history
    values = [t.value for t in trials if t.value is not None]
    scale = _Scale(values, study.mode)
    parts, path, best = [], [], math.inf if study.mode == "min" else -math.inf
    for t in trials:
        x = _at(t.number, len(trials))
        if t.value is None:
            if t.status != "running":
                parts.append(_text(x, _H - _PAD + 12, "x", "middle", "bad"))
            continue
        parts.append(f'<circle class="dot" r="3" cx="{x:.1f}" cy="{scale(t.value):.1f}"/>')
        best = min(best, t.value) if study.mode == "min" else max(best, t.value)
        path.append(f"{x:.1f},{scale(best):.1f}")
    parts.append(f'<polyline class="best" points="{" ".join(path)}"/>')
    numbers = sorted({round(i * (len(trials) - 1) / 5) for i in range(6) if trials})
    parts += [_text(_at(n, len(trials)), _H - _PAD + 28, str(n), "middle") for n in numbers]
    parts.append(_text(_W / 2, _H - 8, "trial (x: failed)", "middle"))
    return _page("Value by trial; the line is the best so far", parts + scale.axis())


def importance_svg(study: Study) -> str:
    """Share of variance that each parameter explains alone."""
    shares = importance(study.view())
    if not shares:
        return _page("Importance: too few different values to say", [])
    rest = len(shares) - _MOST_PARAMETERS
    shares = dict(list(shares.items())[:_MOST_PARAMETERS])
    parts = []
    if rest > 0:
        parts.append(_text(_W / 2, _H - 24, f"and {rest} parameters that matter less", "middle"))
    step = (_H - 2 * _PAD) / len(shares)
    room = min(3.0 * _PAD, 7.0 * max(len(name) for name in shares))
    for i, (name, share) in enumerate(shares.items()):
        y, width = _PAD + i * step, min(share, 1.0) * (_W - room - 2 * _PAD)
        middle = y + 0.35 * step + 4
        parts.append(
            f'<rect class="bar" x="{room + 12:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{0.7 * step:.1f}"/>'
        )
        parts.append(_text(room + 6, middle, _short(name, int(room / 6.5)), "end"))
        parts.append(_text(room + width + 18, middle, f"{share:.2f}", "start"))
    return _page("Importance: share of the model's variance", parts)


def parallel_svg(study: Study) -> str:
    """One line a trial through all parameters; blue is best and drawn last, red is worst."""
    done = [t for t in study.history if t.value is not None]
    parameters = _parallel(study)
    columns = [study.space.names.index(p.name) for p in parameters]
    at = [_PAD + i * (_W - 2 * _PAD) / len(parameters) for i in range(len(parameters) + 1)]
    scale = _Scale([t.value for t in done if t.value is not None], study.mode)
    done.sort(key=lambda t: (t.value or 0.0) * (-1 if study.mode == "min" else 1))
    parts = []
    for place, t in enumerate(done):
        point = study.space.point(t.config)[columns]
        heights = [_H - _PAD - u * (_H - 2 * _PAD) for u in point]
        points = " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(at, [*heights, scale(t.value or 0.0)], strict=True)
        )
        shade = 220 * place / max(len(done) - 1, 1)
        parts.append(
            f'<polyline class="line" stroke="hsl({shade:.0f},70%,50%)" points="{points}"/>'
        )
    for x, p in zip(at, parameters, strict=False):
        parts.append(f'<path class="axis" d="M{x:.1f} {_PAD}V{_H - _PAD}"/>')
        parts += [_text(x + 3, _H - _PAD - u * (_H - 2 * _PAD) + 4, text, "start", "mark")
                  for u, text in _marks(p)]  # fmt: skip
        parts.append(_tilted(x, p.name))
    parts += [
        f'<path class="axis" d="M{at[-1]:.1f} {_PAD}V{_H - _PAD}"/>',
        _tilted(at[-1], "value"),
    ]
    parts += [_text(at[-1] + 4, y, text, "start", "mark") for y, text in scale.marks()]
    few = len(parameters) < sum(p.levels != 1 for p in study.space.parameters)
    which = f"the {len(parameters)} parameters that matter most" if few else "all parameters"
    return _page(
        f"Parallel coordinates, {which}: blue is best, inactive ones pass the middle", parts
    )


def _parallel(study: Study) -> list[Parameter]:
    """What gets an axis: what varies, and of many parameters those that matter most."""
    parameters = [p for p in study.space.parameters if p.levels != 1]
    if len(parameters) <= _MOST_PARAMETERS:
        return parameters or list(study.space.parameters[:_MOST_PARAMETERS])
    order = list(importance(study.view())) or [p.name for p in parameters]
    most = set(order[:_MOST_PARAMETERS])
    return [p for p in parameters if p.name in most]


def _marks(p: Parameter) -> list[tuple[float, str]]:
    """Places in the unit interval and what stands there: categories, or both ends."""
    if p.kind in ("choice", "constant"):
        count = len(p.choices)
        few = range(count) if count <= _MOST_MARKS else (0, count - 1)
        return [((i + 0.5) / count, _short(str(p.choices[i]), 10)) for i in few]
    return [(u, _short(f"{p.value(u):.4g}", 10)) for u in (0.0, 1.0)]


class _Scale:
    """Values to heights: logarithmic if they are positive and span a factor of 100.

    On other scales values much worse than most (a training that diverged) are drawn at the edge,
    so that the rest can be told apart.
    """

    def __init__(self, values: Sequence[float], mode: str) -> None:
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)
        self.log = self.low > 0 and self.high / self.low >= 100
        self._cut = ""
        if values and not self.log:
            self._leave_out(np.array(values), mode)

    def _leave_out(self, values: np.ndarray, mode: str) -> None:
        first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
        reach = _FAR * float(third - first)
        if mode == "min" and reach > 0 and self.high > middle + reach:
            kept = values[values <= middle + reach]
            self.high, self._cut = float(kept.max()), ">="
        if mode == "max" and reach > 0 and self.low < middle - reach:
            kept = values[values >= middle - reach]
            self.low, self._cut = float(kept.min()), "<="

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self._turned(self.low), self._turned(self.high)
        if not math.isfinite(high - low):
            return _H / 2
        return _H - _PAD - (self._turned(value) - low) / ((high - low) or 1.0) * (_H - 2 * _PAD)

    def _turned(self, value: float) -> float:
        return math.log(value) if self.log else value

    def marks(self) -> list[tuple[float, str]]:
        """Heights and numbers of five marks."""
        if self.log:
            numbers = np.geomspace(self.low, self.high, 5)
        else:
            numbers = self.low + np.linspace(0, 1, 5) * (self.high - self.low)
        found = [(self(float(v)) + 4, f"{v:.4g}") for v in numbers if math.isfinite(v)]
        if self._cut and found:
            edge = -1 if self._cut == ">=" else 0
            found[edge] = (found[edge][0], f"{self._cut} {found[edge][1]}")
        return found

    def axis(self) -> list[str]:
        """Both axes of a chart and the marks on the left."""
        frame = f'<path class="axis" d="M{_PAD} {_PAD}V{_H - _PAD}H{_W - _PAD}"/>'
        return [frame, *(_text(_PAD - 6, y, text, "end") for y, text in self.marks())]


def _at(number: int, count: int) -> float:
    return _PAD + (number + 0.5) * (_W - 2 * _PAD) / max(count, 1)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tilted(x: float, text: str) -> str:
    y = _H - _PAD + 18
    turn = f'transform="rotate(18 {x:.1f} {y})"'
    return f'<text x="{x:.1f}" y="{y}" text-anchor="start" {turn}>{escape(_short(text, 18))}</text>'


def _page(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}">'
    return "\n".join(
        [
            head,
            f"<style>{_STYLE}</style>",
            f'<rect width="{_W}" height="{_H}" fill="#fff"/>',
            f'<text x="{_PAD}" y="24">{title}</text>',
            *parts,
            "</svg>\n",
        ]
    )
