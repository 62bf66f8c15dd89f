"""The recommendation table: which toggles for which cluster."""

from __future__ import annotations

from qcluster.config import Recommendation
from qcluster.q_nvlink.config import NVLinkConfig

__all__ = ["recommend"]

_SMALL = ("Fewer than 8 GPUs", "Classifier only", "Minimal overhead")
_MIDDLE = ("8-32 GPUs", "QAOA optimizer", "Good balance of search and runtime")
_LARGE = ("32+ GPUs", "QAOA + RL planner", "Necessary for dynamic heavy loads")
_COLUMNS = ("Cluster Size", "Recommended Toggles", "Notes")
_STATIC = ("Static training cluster", "Classifier + RL", "Learns stable patterns")

_MEASURED = {
    "classifier": "the classifier tells contended layouts from others with a balanced accuracy of "
    "0.9; plans with it are as good as the search without it, as they are routed either way",
    "qaoa": "QAOA never makes the rounds worse and has not made them fewer than tabu search in the "
    "same time: at these sizes the classical bound is met without it",
    "rl": "the agents' routes are never slower than shortest paths and within 5 % of the optimum; "
    "the gain is on fabrics with several ways between GPUs: on clusters of 128 to 2,048 GPUs with "
    "a card a GPU the step takes 0.51 to 0.57 of the time; none behind one layer of switches",
}
_PAID = {"rl": True}  # what was measured to shorten a step


def recommend(
    num_gpus: int | None = None, static: bool = False, *, auto: bool = False
) -> Recommendation[NVLinkConfig]:
    """The row of the table for a cluster.

    Parameters
    ----------
    num_gpus: size of the cluster, at least 1; 8 and 32 belong to the middle row. May be left out
        for a static cluster.
    static: whether the graph and the jobs rarely change; then size does not matter.
    auto: the row's text as it is, but a configuration with what our measurements say pays.

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
        row, toggles = _STATIC, {"classifier": True, "rl": True}
    elif num_gpus is not None and num_gpus < 8:
        row, toggles = _SMALL, {"classifier": True}
    elif num_gpus is not None and num_gpus <= 32:
        row, toggles = _MIDDLE, {"qaoa": True}
    else:
        row, toggles = _LARGE, {"qaoa": True, "rl": True}
    measured = "; ".join(_MEASURED[name] for name in toggles)
    return Recommendation(
        row=dict(zip(_COLUMNS, row, strict=True)),
        config=NVLinkConfig(**(_PAID if auto else toggles)),
        measured=measured,
    )
