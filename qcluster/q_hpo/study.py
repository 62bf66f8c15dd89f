"""``Study``: ask for a configuration, tell what it gave. No Ray, no threads, no clock.

Everything a study does follows from its seed and from the order of ``ask`` and ``tell``; with a
journal each of them is on disk before it returns, and ``Study.load`` goes on where the file ends,
with the same suggestions. It knows nothing about how trials are run.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError, InputError, NotFound
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.fidelity import report_lines
from qcluster.q_hpo.journal import Journal, new_journal, read_lines, write_lines
from qcluster.q_hpo.lines import config_line, config_of_line, trial_line
from qcluster.q_hpo.param_space import completed, listed_configs
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.space import Space, same_config
from qcluster.q_hpo.space_json import space_of_file, space_to_json
from qcluster.q_hpo.strategies import make_strategy, settings_of
from qcluster.q_hpo.strategy import Proposal, View, one_thread, pool_points
from qcluster.q_hpo.trial import Trial, checked_count, checked_max_step, checked_outcome
from qcluster.q_hpo.views import best_of, copied, view_of

__all__ = ["VERSION", "Study"]

F = NDArray[np.float64]
VERSION = 1


class Study:
    """A search over ``space``.

    Parameters
    ----------
    space: mapping of names to ``ray.tune`` domains, Optuna distributions, JSON parameters
        (``{"type": "loguniform", "low": 1e-5, "high": 0.1}``) or constants; may be nested.
    strategy: ``gp``, ``vqc``, ``hybrid``, ``sobol`` or ``random``, or a mapping with ``name`` and
        that strategy's settings.
    mode: ``min`` or ``max``.
    seed: the same seed and the same outcomes give the same suggestions.
    prior: observations of other tasks in the same space (``load_prior``), or None.
    points: configurations to try first, in order.
    pool: the only configurations allowed, if the objective exists for these alone.
    max_step: the full fidelity; values told with a smaller ``step`` are not final losses. Without
        it, the largest step seen.
    journal: file that records everything as it happens; must not exist (``load`` continues one).

    Raises InputError naming the parameter that is wrong.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | Space,
        *,
        strategy: str | Mapping[str, Any] = "gp",
        mode: str = "min",
        seed: int = 0,
        prior: Prior | None = None,
        points: Iterable[Mapping[str, Any]] | None = None,
        pool: Iterable[Mapping[str, Any]] | None = None,
        max_step: int | None = None,
        journal: str | Path | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise InputError(f"wants 'min' or 'max', got {mode!r}", field="mode")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise InputError(f"wants a whole number from 0 up, got {seed!r}", field="seed")
        self.space = parse_space(space)
        self.mode, self.seed, self.max_step = mode, int(seed), checked_max_step(max_step)
        self.prior = prior
        self._settings = settings_of(strategy)
        self._strategy = make_strategy(self._settings)
        self._queue = self._listed(() if points is None else points)
        self._pool = pool if pool is None else pool_points(self.space, listed_configs(pool, "pool"))
        if prior is not None and not isinstance(prior, Prior):
            raise InputError(f"wants what load_prior gives, got {prior!r:.40}", field="prior")
        self._tasks = () if prior is None else prior.tasks(self.space, mode)
        self._trials: dict[str, Trial] = {}
        self._points: dict[str, F] = {}
        self._told: list[str] = []
        self._curves: dict[str, dict[int, float]] = {}
        self._journal: Journal | None = None
        if journal is not None:
            self._journal = new_journal(Path(journal), self._header())

    # Asking and telling

    @overload
    def ask(self, n: None = None, *, id: str | None = None) -> Trial: ...
    @overload
    def ask(self, n: int, *, id: str | None = None) -> list[Trial]: ...
    def ask(self, n: int | None = None, *, id: str | None = None) -> Trial | list[Trial]:
        """The next trial, or a list of ``n``; they are pending until told.

        ``id`` names a single trial. Raises InputError if the name is taken.
        """
        if n is None:
            return self._ask_one(id)
        n = checked_count(n, "n", 1)
        if id is not None:
            raise InputError("names one trial, not several", field="id")
        return [self._ask_one(None) for _ in range(n)]

    def _ask_one(self, name: str | None) -> Trial:
        name, given = self._free_name(name), self._given
        if given < len(self._queue):
            config = self._queue[given]
            proposal = Proposal(self._checked_point(config, given + 1), "given")
        else:
            with one_thread():
                proposal = self._strategy.propose(self.view())
            config = self.space.config(proposal.point)
        return copied(self._enter(name, config, proposal))

    def tell(
        self, id: str | Trial, value: Any, status: str = "ok", step: int | None = None
    ) -> Trial:
        """What trial ``id`` (or a trial itself) gave. A value not finite has status ``nan``.

        The same outcome told again changes nothing. Raises NotFound for an unknown trial and
        InputError for another outcome of a finished one.
        """
        trial = self.trial(id.id if isinstance(id, Trial) else id)
        value, status, step = checked_outcome(value, status, step, f"trial {trial.id}")
        done = dataclasses.replace(trial, value=value, status=status, step=step)
        if trial.status != "running":
            if done == trial:
                return trial
            end = f"{trial.status} {trial.value}"
            raise InputError(f"is finished with {end}", field=f"trial {trial.id}")
        self._write({"tell": trial.id, "value": value, "status": status, "step": step})
        self._trials[trial.id] = done
        self._told.append(trial.id)
        if value is not None and step is not None:
            self._curves.setdefault(trial.id, {})[step] = value
        return done

    def report(self, id: str, value: Any, step: int) -> None:
        """What trial ``id`` shows after ``step`` steps, on its way; one that is not finite says
        nothing. Raises NotFound and InputError.
        """
        trial = self.trial(id)
        value, status, at = checked_outcome(value, "ok", step, f"trial {trial.id}")
        if at is None:
            raise InputError("is needed with a value on the way", field="step")
        if status == "ok" and self._curves.get(trial.id, {}).get(at) != value:
            self._write({"report": trial.id, "value": value, "step": at})
            self._curves.setdefault(trial.id, {})[at] = float(value or 0.0)

    def add(
        self, config: Mapping[str, Any], value: Any, status: str = "ok", step: int | None = None
    ) -> Trial:
        """A trial that was run elsewhere: asked and told at once."""
        proposal = Proposal(self._checked_point(config, None), "added")
        checked_outcome(value, status, step, "value")
        full = completed(config, self.space, proposal.point)
        trial = self._enter(self._free_name(None), full, proposal)
        return self.tell(trial.id, value, status, step)

    def adopt(self, config: Mapping[str, Any], id: str) -> Trial:
        """A trial that runs already: pending until told. Raises InputError."""
        point, name = self._checked_point(config, None), self._free_name(id)
        config = completed(config, self.space, point)
        queued = any(same_config(config, p) for p in self._queue[self._given :][:1])
        return copied(self._enter(name, config, Proposal(point, "given" if queued else "added")))

    def enqueue(self, points: Iterable[Mapping[str, Any]]) -> None:
        """More configurations to try before anything is proposed. Raises InputError."""
        more = self._listed(points)
        if more:
            self._write({"enqueue": [config_line(c, self.space) for c in more]})
        self._queue += more

    # Reading

    def trial(self, id: str) -> Trial:
        """A trial by name. Raises NotFound."""
        if id not in self._trials:
            raise NotFound(f"no trial '{id}'")
        return self._trials[id]

    @property
    def strategy(self) -> str:
        """Name of what proposes."""
        return str(self._settings["name"])

    @property
    def history(self) -> list[Trial]:
        """All trials in the order they were asked."""
        return list(self._trials.values())

    @property
    def running(self) -> list[Trial]:
        """Trials that were asked and not told."""
        return [t for t in self._trials.values() if t.status == "running"]

    def top(self, k: int) -> list[Trial]:
        """The ``k`` best finished trials at full fidelity, of different configurations."""
        return best_of(self.history, checked_count(k, "k"), self.full_step, self._sign)

    @property
    def best(self) -> Trial | None:
        """The best measured trial, not the best predicted; None before there is one."""
        return next(iter(self.top(1)), None)

    # Files

    def save(self, path: str | Path) -> None:
        """Write the whole study as JSON lines, atomically; ``load`` reads it.

        Onto its own open journal it does nothing: all is there already.
        """
        journal = self._journal
        if journal and Path(path).exists() and journal.path.samefile(path):
            return
        write_lines(Path(path), self.records())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        space: Mapping[str, Any] | Space | None = None,
        journal: bool = False,
    ) -> Study:
        """A study from a saved file or a journal; ``journal=True`` goes on writing to that file.

        ``space`` is needed only if it has values that JSON cannot hold. Raises FormatError.
        """
        path = Path(path)
        # The lock comes first: nobody may write between reading and going on.
        file = Journal(path) if journal and path.is_file() else None
        try:
            study = cls.from_records(read_lines(path), space=space, file=path)
            if file is not None:  # Not before it is known to be a study.
                file.cut_torn_line()
        except BaseException:
            if file is not None:
                file.close()
            raise
        study._journal = file  # noqa: SLF001
        return study

    @classmethod
    def from_records(
        cls,
        rows: Sequence[Mapping[str, Any]],
        *,
        space: Mapping[str, Any] | Space | None = None,
        file: Any = None,
    ) -> Study:
        """A study from what ``records`` gave. Raises FormatError naming file and row."""
        if not rows or "qcluster_study" not in rows[0]:
            raise FormatError("is not a study: its first line has no 'qcluster_study'", file=file)
        if rows[0]["qcluster_study"] != VERSION:
            raise FormatError(
                f"has version {rows[0]['qcluster_study']}, wants {VERSION}", file=file
            )
        try:
            study = cls._from_header(rows[0], space)
        except InputError as error:
            raise error.at(file=file, row=1) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"the header is not whole: {error}", file=file, row=1) from None
        for i, row in enumerate(rows[1:], 2):
            try:
                study._replay(row)  # noqa: SLF001
            except (KeyError, TypeError, ValueError, AttributeError, NotFound) as error:
                raise FormatError(f"does not fit the study: {error}", file=file, row=i) from None
        return study

    def records(self) -> Iterator[dict[str, Any]]:
        """The study as JSON objects, a header first."""
        yield self._header()
        state = self._strategy.state()
        last = len(self._trials) - 1
        for i, trial in enumerate(self._trials.values()):
            yield trial_line(trial, self.space, self._points[trial.id], state if i == last else {})
        yield from report_lines(self._trials, self._curves)
        for name in self._told:
            t = self._trials[name]
            yield {"tell": name, "value": t.value, "status": t.status, "step": t.step}

    def close(self) -> None:
        """Close the journal, if there is one; the study can still be read."""
        if self._journal is not None:
            self._journal.close()

    # Inside

    @property
    def _sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    @property
    def full_step(self) -> int | None:
        """The full fidelity: ``max_step``, or the largest step seen; None without steps."""
        if self.max_step is not None:
            return self.max_step
        return max((t.step for t in self._trials.values() if t.step is not None), default=None)

    def view(self) -> View:
        """What a strategy is shown when it is asked for the next trial."""
        told = [self._trials[name] for name in self._told]
        curves = {name: self._curves[name] for name in self._trials if name in self._curves}
        return view_of(self, self._sign, told, curves, self._rows, self._tasks, self._pool)

    @property
    def _given(self) -> int:
        return sum(trial.arm == "given" for trial in self._trials.values())

    def _free_name(self, name: str | None) -> str:
        if name is None:
            names = (f"t{i:04d}" for i in itertools.count(len(self._trials)))
            return next(free for free in names if free not in self._trials)
        name = str(name)
        if name in self._trials:
            raise InputError("is already the name of a trial", field=f"id '{name}'")
        return name

    def _enter(self, name: str, config: dict[str, Any], proposal: Proposal) -> Trial:
        trial = Trial(id=name, config=config, number=len(self._trials), arm=proposal.arm)
        self._write(trial_line(trial, self.space, proposal.point, self._strategy.state()))
        self._trials[name], self._points[name] = trial, proposal.point
        return trial

    def _rows(self, names: list[str]) -> F:
        rows = [self._points[name] for name in names]
        return np.array(rows, float).reshape(len(rows), self.space.d)

    def _checked_point(self, config: Mapping[str, Any], row: int | None) -> F:
        try:
            return self.space.point(config)
        except InputError as error:
            raise error.at(row=row) from None

    def _listed(self, points: Any) -> list[dict[str, Any]]:
        """Configurations to try, whole. Raises InputError naming the row."""
        rows = enumerate(listed_configs(points, "points"), 1)
        return [completed(row, self.space, self._checked_point(row, i)) for i, row in rows]

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.append(record)

    def _header(self) -> dict[str, Any]:
        return {
            "qcluster_study": VERSION,
            "space": space_to_json(self.space),
            "strategy": self._settings,
            "mode": self.mode,
            "seed": self.seed,
            "max_step": self.max_step,
            "points": [config_line(config, self.space) for config in self._queue],
            "pool": None if self._pool is None else self._pool.tolist(),
            "prior": None if self.prior is None else self.prior.to_dict(),
        }

    @classmethod
    def _from_header(cls, row: Mapping[str, Any], space: Mapping[str, Any] | Space | None) -> Study:
        known = space_of_file(row["space"], None if space is None else parse_space(space))
        study = cls(
            known,
            strategy=row["strategy"],
            mode=row["mode"],
            seed=row["seed"],
            prior=None if row["prior"] is None else Prior.from_dict(row["prior"]),
            max_step=row["max_step"],
            points=[config_of_line(line, known) for line in row["points"]],
        )
        study._pool = None if row["pool"] is None else np.array(row["pool"], float)
        return study

    def _replay(self, row: Mapping[str, Any]) -> None:
        if "tell" in row:
            self.tell(row["tell"], row["value"], row["status"], row["step"])
            return
        if "report" in row:
            self.report(row["report"], row["value"], row["step"])
            return
        if "enqueue" in row:
            self._queue += [config_of_line(line, self.space) for line in row["enqueue"]]
            return
        point = np.array(row["point"], float)
        if point.shape != (self.space.d,):
            raise ValueError(f"a point has {point.size} numbers, wants {self.space.d}")
        proposal = Proposal(point, str(row["arm"]))
        config = config_of_line([row["point"], row.get("exact", {})], self.space)
        self._enter(str(row["ask"]), config, proposal)
        if "state" in row:
            self._strategy.restore(row["state"])
