"""Readings as they stream in from a file or a pipe, and power from energy counters."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.q_energy.trace import PowerTrace, late_readings, screen

__all__ = ["Counters", "Lines", "Readings", "is_blank_text"]

# Readings held before old ones are let go.
_MANY = 1_000_000
_BLANK_TEXTS = {"", "-", "n/a", "na", "null", "none", "err!"}


def is_blank_text(text: str) -> bool:
    """Whether a cell says that there is no reading: empty, ``N/A``, ``[Not Supported]``, ..."""
    text = text.strip()
    return text.lower() in _BLANK_TEXTS or (text[:1] == "[" and text[-1:] == "]")


class Lines(Iterator[str]):
    """Lines of a text, counted; ``whole`` tells whether the last one read ended as lines do."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []
        self.row, self.whole = 0, True

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.row += 1
        self.whole = line.endswith("\n")
        return line

    def back(self, line: str) -> None:
        """Give a line that was looked at to the next reader."""
        self._again.append(line)
        self.row -= 1


class Readings:
    """Readings of a file, 32 bytes each, whatever their number.

    With ``last_s`` only each entity's last seconds and its highest reading are sure to be held, so
    that a stream of any length takes memory for that alone.
    """

    def __init__(self, *, file: object = None, last_s: float | None = None) -> None:
        self.file, self.last_s = file, last_s
        self._codes: dict[tuple[str, str], int] = {}
        self._code, self._row = array("q"), array("q")
        self._ts, self._watts = array("d"), array("d")
        self._notes: list[str] = []
        self._skipped: dict[str, list[int]] = {}
        self._late, self._worst, self._many = 0, 0.0, _MANY
        self._checked = 0

    def __len__(self) -> int:
        return len(self._row)

    def add(self, name: str, ts_s: float, watts: float, row: int, run: str = "") -> None:
        """One reading of row ``row``."""
        code = self._codes.setdefault((name, run), len(self._codes))
        self._code.append(code)
        self._ts.append(ts_s)
        self._watts.append(watts)
        self._row.append(row)
        self._prune()

    def extend(
        self,
        names: Sequence[str],
        ts_s: NDArray[np.float64],
        watts: NDArray[np.float64],
        rows: NDArray[np.int64],
        runs: Sequence[str],
    ) -> None:
        """Many readings; ``runs`` is empty or names the recording of each."""
        codes = self._codes
        keys = zip(names, runs or ("",) * len(names), strict=True)
        self._code.extend(codes.setdefault(key, len(codes)) for key in keys)
        self._ts.frombytes(np.ascontiguousarray(ts_s, np.float64).tobytes())
        self._watts.frombytes(np.ascontiguousarray(watts, np.float64).tobytes())
        self._row.frombytes(np.ascontiguousarray(rows, np.int64).tobytes())
        self._prune()

    def skip(self, why: str, row: int) -> None:
        """Count a row that has no reading; ``why`` completes 'n rows are left out: '."""
        found = self._skipped.setdefault(why, [0, row])
        found[0] += 1

    def note(self, line: str) -> None:
        """A warning."""
        self._notes.append(line)

    @property
    def skipped(self) -> list[str]:
        """A line for each reason that rows were left out."""
        return [
            f"{count} {'row is' if count == 1 else 'rows are'} left out, row {row} first: {why}"
            for why, (count, row) in self._skipped.items()
        ]

    def trace(self) -> PowerTrace:
        """All readings, screened and sorted.

        Raises FormatError when there are none, and as ``PowerTrace.of`` does.
        """
        if not len(self):
            why = "; ".join(self.skipped)
            raise FormatError(f"holds no readings{': ' if why else ''}{why}", file=self.file)
        self._check()
        code, ts, watts, _ = self._arrays()
        notes = [*self._notes, *self.skipped]
        if self._late:
            notes.append(
                f"{self._late} readings came out of order (up to {self._worst:.3g} s); "
                "sorted by time"
            )
        ids, of_code = np.unique([name for name, _ in self._codes], return_inverse=True)
        return PowerTrace.screened(
            tuple(map(str, ids)), of_code[code], ts, watts, warnings=tuple(notes)
        )

    def _arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64],
                               NDArray[np.int64]]:  # fmt: skip
        return (
            np.array(self._code, np.int64), np.array(self._ts), np.array(self._watts),
            np.array(self._row, np.int64),
        )  # fmt: skip

    def _check(self) -> None:
        """Refuse what is no power and no time among the readings that are new."""
        code, ts, watts, rows = self._arrays()
        names = [name for name, _ in self._codes]
        screen(names, code, ts, watts, rows=rows, file=self.file)
        late, worst = late_readings(names, code, ts, rows=rows, file=self.file, since=self._checked)
        self._late, self._worst = self._late + late, max(self._worst, worst)
        self._checked = len(self)

    def _prune(self) -> None:
        if self.last_s is None or len(self) < self._many:
            return
        self._check()
        code, ts, watts, rows = self._arrays()
        names = [name for name, _ in self._codes]
        who = np.unique(names, return_inverse=True)[1][code]
        newest = np.full(int(who.max()) + 1, -np.inf)
        np.maximum.at(newest, who, ts)
        keep = ts >= newest[who] - self.last_s
        order = np.lexsort((watts, who))
        keep[order[np.append(who[order][1:] != who[order][:-1], True)]] = True
        self._code, self._ts = array("q", code[keep]), array("d", ts[keep])
        self._watts, self._row = array("d", watts[keep]), array("q", rows[keep])
        self._checked = len(self)
        # A window may hold many readings by itself.
        self._many = max(_MANY, 2 * len(self))


class Counters:
    """Mean power between readings of energy counters, which reset with the driver and wrap."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._last: dict[tuple[str, str], tuple[float, float]] = {}

    def add(self, name: str, ts_s: float, joules: float, row: int, run: str = "") -> None:
        """One reading of a counter in joules; gives power from the second one on.

        Raises FormatError for a counter below 0 and for none at all.
        """
        if not np.isfinite(joules) or not 0 <= joules < 1e15:
            message = f"{joules:.4g} J is not what a counter holds"
            raise FormatError(message, file=self._readings.file, row=row, field="energy")
        before = self._last.get((name, run))
        if before is None:
            self._last[name, run] = ts_s, joules
            return
        if ts_s <= before[0]:
            self._readings.skip("the counter's time does not go on", row)
            return
        self._last[name, run] = ts_s, joules
        if joules < before[1]:
            self._readings.skip("the energy counter was reset or wrapped", row)
            return
        self._readings.add(name, ts_s, (joules - before[1]) / (ts_s - before[0]), row, run)
