"""The whole control plane: scale.

    python benchmarks/control_plane.py [--quick] [--fresh] [--only PART ...]

``--quick`` takes fewer seeds and repeats of the same sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import arguments, save

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from control_plane_parts.gangs import bench_gangs  # noqa: E402 - after the path is set
from control_plane_parts.scale import bench_scale  # noqa: E402

PARTS: dict[str, Callable[[bool], Any]] = {"gangs": bench_gangs, "scale": bench_scale}


def main() -> None:
    wanted = list(PARTS)
    if "--only" in sys.argv:
        at = sys.argv.index("--only")
        wanted = [name for name in sys.argv[at + 1 :] if not name.startswith("--")]
        sys.argv[at:] = [name for name in sys.argv[at + 1 :] if name.startswith("--")]
        unknown = sorted(set(wanted) - set(PARTS))
        if unknown or not wanted:
            sys.exit(f"--only wants some of: {', '.join(PARTS)}")
    options = arguments(__doc__ or "")
    for name in wanted:
        save(f"control_plane-{name}", PARTS[name](options.quick))


if __name__ == "__main__":
    main()
