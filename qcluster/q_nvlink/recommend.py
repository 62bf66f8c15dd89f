"""The recommendation table: which toggles for which cluster."""

from __future__ import annotations

from qcluster.config import Recommendation
from qcluster.q_nvlink.config import NVLinkConfig

__all__ = ["recommend"]

_SMALL = ("Fewer than 8 GPUs", "Classifier only", "Minimal overhead")
_MIDDLE = ("8-32 GPUs", "QAOA optimizer", "Good balance of search and runtime")
_LARGE = ("32+ GPUs", "QAOA + RL planner", "Necessary for dynamic heavy loads")
_STATIC = ("Static training cluster", "Classifier + RL", "Learns stable patterns")

_MEASURED_QAOA = (
    "QAOA never makes the rounds worse and has not made them fewer than tabu search in the same "
    "time: at these sizes the classical bound is met without it"
)


def recommend(num_gpus: int | None = None, static: bool = False) -> Recommendation[NVLinkConfig]:
    """The row of the table for a cluster.

    Parameters
    ----------
    num_gpus: size of the cluster, at least 1; 8 and 32 belong to the middle row. May be left out
        for a static cluster.
    static: whether the graph and the jobs rarely change; then size does not matter.

    Raises
    ------
    ValueError: outside the table; the message lists the choices.
    """
    valid = isinstance(num_gpus, int) and not isinstance(num_gpus, bool) and num_gpus >= 1
    if not isinstance(static, bool) or not (valid or (static and num_gpus is None)):
        raise ValueError(
            f"num_gpus={num_gpus!r}, static={static!r} is not in the table; choices: num_gpus "
            "fewer than 8, 8-32, 32+ (an integer of at least 1), or static=True"
        )
    if static:
        return _row(_STATIC, qaoa=False, measured=None)
    assert num_gpus is not None
    if num_gpus < 8:
        return _row(_SMALL, qaoa=False, measured=None)
    return _row(_MIDDLE if num_gpus <= 32 else _LARGE, qaoa=True, measured=_MEASURED_QAOA)


def _row(
    row: tuple[str, str, str], *, qaoa: bool, measured: str | None
) -> Recommendation[NVLinkConfig]:
    columns = ("Cluster Size", "Recommended Toggles", "Notes")
    return Recommendation(
        row=dict(zip(columns, row, strict=True)),
        config=NVLinkConfig(qaoa=qaoa),
        measured=measured,
    )
