"""The finished trials of a stored study or searcher, whichever the file is."""

from __future__ import annotations

import json
from pathlib import Path

from qcluster.errors import FormatError
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["SEARCHER_VERSION", "stored_trials"]

SEARCHER_VERSION = 1


def stored_trials(path: Path) -> list[Trial]:
    """Trials that ended, in their order. Raises FormatError if the file is neither."""
    try:
        first = json.loads(path.read_text().split("\n", 1)[0])
    except (OSError, ValueError) as error:
        raise FormatError(f"is neither a study nor a searcher: {error}", file=path) from None
    if isinstance(first, dict) and "qcluster_searcher" in first:
        if first["study"] is None:
            return []
        study = Study.from_records(first["study"], file=path)
    else:
        study = Study.load(path)
    return [trial for trial in study.history if trial.status != "running"]
