"""The state directory: where stored plans, tokens and the running server's address are kept.

One server owns a state directory at a time; a lock that the kernel releases when its process ends
says whether it is in use, so nothing is left to clean up after a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qcluster.errors import InputError, NotReady, Refused

__all__ = ["default_state_dir", "lock_state", "running_server", "server_address"]


def default_state_dir() -> Path:
    """``$QCLUSTER_STATE_DIR``, or ``qcluster`` under the user's state directory."""
    if chosen := os.environ.get("QCLUSTER_STATE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "qcluster"


@contextlib.contextmanager
def lock_state(state_dir: Path, server: dict[str, Any]) -> Iterator[None]:
    """Own the directory while the block runs, and say there where the server is.

    Raises Refused when another process owns it, InputError when it cannot be written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (state_dir / "server.json").open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(error.strerror or "not writable", file=state_dir) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = running_server(state_dir) or {}
            message = f"{state_dir} is in use by the server at {other.get('url', 'an unknown url')}"
            raise Refused(f"{message}; stop it or give another --state-dir") from None
        handle.truncate(0)
        handle.write(json.dumps({**server, "pid": os.getpid(), "started_at": time.time()}))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def running_server(state_dir: Path) -> dict[str, Any] | None:
    """Where the server that owns the directory is: ``{url, pid, started_at}``; None if none."""
    path = state_dir / "server.json"
    try:
        with path.open(encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                found: dict[str, Any] = json.loads(handle.read())
                return found
    except (OSError, ValueError):
        return None
    return None


def server_address(url: str, token_file: Path | None, state_dir: Path) -> tuple[str, str | None]:
    """Where a server is, and its token: as given, or of the one that owns the directory.

    Raises NotReady when none runs there, InputError when the token cannot be read.
    """
    if not url:
        server = running_server(state_dir)
        if server is None:
            raise NotReady(f"no server runs with the state directory {state_dir}")
        url = server["url"]
        known = server.get("token_file")
        token_file = token_file or (Path(known) if known else None)
    if token_file is None:
        return url, None
    try:
        return url, token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", file=token_file) from None
