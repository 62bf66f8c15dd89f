"""Compression against the rate-distortion function and the peers, in real bytes with all headers.

    python benchmarks/compression.py [--quick] [--only PART]

The peers live in an environment of their own: QCLUSTER_OPPONENTS_COMPRESSION names its interpreter
(benchmarks/opponents/compression.txt); their results are cached. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compression_parts import certainty, ddp, exact, hostile, lossy, speed
from harness import save

PARTS = {
    "gaussian": lossy.gaussian,
    "tensors": lossy.tensors,
    "max_error": lossy.max_error,
    "lossless": exact.lossless,
    "delta": exact.delta,
    "speed": speed.speed,
    "lossless_speed": speed.lossless_speed,
    "certainty": certainty.certainty,
    "vqc": lossy.vqc,
    "hostile": hostile.hostile,
    "ddp": ddp.ddp,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tensors, under 10 minutes")
    parser.add_argument("--only", choices=sorted(PARTS), help="one table")
    chosen = parser.parse_args()
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            save(f"compression_{name}", part(quick=chosen.quick), ("torch", "zstandard", "blake3"))


if __name__ == "__main__":
    main()
