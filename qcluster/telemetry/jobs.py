"""Job profiles: what runs or wants to run, and how its ranks talk.

    [{id, gpus, traffic, pinned, deadline_s, after, duration_s, power_w}]

``traffic`` is a matrix of bytes between ranks, or ``{kind, bytes}`` with kind ring, allreduce,
allgather, all_to_all or pipeline and bytes per rank and step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.record import Record
from qcluster.telemetry.documents import read_document
from qcluster.telemetry.topology import name_of, number

__all__ = ["TRAFFIC_KINDS", "Job"]

TRAFFIC_KINDS = ("ring", "allreduce", "allgather", "all_to_all", "pipeline")
_FIELDS = {"id", "gpus", "traffic", "pinned", "deadline_s", "after", "duration_s", "power_w",
           "accelerator_s"}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Job(Record):
    """One job.

    ``gpus`` is how many it needs. ``matrix`` (gpus, gpus) is bytes from rank to rank in a step;
    None when only ``kind`` and ``bytes`` (per rank and step) are known. ``pinned`` lists GPU ids
    it must have. ``after`` lists jobs it waits for. ``deadline_s`` and ``duration_s`` are seconds,
    0 when unknown; ``power_w`` is watts of the whole job, 0 when unknown. ``accelerator_s`` maps
    kinds of other accelerators that could run it to the seconds it would take there.
    """

    id: str
    gpus: int
    kind: str = "allreduce"
    bytes: float = 0.0
    matrix: NDArray[np.float64] | None = None
    pinned: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    deadline_s: float = 0.0
    duration_s: float = 0.0
    power_w: float = 0.0
    accelerator_s: dict[str, float] = field(default_factory=dict)

    def traffic(self) -> NDArray[np.float64]:
        """Bytes from rank to rank in one step, (gpus, gpus), diagonal 0."""
        if self.matrix is not None:
            return self.matrix
        n = self.gpus
        out = np.zeros((n, n))
        if n < 2:
            return out
        if self.kind in ("allgather", "all_to_all"):
            out[:] = self.bytes / (n - 1)
            np.fill_diagonal(out, 0.0)
            return out
        ranks = np.arange(n)
        # A ring moves 2 (n - 1) / n of the buffer over each hop for an allreduce.
        per_hop = self.bytes * (2 * (n - 1) / n if self.kind == "allreduce" else 1.0)
        out[ranks, (ranks + 1) % n] = per_hop
        if self.kind == "pipeline":
            out[n - 1, 0] = 0.0
        return out

    @classmethod
    def parse_all(cls, data: Any, *, file: Any = None) -> tuple[Job, ...]:
        """The jobs of a job-profile file's content.

        Raises FormatError naming position and field; also for a job that waits for an unknown one.
        """
        if isinstance(data, Mapping) and set(data) == {"jobs"}:
            data = data["jobs"]
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise FormatError("wants a list of jobs", file=file)
        jobs = tuple(_job(row, f"[{index}]", file) for index, row in enumerate(data))
        first: dict[str, int] = {}
        for index, job in enumerate(jobs):
            if first.setdefault(job.id, index) != index:
                raise FormatError(f"'{job.id}' stands twice", file=file, field=f"[{index}].id")
        for index, job in enumerate(jobs):
            for other in job.after:
                if other not in first:
                    message = f"waits for '{other}', which is no job"
                    raise FormatError(message, file=file, field=f"[{index}].after")
        return jobs

    @classmethod
    def read_all(cls, path: str | Path) -> tuple[Job, ...]:
        """A job-profile file, YAML or JSON by its ending."""
        return cls.parse_all(read_document(path), file=path)


def _job(row: Any, place: str, file: Any) -> Job:
    if not isinstance(row, Mapping):
        raise FormatError("wants a mapping", file=file, field=place)
    unknown = set(row) - _FIELDS
    if unknown:
        raise FormatError("no such field", file=file, field=f"{place}.{min(map(str, unknown))}")
    gpus = row.get("gpus")
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not 1 <= gpus <= 100_000:
        raise FormatError(
            f"wants a count of GPUs, got {gpus!a:.40}", file=file, field=f"{place}.gpus"
        )
    kind, per_rank, matrix = _traffic(row.get("traffic", {}), gpus, f"{place}.traffic", file)
    return Job(
        id=name_of(row, "id", place, file),
        gpus=gpus,
        kind=kind,
        bytes=per_rank,
        matrix=matrix,
        pinned=_names(row.get("pinned"), f"{place}.pinned", file),
        after=_names(row.get("after"), f"{place}.after", file),
        deadline_s=number(row, "deadline_s", place, file, default=0.0),
        duration_s=number(row, "duration_s", place, file, default=0.0),
        power_w=number(row, "power_w", place, file, default=0.0),
        accelerator_s=_seconds(row.get("accelerator_s"), f"{place}.accelerator_s", file),
    )


def _seconds(data: Any, place: str, file: Any) -> dict[str, float]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise FormatError("wants a mapping of kinds to seconds", file=file, field=place)
    out = {str(kind): number(data, kind, place, file) for kind in data}
    for kind, seconds in out.items():
        if seconds <= 0:
            raise FormatError(f"wants above 0, got {seconds:g}", file=file, field=f"{place}.{kind}")
    return out


def _traffic(
    data: Any, gpus: int, place: str, file: Any
) -> tuple[str, float, NDArray[np.float64] | None]:
    if isinstance(data, Mapping):
        kind = data.get("kind", "allreduce")
        if not isinstance(kind, str) or kind not in TRAFFIC_KINDS:
            wanted = ", ".join(TRAFFIC_KINDS)
            raise FormatError(f"wants one of {wanted}", file=file, field=f"{place}.kind")
        return kind, number(data, "bytes", place, file, default=0.0), None
    try:
        matrix = np.array(data, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise FormatError("wants a matrix of numbers", file=file, field=place) from None
    if matrix.shape != (gpus, gpus):
        message = f"wants shape ({gpus}, {gpus}), got {matrix.shape}"
        raise FormatError(message, file=file, field=place)
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise FormatError("wants finite bytes of at least 0", file=file, field=place)
    np.fill_diagonal(matrix, 0.0)
    return "matrix", float(matrix.sum(axis=1).max(initial=0.0)), matrix


def _names(data: Any, place: str, file: Any) -> tuple[str, ...]:
    if data is None:
        return ()
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise FormatError("wants a list of names", file=file, field=place)
    for name in data:
        if (
            not isinstance(name, (str, int))
            or isinstance(name, bool)
            or not str(name).isprintable()
        ):
            raise FormatError("wants a list of names", file=file, field=place)
    return tuple(str(name) for name in data)
