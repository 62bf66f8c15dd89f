"""What every benchmark needs: paired timing, a table, a JSON file, a cache for opponents' results.

Times are compared as ratios of medians over alternated repeats (A B A B ...), so that drift of the
machine hits both sides alike. Results land in ``benchmarks/results/<name>.json`` with versions and
machine; opponents' results are cached under a hash of what they were given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("QCLUSTER_DATA") or HERE.parent.parent / "shared" / "data")

Part = Callable[[bool, bool], Any]
"""A part of a benchmark: called with quick and fresh, gives what is saved."""


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` (small sizes, at most 10 minutes) and ``--fresh`` (ignore earlier results)."""
    return _parser(description).parse_args()


def run_parts(
    area: str, description: str, parts: Mapping[str, Part], packages: Sequence[str] = ()
) -> None:
    """The command line of a benchmark in parts: ``arguments`` and ``--only PART,PART``.

    Each part is called with quick and fresh; what it returns is saved as ``AREA_PART``, None not.
    """
    parser = _parser(description.splitlines()[0])
    parser.add_argument("--only", default=",".join(parts), help="parts, comma separated")
    chosen = parser.parse_args()
    names = chosen.only.split(",")
    if unknown := [name for name in names if name not in parts]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    for name in names:
        results = parts[name](chosen.quick, chosen.fresh)
        if results is not None:
            save(f"{area}_{name}", results, packages)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    return parser


def paired(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Median seconds of each, alternated after one warm-up of both.

    ``clock=time.process_time`` counts the process's own time, for work of one thread on a machine
    that others use too.
    """
    ours()
    theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, call in zip(times, (ours, theirs), strict=True):
            start = clock()
            call()
            side.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def cached(area: str, key: Any, compute: Callable[[], Any], *, fresh: bool = False) -> Any:
    """``compute()``'s JSON-able result, kept under a hash of ``key``: content, not names."""
    path = _cache_path(area, key)
    if path.exists() and not fresh:
        return json.loads(path.read_text())
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return result


def is_cached(area: str, key: Any) -> bool:
    """Whether ``cached`` would answer without computing."""
    return _cache_path(area, key).exists()


def _cache_path(area: str, key: Any) -> Path:
    text = json.dumps(key, sort_keys=True, default=str)
    return HERE / ".cache" / area / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print aligned columns."""
    shown = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(columns), *shown]) for i in range(len(columns))]
    print(f"\n{title}")
    for row in [list(columns), ["-" * w for w in widths], *shown]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def save(name: str, results: Any, packages: Sequence[str] = ()) -> Path:
    """Write ``benchmarks/results/<name>.json`` with versions and machine."""
    path = HERE / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    report = {
        "name": name,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in ("numpy", "numba", *packages)},
        "results": results,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwrote {path.relative_to(HERE.parent)}")
    return path


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
