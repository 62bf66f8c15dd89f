"""Answers already given, by idempotency key: the same question asked again gets the same answer.

An SQLite file beside the plans. The first answer to a key wins: when two replicas compute the same
question, because the first one's client lost its connection, both hand out what was stored first.
It is bounded by number, by bytes and by age; a key that was forgotten is computed again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import zlib
from pathlib import Path

from qcluster.errors import NotReady, Refused

__all__ = ["Answer", "AnswerBook"]

Answer = tuple[int, str, bytes]
"""Status, media type and body."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    question TEXT NOT NULL,
    given_at REAL NOT NULL,
    status INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (given_at);
"""


class AnswerBook:
    """Answers in ``directory/answers.sqlite``. Thread-safe.

    Parameters
    ----------
    keep: answers remembered at most.
    keep_bytes: their compressed size together at most.
    keep_s: seconds after which an answer is forgotten.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 20_000,
        keep_bytes: int = 256 * 2**20,
        keep_s: float = 24 * 3600.0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._keep, self._keep_bytes, self._keep_s = keep, keep_bytes, keep_s
        self._lock = threading.Lock()
        path = directory / "answers.sqlite"
        try:
            self._db = sqlite3.connect(path, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise NotReady(f"{path}: {error}") from None
        found = self._db.execute("SELECT count(*), total(length(body)) FROM answers").fetchone()
        self._count, self._bytes = int(found[0]), int(found[1])

    def find(self, key: str, question: str) -> Answer | None:
        """The answer given to a key, None if none was.

        ``question`` is a digest of what was asked. Raises Refused when the key stands for another.
        """
        with self._lock:
            return self._find(key, question)

    def _find(self, key: str, question: str) -> Answer | None:
        row = self._db.execute(
            "SELECT question, status, media_type, body FROM answers WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        if row[0] != question:
            raise Refused("this idempotency key was used for another request")
        return int(row[1]), str(row[2]), zlib.decompress(row[3])

    def keep(self, key: str, question: str, answer: Answer) -> Answer:
        """Remember the answer unless the key has one; returns the one that counts."""
        status, media_type, body = answer
        packed = zlib.compress(body, 1)
        with self._lock, self._db:
            new = self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (key, question, time.time(), status, media_type, packed),
            ).rowcount
            if new:
                self._count += 1
                self._bytes += len(packed)
                self._forget()
            return answer if new else (self._find(key, question) or answer)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _forget(self) -> None:
        oldest = time.time() - self._keep_s
        rows = self._db.execute("SELECT key, given_at, length(body) FROM answers ORDER BY given_at")
        gone = []
        for key, given_at, size in rows:
            full = self._count > self._keep or self._bytes > self._keep_bytes
            if (not full and given_at >= oldest) or self._count == 1:
                break
            gone.append((key,))
            self._count -= 1
            self._bytes -= size
        rows.close()
        self._db.executemany("DELETE FROM answers WHERE key = ?", gone)
