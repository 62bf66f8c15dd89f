"""Prometheus text exposition (format 0.0.4), read into columns; of OpenMetrics what is alike.

A scrape repeats the same series line after line, scrape after scrape: only the numbers change. So
a ``Reader`` remembers the text before the number, the series key, and takes its labels apart once.
Values agree with the reference parser's to the last bit, because both end in Python's ``float``;
names stay as written, where the reference adds ``_total`` to a counter that lacks it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError

__all__ = ["Reader", "Scrape", "Series"]

_LINE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{(.*)\})?[ \t]*(?<=[ \t}])(\S+)"
    r"(?:[ \t]+(-?\d+(?:\.\d+)?))?"
)
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)')
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ESCAPE = re.compile(r"\\(.)")
MAX_SERIES = 1_000_000
MAX_PARTS = 100_000
FORGET, MIN_KNOWN = 4, 10_000


@dataclass(eq=False, slots=True)
class Series:
    """One time series: its name and labels, which others may share: read them, never write.

    A ``Reader`` gives the same object every scrape.
    """

    name: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Scrape:
    """One reading: ``series[i]`` has ``values[i]`` at ``ts_s[i]`` (NaN where none was sent)."""

    series: list[Series]
    values: NDArray[np.float64]
    ts_s: NDArray[np.float64]


class Reader:
    """Parses scrapes of one endpoint."""

    def __init__(self) -> None:
        self._known: dict[str, Series] = {}
        self._sets = _LabelSets()
        self._names: set[str] = set()

    def parse(self, text: str) -> Scrape:
        """A scrape.

        Raises FormatError naming the row that is no sample.
        """
        known = self._known
        series: list[Series] = []
        values: list[str] = []
        stamped: list[tuple[int, float]] = []
        add_series, add_value = series.append, values.append
        row = 0
        for row, line in enumerate(text.split("\n"), start=1):
            if not line or line[0] == "#":
                continue
            key, _, number = line.rpartition(" ")
            found = known.get(key)
            if found is None:
                if line[0] in " \t\r" and line.lstrip()[:1] in ("", "#"):
                    continue
                found, number, stamp = self._learn(line, key, row)
                if stamp is not None:
                    stamped.append((len(values), stamp))
            add_series(found)
            add_value(number)
        if len(series) > MAX_SERIES:
            raise FormatError(f"has more than {MAX_SERIES} series", row=row)
        if len(known) > FORGET * len(series) + MIN_KNOWN:
            # Labels that name jobs and pods come and go: what is no longer sent is forgotten.
            known.clear()
            self._names.clear()
        if "_" in "".join(values):  # Python reads 1_000 as a number, the format does not
            raise self._blame(text)
        try:
            array = np.array(list(map(float, values)), dtype=np.float64)
        except ValueError:
            raise self._blame(text) from None
        ts_s = np.full(len(array), math.nan)
        # OpenMetrics, which ends so, has seconds where the older text has milliseconds.
        unit = 1.0 if stamped and text.rstrip().endswith("# EOF") else 1000.0
        for index, stamp in stamped:
            ts_s[index] = stamp / unit
        return Scrape(series, array, ts_s)

    def _learn(self, line: str, key: str, row: int) -> tuple[Series, str, float | None]:
        name, _, rest = key.partition("{")
        plain = self._sets[rest]
        if plain is not None and (name in self._names or _NAME.fullmatch(name)):
            self._names.add(name)
            found = self._known[key] = Series(name, plain)
            return found, line[len(key) + 1 :], None
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise FormatError(f"is no sample: '{line[:60]}'", row=row)
        name, labels, number, stamp = match.groups()
        text = name if labels is None else f"{name}{{{labels}}}"
        known = self._known.get(text)
        found = known or Series(name, _labels(labels or "", row))
        self._known[text] = found
        # A key with other blanks is remembered too, but only if the number alone follows it.
        if stamp is None and key != text and line.rpartition(" ")[2] == number:
            self._known[key] = found
        _number(number, row)
        return found, number, None if stamp is None else float(stamp)

    def _blame(self, text: str) -> FormatError:
        for row, line in enumerate(text.split("\n"), start=1):
            if line and line[0] != "#" and line.strip():
                number = line.rpartition(" ")[2]
                try:
                    _number(number, row)
                except FormatError as error:
                    return error
        return FormatError("holds a value that is no number")


def _number(text: str, row: int) -> float:
    try:
        if "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise FormatError(f"wants a number, got '{text[:40]}'", row=row)


def _labels(text: str, row: int) -> dict[str, str]:
    out: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if not match:
            if not text[position:].strip():
                break
            raise FormatError(f"labels are not understood: '{text[position:][:60]}'", row=row)
        name, value = match.groups()
        if name in out:
            raise FormatError(f"label '{name}' stands twice", row=row)
        out[name] = _ESCAPE.sub(_unescape, value) if "\\" in value else value
        position = match.end()
    return out


class _Parts(dict[str, tuple[str, str]]):
    """``name="value`` to the two of them. Label sets share most of their labels."""

    def __missing__(self, part: str) -> tuple[str, str]:
        label, found, value = part.partition('="')
        if not found or '"' in value or not _LABEL_NAME.fullmatch(label):
            raise KeyError(part)
        if len(self) >= MAX_PARTS:
            self.clear()
        self[part] = label, value
        return label, value


class _LabelSets(dict[str, dict[str, str] | None]):
    """What follows a name, ``a="b",c="d"}``, to its labels. Many names share one set of labels.

    None for what is not written as nearly all exporters write it.
    """

    def __init__(self) -> None:
        self._parts = _Parts()

    def __missing__(self, text: str) -> dict[str, str] | None:
        if len(self) >= MAX_PARTS:
            self.clear()
        labels = self[text] = self._read(text)
        return labels

    def _read(self, text: str) -> dict[str, str] | None:
        if text[-2:] != '"}' or "\\" in text:
            return None
        # Without escapes no value holds a quote, so a quote and a comma always part two labels.
        texts = text[:-2].split('",')
        try:
            labels = dict(map(self._parts.__getitem__, texts))
        except KeyError:
            return None
        return labels if len(labels) == len(texts) else None


def _unescape(match: re.Match[str]) -> str:
    return {"n": "\n", "\\": "\\", '"': '"'}.get(match[1], match[0])
