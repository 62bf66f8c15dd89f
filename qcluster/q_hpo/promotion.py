"""Successive halving with promotions: which trial to go on with, and how far.

Ray's asynchronous halving stops a trial for good at a rung; one that is alone there passes, so the
first trials cost most. Here every configuration stops at the first rung, and whenever there is a
good one that has not gone on, it goes on to the next (Li et al., 2020). This needs trainers that
go on from a checkpoint. What was found is in the study alone: after ``Study.load`` a new
``Promotions`` goes on where the old one was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["Promotions", "Run"]


@dataclass(frozen=True)
class Run:
    """Train ``config`` from ``start`` steps (0: anew, else from its checkpoint) to ``stop``."""

    config: dict[str, Any]
    start: int
    stop: int
    trial: Trial | None = None
    """The study's trial, if the configuration is new."""


@dataclass
class _Seen:
    """What is known of one configuration: its values by step, as losses."""

    config: dict[str, Any]
    losses: dict[int, float]

    @property
    def reached(self) -> int:
        return max(self.losses)


class Promotions:
    """Runs of a study's configurations on ``rungs``, within ``budget`` steps in all.

    Parameters
    ----------
    study: whose ``max_step`` is the last rung; asked for new configurations, told all results.
    rungs: steps at which trials pause, rising; the last is the full fidelity.
    keep: one of so many goes on from each rung, at least 2.
    budget: steps of all runs together; None is without end. So much is kept back that one
        configuration can always be trained in full; the rest at the end goes to the best.

    Raises InputError for rungs that do not rise or do not end at the study's full fidelity.
    """

    def __init__(
        self, study: Study, rungs: Sequence[int], *, keep: int = 3, budget: int | None = None
    ) -> None:
        steps = list(rungs)
        if len(steps) < 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in steps):
            raise InputError("wants at least two whole numbers", field="rungs")
        if steps[0] < 1 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise InputError(f"wants rising numbers from 1 up, got {steps}", field="rungs")
        if study.max_step != steps[-1]:
            raise InputError(
                f"ends at {steps[-1]}, the study's max_step is {study.max_step}", field="rungs"
            )
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 2:
            raise InputError(f"wants a whole number from 2 up, got {keep!r}", field="keep")
        if budget is not None and budget < steps[-1]:
            raise InputError(f"is less than one full run of {steps[-1]}", field="budget")
        self.study, self.rungs, self.keep = study, steps, keep
        self.budget = math.inf if budget is None else budget
        pool = study.view().pool
        self._most = study.space.size if pool is None else len(np.unique(pool, axis=0))
        self._open: dict[bytes, Run] = {}

    @property
    def spent(self) -> int:
        """Steps of all runs told and begun; a failed one counts as if it had got to its end."""
        reached: dict[bytes, int] = {}
        for trial in self.study.history:
            if trial.status != "running":
                key = self._key(trial.config)
                reached[key] = max(reached.get(key, 0), trial.step or self.rungs[0])
        begun = sum(run.stop - run.start for run in self._open.values())
        return sum(reached.values()) + begun

    def next(self) -> Run | None:
        """The next run, None when the budget is spent or there is nothing to do until a run that
        was begun is told.
        """
        seen = self._seen()
        run = self._regular(seen)
        if run is None or not self._fits(run, seen):
            run = next((r for r in self._finishing(seen) if self._fits(r, seen)), None)
        if run is None:
            return None
        if run.start == 0:
            trial = self.study.ask()
            run = Run(trial.config, 0, run.stop, trial)
        self._open[self._key(run.config)] = run
        return run

    def tell(self, run: Run, value: Any, status: str = "ok") -> Trial:
        """What a run gave. Raises InputError for one that was not asked for."""
        if self._open.pop(self._key(run.config), None) != run:
            raise InputError("was not asked for, or is told already", field="run")
        if run.trial is not None:
            return self.study.tell(run.trial.id, value, status, step=run.stop)
        return self.study.add(run.config, value, status, step=run.stop)

    def _regular(self, seen: dict[bytes, _Seen]) -> Run | None:
        """The best that may go on from the highest rung that has one, or a new configuration."""
        spare = len(seen.keys() | self._open.keys()) >= self._most
        for at, up in zip(self.rungs[-2::-1], self.rungs[:0:-1], strict=True):
            here = [key for key, one in seen.items() if at in one.losses]
            here.sort(key=lambda key: seen[key].losses[at])
            for key in here if spare else here[: len(here) // self.keep]:
                if seen[key].reached == at and key not in self._open:
                    return Run(seen[key].config, at, up)
        return None if spare else Run({}, 0, self.rungs[0])

    def _finishing(self, seen: dict[bytes, _Seen]) -> Iterator[Run]:
        """What is left of the budget in full runs, best of the highest rung first."""
        last = self.rungs[-1]
        ends = [(-one.reached, one.losses[one.reached], key) for key, one in seen.items()]
        for reached, _, key in sorted(ends):
            if -reached < last and key not in self._open:
                yield Run(seen[key].config, -reached, last)

    def _fits(self, run: Run, seen: dict[bytes, _Seen]) -> bool:
        """Whether the budget pays for it and for one full run."""
        far = max([run.stop, *(one.reached for one in seen.values())])
        rest = self.rungs[-1] - max([far, *(one.stop for one in self._open.values())])
        return self.spent + run.stop - run.start + rest <= self.budget

    def _seen(self) -> dict[bytes, _Seen]:
        sign = 1.0 if self.study.mode == "min" else -1.0
        seen: dict[bytes, _Seen] = {}
        failed = {self._key(t.config) for t in self.study.history
                  if t.value is None and t.status != "running"}  # fmt: skip
        for trial in self.study.history:
            key = self._key(trial.config)
            if trial.value is not None and trial.step is not None and key not in failed:
                one = seen.setdefault(key, _Seen(trial.config, {}))
                one.losses[trial.step] = sign * trial.value
        return seen

    def _key(self, config: dict[str, Any]) -> bytes:
        return bytes(np.round(self.study.space.point(config), 12).tobytes())
