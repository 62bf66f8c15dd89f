"""The plans on disk: an SQLite file in WAL mode that survives ``kill -9`` at any moment.

``synchronous=FULL`` means that a plan which was acknowledged is on disk. A plan is stored once:
the same id again changes nothing. The file keeps the newest ``keep`` plans of each planner.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import NotFound, NotReady
from qcluster.packed import PackedPlan, unpack

__all__ = ["Journal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plans (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    plan_id TEXT NOT NULL UNIQUE,
    planner TEXT NOT NULL,
    created_at REAL NOT NULL,
    gpus TEXT NOT NULL,
    summary TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS plans_by_planner ON plans (planner, seq);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Journal:
    """Append-only plans in ``directory/plans.sqlite``. Safe to share between threads."""

    def __init__(self, directory: Path, *, keep: int = 2000) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.keep = keep
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(directory / "plans.sqlite", check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            with self._db:
                self._db.execute(
                    "INSERT OR IGNORE INTO facts VALUES ('store_id', ?)", (secrets.token_hex(8),)
                )
            found = self._db.execute("SELECT value FROM facts WHERE name = 'store_id'").fetchone()
        except sqlite3.DatabaseError as error:
            raise NotReady(f"{directory / 'plans.sqlite'}: {error}") from None
        self.store_id: str = found[0]
        """Made with the file: another file, even at the same path, is another store."""

    def append(self, plan: Mapping[str, Any] | PackedPlan, gpus: str) -> int:
        """Store a plan, packed or its ``to_dict``; returns its sequence number, also when it was
        there.

        ``gpus`` names the set of GPUs that it was verified on.
        """
        packed = plan if isinstance(plan, PackedPlan) else PackedPlan.of(plan)
        summary, planner = packed.summary, packed.summary["planner"]
        row = (
            packed.plan_id, planner, summary["created_at"], gpus, json.dumps(summary), packed.body,
        )  # fmt: skip
        with self._lock, self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO plans (plan_id, planner, created_at, gpus, summary, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            seq = self._db.execute(
                "SELECT seq FROM plans WHERE plan_id = ?", (packed.plan_id,)
            ).fetchone()[0]
            self._db.execute(
                "DELETE FROM plans WHERE planner = ? AND seq <= ("
                " SELECT seq FROM plans WHERE planner = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (planner, planner, self.keep),
            )
        return int(seq)

    def newest(self, planner: str, *, gpus: str | None = None) -> dict[str, Any] | None:
        """The newest plan of a planner, or the newest that was verified on ``gpus``."""
        plan_id = self.newest_id(planner, gpus=gpus)
        return None if plan_id is None else self.get(plan_id)

    def newest_id(self, planner: str, *, gpus: str | None = None) -> str | None:
        """The id of that plan."""
        clause, values = ("", [planner]) if gpus is None else (" AND gpus = ?", [planner, gpus])
        query = f"SELECT plan_id FROM plans WHERE planner = ?{clause} ORDER BY seq DESC LIMIT 1"  # noqa: S608
        with self._lock:
            row = self._db.execute(query, values).fetchone()
        return None if row is None else str(row[0])

    def before(self, plan_id: str) -> str:
        """The id of the plan that its planner made before this one. Raises NotFound."""
        query = (
            "SELECT b.plan_id FROM plans a JOIN plans b ON b.planner = a.planner AND b.seq < a.seq"
            " WHERE a.plan_id = ? ORDER BY b.seq DESC LIMIT 1"
        )
        with self._lock:
            row = self._db.execute(query, (plan_id,)).fetchone()
        if row is None:
            raise NotFound(f"no plan before '{plan_id}' is stored")
        return str(row[0])

    def get(self, plan_id: str) -> dict[str, Any]:
        """The plan with this id. Raises NotFound, FormatError for one whose bytes are damaged."""
        return unpack(self.packed(plan_id))

    def packed(self, plan_id: str) -> bytes:
        """The plan with this id as compressed (zlib) JSON. Raises NotFound."""
        with self._lock:
            row = self._db.execute(
                "SELECT body FROM plans WHERE plan_id = ?", (plan_id,)
            ).fetchone()
        if row is None:
            raise NotFound(f"no plan '{plan_id}'")
        return bytes(row[0])

    def history(self, planner: str | None, limit: int) -> list[dict[str, Any]]:
        """Summaries of the newest plans, newest first."""
        clause, values = ("", []) if planner is None else (" WHERE planner = ?", [planner])
        query = f"SELECT seq, summary FROM plans{clause} ORDER BY seq DESC LIMIT ?"  # noqa: S608
        with self._lock:
            rows = self._db.execute(query, [*values, limit]).fetchall()
        return [{"seq": seq, **json.loads(summary)} for seq, summary in rows]

    def last_seq(self) -> int:
        """The highest sequence number given out so far."""
        with self._lock:
            row = self._db.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'plans'"
            ).fetchone()
        return 0 if row is None else int(row[0])

    def count(self) -> int:
        """How many plans are stored."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM plans").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
