"""The study on disk: JSON lines, appended and synchronised one by one.

A line that a crash cut short is dropped when the file is gone on with; nothing before it can be
lost, because ``append`` returns only after ``fsync``. What a full disk took of a line is
taken back, so that it can be written again. One process writes at a time (advisory lock).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError, Refused

__all__ = ["Journal", "has_lines", "new_journal", "read_lines", "write_lines"]


_HEAD = b'{"qcluster_study"'


class Journal:
    """An open file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise Refused(f"{path} is being written by another process") from None
        if new:
            _sync_directory(path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is on disk when this returns, and not at all when it raises.

        Raises Refused after ``close``, and OSError.
        """
        if self._file.closed:
            raise Refused(f"{self.path} is closed; Study.load(path, journal=True) continues it")
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) or 0 :]
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), whole)
            raise

    def close(self) -> None:
        """Close the file and free the lock."""
        self._file.close()

    def cut_torn_line(self) -> None:
        """Take away what a crash left of the last line, before anything is appended."""
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            os.ftruncate(self._file.fileno(), end)


def has_lines(path: Path) -> bool:
    """Whether there is a file with at least one whole line."""
    return path.is_file() and b"\n" in path.read_bytes()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file. Raises FormatError naming the row that is not JSON."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", file=path) from None
    rows = []
    for i, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise FormatError("is not JSON", file=path, row=i) from None
        if not isinstance(row, dict):
            raise FormatError("wants an object a line", file=path, row=i)
        rows.append(row)
    return rows


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_journal(path: Path, header: Mapping[str, Any]) -> Journal:
    """A journal that starts with ``header``; one that was cut short in its header starts again.

    Raises InputError if the file has anything else in it, and Refused if another process writes it.
    """
    if path.is_dir():
        raise InputError("is a directory", file=path)
    if path.exists():
        _check_unused(path)
    journal = Journal(path)
    try:
        _check_unused(path)
        journal.cut_torn_line()
        journal.append(header)
    except BaseException:
        journal.close()
        raise
    return journal


def _check_unused(path: Path) -> None:
    there = path.read_bytes()
    if b"\n" in there or not there.startswith(_HEAD[: len(there)]):
        raise InputError("exists; Study.load(path, journal=True) continues it", file=path)
