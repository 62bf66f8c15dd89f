"""Long questions: asked now, answered later, shown as they go, ended on request.

A job is a list of questions. It and its answers lie in an SQLite file, so it outlives the replica
that took it in, and a desk that died takes it up again at the first question without an answer.
Questions run in a worker process of the desk's own; ending a job kills that process, because
nothing less stops a solver inside C code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import NotFound, NotReady, QClusterError
from qcluster.worker import SolverProcess

__all__ = ["JobDesk"]

ANSWER = "deployments.questions:answer"
WARM_UP = ("deployments.questions:warm_up", ())
_WARM_UP_S = 120.0
_IDLE_S = 1.0
# Kept for a while under their ids, so that a job sent again does not begin again, and one that is
# cancelled again is no error. Behind the word stands the state in which it was forgotten.
_FORGOTTEN = "forgotten "
MAX_STARTS = 3
"""A job whose desk died this often is taken to be the reason."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    starts INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL,
    questions TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    id TEXT NOT NULL,
    position INTEGER NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (id, position)
);
"""

Question = tuple[str, dict[str, Any], float]
"""Kind, body and the seconds that it may take in all."""


class JobDesk:
    """Takes jobs in and works them off in order. Thread-safe; every method is idempotent.

    Parameters
    ----------
    state_dir: where ``jobs.sqlite`` lies.
    keep: ended jobs remembered. queue_limit: jobs that may wait.
    answer, warm_up: what worker processes run, ``module:function``.
    """

    def __init__(
        self,
        state_dir: str,
        *,
        keep: int = 200,
        queue_limit: int = 64,
        answer: str = ANSWER,
        warm_up: tuple[str, tuple[Any, ...]] = WARM_UP,
    ) -> None:
        directory = Path(state_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self._keep, self._queue_limit = keep, queue_limit
        self._answer, self._warm_up = answer, warm_up
        self._lock = threading.Condition()
        try:
            self._db = sqlite3.connect(directory / "jobs.sqlite", check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise NotReady(f"{directory / 'jobs.sqlite'}: {error}") from None
        self._process: SolverProcess | None = None
        self._current: str | None = None
        self._asked_at = 0.0
        self._closed = False
        with self._lock, self._db:
            self._db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    def submit(self, job_id: str, questions: Sequence[Question]) -> dict[str, Any] | None:
        """Take in a job; one with this id stays as it is. None when too many wait."""
        with self._lock:
            with contextlib.suppress(NotFound):
                return self._view(job_id)
            waiting = self._db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'")
            if waiting.fetchone()[0] >= self._queue_limit:
                return None
            with self._db:
                self._db.execute(
                    "INSERT INTO jobs (id, state, created_at, total, questions)"
                    " VALUES (?, 'queued', ?, ?, ?)",
                    (job_id, time.time(), len(questions), json.dumps(questions)),
                )
            self._lock.notify_all()
            return self._view(job_id)

    def show(self, job_id: str) -> dict[str, Any]:
        """State, progress and, once done, answers. Raises NotFound."""
        with self._lock:
            view = self._view(job_id)
            if self._gone(job_id):
                raise NotFound(f"no job '{job_id}'")
            if view["state"] == "done":
                rows = self._db.execute(
                    "SELECT answer FROM answers WHERE id = ? ORDER BY position", (job_id,)
                )
                view["answers"] = [json.loads(row["answer"]) for row in rows]
            return view

    def list(self) -> list[dict[str, Any]]:
        """All jobs that are remembered, newest first, without answers."""
        with self._lock:
            rows = self._db.execute("SELECT id FROM jobs ORDER BY number DESC").fetchall()
            return [self._view(row["id"]) for row in rows if not self._gone(row["id"])]

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job, killing its process if it runs, and forget it; its last state.

        A job that was ended before it was done is ``cancelled``. One that was cancelled lately
        gives the same again. Raises NotFound for one that never was, or is long forgotten.
        """
        with self._lock:
            view = self._view(job_id)
            if self._gone(job_id):
                return view
            if view["state"] not in ("queued", "running"):
                self._end(job_id, _FORGOTTEN + view["state"])
                return view
            self._end(job_id, "cancelled")
            if self._current == job_id and self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGKILL)
            return self._view(job_id)

    def close(self) -> None:
        """End the worker process and the file; jobs that have not ended stay queued on disk."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            if self._process is not None:
                self._process.close()

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                row = self._db.execute(
                    "SELECT id, questions, starts FROM jobs WHERE state = 'queued'"
                    " ORDER BY number LIMIT 1"
                ).fetchone()
                if row is None:
                    self._lock.wait(_IDLE_S)
                    continue
                if row["starts"] >= MAX_STARTS:
                    self._end(row["id"], "failed")
                    continue
                self._begin(row["id"])
            try:
                self._work(row["id"], json.loads(row["questions"]))
            finally:
                self._leave()

    def _work(self, job_id: str, questions: Sequence[Question]) -> None:
        if self._process is None:
            self._process = SolverProcess(self._warm_up)
        for position, (kind, body, seconds) in enumerate(questions):
            with self._lock:
                answered = self._db.execute(
                    "SELECT 1 FROM answers WHERE id = ? AND position = ?", (job_id, position)
                ).fetchone()
                if self._closed or self._view(job_id)["state"] != "running":
                    return
                self._asked_at = time.time()
            if not answered:
                self._store(job_id, position, self._ask(kind, body, seconds))
        with self._lock:
            if not self._closed and self._view(job_id)["state"] == "running":
                self._end(job_id, "done")

    def _ask(self, kind: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None
        try:
            self._process.wait_ready(Deadline.after(_WARM_UP_S))
            deadline = Deadline.after(seconds)
            encoded = json.dumps(body).encode()
            return {"result": self._process.call(self._answer, kind, encoded, deadline=deadline)}
        except QClusterError as error:
            return {"error": {"detail": str(error), "field": getattr(error, "field", None)}}

    def _store(self, job_id: str, position: int, answer: Mapping[str, Any]) -> None:
        with self._lock:
            if self._closed or self._view(job_id)["state"] != "running":
                return  # it was cancelled: this is the answer of a killed process
            with self._db:
                row = (job_id, position, json.dumps(answer))
                self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row)

    def _begin(self, job_id: str) -> None:
        self._current = job_id
        with self._db:
            self._db.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1,"
                " started_at = coalesce(started_at, ?) WHERE id = ?",
                (time.time(), job_id),
            )

    def _leave(self) -> None:
        with self._lock:
            killed = self._current is not None and not self._closed
            killed = killed and self._view(str(self._current))["state"] == "cancelled"
            self._current = None
            if killed and self._process is not None:
                # The kill may have hit it after its last answer: the next job gets a fresh one.
                self._process.close()
                self._process = None

    def _end(self, job_id: str, state: str) -> None:
        with self._db:
            self._db.execute(
                "UPDATE jobs SET state = ?, ended_at = coalesce(ended_at, ?) WHERE id = ?",
                (state, time.time(), job_id),
            )
            self._db.execute(
                "DELETE FROM jobs WHERE ended_at IS NOT NULL AND number <= (SELECT number FROM jobs"
                " WHERE ended_at IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._keep,),
            )
            self._db.execute(
                "DELETE FROM answers WHERE id NOT IN"
                " (SELECT id FROM jobs WHERE state != 'cancelled' AND state NOT LIKE 'forgotten%')"
            )

    def _gone(self, job_id: str) -> bool:
        query = "SELECT state FROM jobs WHERE id = ?"
        state = str(self._db.execute(query, (job_id,)).fetchone()["state"])
        return state == "cancelled" or state.startswith(_FORGOTTEN)

    def _view(self, job_id: str) -> dict[str, Any]:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise NotFound(f"no job '{job_id}'")
        done = self._db.execute("SELECT count(*) FROM answers WHERE id = ?", (job_id,)).fetchone()
        ended, state = row["ended_at"] or time.time(), row["state"].removeprefix(_FORGOTTEN)
        progress = {
            "done": int(row["total"] if state == "done" else done[0]),
            "total": int(row["total"]),
            "running_s": ended - row["started_at"] if row["started_at"] else 0.0,
        }
        view = {
            "id": job_id,
            "state": state,
            "progress": progress,
            **{name: row[name] for name in ("created_at", "started_at", "ended_at")},
        }
        if state == "failed":
            view["reason"] = f"the desk died {row['starts']} times while working on it"
        return view
