"""Power limits of one machine's GPUs: set within the boards' own range, remembered, put back.

What the limits were before is on disk, synced, before the first one is changed, so that whoever
finds the file can put them back: the agent itself, its watchdog, or the next agent. A limit that
is neither the old one nor one of ours was set by somebody else since, and is left as it is.

Imports little, because the watchdog does too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import InputError, NotReady, Refused

__all__ = ["PowerLimits", "write_synced"]

FILE, LOCK = "limits.json", "limits.lock"
# Drivers round a limit to what the board can do.
_ROUNDING_MW = 1000
_PATIENCE_S = 5.0


class PowerLimits:
    """Sets and restores power limits. Safe to use from several processes at once.

    Parameters
    ----------
    nv: the NVML module; it is opened and closed around every use.
    directory: where the old limits are kept while there are any to put back.
    """

    def __init__(self, nv: Any, directory: Path) -> None:
        self._nv = nv
        self._path, self._lock_path = directory / FILE, directory / LOCK

    def held(self) -> bool:
        """Whether there are limits to put back."""
        return self._path.exists()

    def old_mw(self) -> dict[str, int]:
        """What ``restore`` would put back, in milliwatts by UUID."""
        return {uuid: int(entry["old_mw"]) for uuid, entry in self._load().items()}

    def in_force(self) -> dict[int, float]:
        """The limits of the GPUs that we have changed, in watts by GPU index."""
        kept, found = self._load(), {}
        with self._open():
            for index in range(self._nv.nvmlDeviceGetCount()):
                with contextlib.suppress(self._nv.NVMLError):
                    handle = self._nv.nvmlDeviceGetHandleByIndex(index)
                    if _text(self._nv.nvmlDeviceGetUUID(handle)) in kept:
                        limit_mw = self._nv.nvmlDeviceGetPowerManagementLimit(handle)
                        found[index] = limit_mw / 1e3
        return found

    def check(self, caps_w: Mapping[int, float]) -> dict[int, tuple[str, int, int]]:
        """What setting ``caps_w`` (watts by GPU index) would change.

        Returns ``{index: (uuid, limit now, limit wanted)}``, limits in milliwatts. Raises Refused
        when a cap is outside what its board allows, InputError when it is not a number, NotReady
        when a GPU does not answer.
        """
        with self._open():
            return {index: self._checked(index, watts) for index, watts in caps_w.items()}

    def apply(self, caps_w: Mapping[int, float]) -> dict[int, float]:
        """Set all of ``caps_w``, or none: returns the watts in force by GPU index.

        Raises what ``check`` raises, before anything is changed. When a board refuses half-way,
        all limits are put back and Refused (no permission, not supported) or NotReady is raised.
        """
        with self._locked(), self._open():
            wanted = {index: self._checked(index, watts) for index, watts in caps_w.items()}
            kept = self._load()
            for uuid, now, target in wanted.values():
                entry = kept.setdefault(uuid, {"old_mw": now, "ours_mw": []})
                last = [mw for mw in entry["ours_mw"][-1:] if mw != target]
                entry["ours_mw"] = [*last, target]
            self._save(kept)
            try:
                for index, (_, now, target) in wanted.items():
                    if now != target:
                        handle = self._nv.nvmlDeviceGetHandleByIndex(index)
                        self._nv.nvmlDeviceSetPowerManagementLimit(handle, target)
                if not self.held():  # the watchdog took us for stuck
                    self._save(kept)
            except self._nv.NVMLError as error:
                self._restore(kept)
                name = type(error).__name__
                refused = name in ("NVMLError_NoPermission", "NVMLError_NotSupported")
                kind = Refused if refused else NotReady
                raise kind(f"setting the power limit of GPU {index}: {error}") from None
        return {index: target / 1e3 for index, (_, _, target) in wanted.items()}

    def restore(self) -> dict[str, str]:
        """Put the old limits back; says for every GPU, by UUID, what was done.

        What cannot be put back now (a lost GPU, no driver) stays on disk for the next time.
        """
        with self._locked():
            if not (kept := self._load()):
                return {}
            try:
                with self._open():
                    return self._restore(kept)
            except NotReady as error:
                return dict.fromkeys(kept, f"not restored: {error}")

    def revert(self, before_mw: Mapping[str, int], *, dry_run: bool = False) -> dict[str, str]:
        """Set the limits back to what they were before one of our plans, in milliwatts by UUID.

        Says for every GPU what was done, or with ``dry_run`` what would be. A limit that somebody
        else has set since stays; so does one that is no longer ours because it is back already.
        What was in force before the first plan is still remembered, and ``restore`` still does it.
        """
        with self._locked(), self._open():
            kept, handles = self._load(), self._handles()
            done = {}
            for uuid, target in before_mw.items():
                try:
                    if uuid not in handles:
                        raise NotReady("the GPU does not answer")
                    done[uuid] = self._revert(handles[uuid], uuid, target, kept, dry_run)
                except (self._nv.NVMLError, NotReady) as error:
                    done[uuid] = f"not restored: {error}"
        return done

    def _revert(
        self, handle: Any, uuid: str, target: int, kept: dict[str, dict[str, Any]], dry_run: bool
    ) -> str:
        now, entry = self._nv.nvmlDeviceGetPowerManagementLimit(handle), kept.get(uuid)
        if entry is None or now == target:
            return "as it was"
        if _foreign(now, entry):
            return f"left at {now / 1e3:g} W, which somebody else has set"
        if dry_run:
            return f"would be restored from {now / 1e3:g} to {target / 1e3:g} W"
        entry["ours_mw"] = [*entry["ours_mw"][-1:], target]
        self._save(kept)
        self._nv.nvmlDeviceSetPowerManagementLimit(handle, target)
        return f"restored to {target / 1e3:g} W"

    def _restore(self, kept: dict[str, dict[str, Any]]) -> dict[str, str]:
        done: dict[str, str] = {}
        handles = self._handles()
        for uuid, entry in list(kept.items()):
            try:
                if uuid not in handles:
                    raise NotReady("the GPU does not answer")
                done[uuid] = self._put_back(handles[uuid], entry)
                del kept[uuid]
            except (self._nv.NVMLError, NotReady) as error:
                done[uuid] = f"not restored: {error}"
        self._save(kept)
        return done

    def _put_back(self, handle: Any, entry: Mapping[str, Any]) -> str:
        now, old = self._nv.nvmlDeviceGetPowerManagementLimit(handle), int(entry["old_mw"])
        if now == old:
            return "as it was"
        if _foreign(now, entry):
            return f"left at {now / 1e3:g} W, which somebody else has set"
        self._nv.nvmlDeviceSetPowerManagementLimit(handle, old)
        return f"restored to {old / 1e3:g} W"

    def _handles(self) -> dict[str, Any]:
        found = {}
        for index in range(self._nv.nvmlDeviceGetCount()):
            with contextlib.suppress(self._nv.NVMLError):
                handle = self._nv.nvmlDeviceGetHandleByIndex(index)
                found[_text(self._nv.nvmlDeviceGetUUID(handle))] = handle
        return found

    def _checked(self, index: int, watts: float) -> tuple[str, int, int]:
        if isinstance(watts, bool) or not math.isfinite(watts):
            raise InputError(f"wants watts, got {watts}", field=f"cap of GPU {index}")
        nv = self._nv
        try:
            handle = nv.nvmlDeviceGetHandleByIndex(index)
            low, high = nv.nvmlDeviceGetPowerManagementLimitConstraints(handle)
            now = nv.nvmlDeviceGetPowerManagementLimit(handle)
            uuid = _text(nv.nvmlDeviceGetUUID(handle))
        except nv.NVMLError as error:
            raise NotReady(f"GPU {index}: {error}") from None
        target = round(watts * 1e3)
        if not low <= target <= high:
            raise Refused(
                f"{watts:g} W is outside the {low / 1e3:g} to {high / 1e3:g} W of GPU {index}"
            )
        return uuid, int(now), target

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        try:
            self._nv.nvmlInit()
        except Exception as error:  # each state of a broken driver has its own class
            raise NotReady(f"NVML: {error}") from None
        try:
            yield
        finally:
            self._nv.nvmlShutdown()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out, but for one that is stuck in here: its turn ends after a while.

        Its caps would stay for ever otherwise. When it goes on it finds the file gone and writes
        it again, so that whatever it still sets is put back too.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        ends = time.monotonic() + _PATIENCE_S
        with self._lock_path.open("a") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        break
                    time.sleep(0.02)
            yield

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        return found

    def _save(self, kept: Mapping[str, Any]) -> None:
        if not kept:
            self._path.unlink(missing_ok=True)
            return
        write_synced(self._path, json.dumps(kept))


def write_synced(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves the old one or the new one, and it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    with fresh.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _foreign(now: int, entry: Mapping[str, Any]) -> bool:
    return not any(abs(now - ours) <= _ROUNDING_MW for ours in entry["ours_mw"])


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
