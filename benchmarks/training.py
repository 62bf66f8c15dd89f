"""Training: every bar against a named opponent, from one run.

    python benchmarks/training.py [--quick] [--fresh] [--only leaks,parity]

Data come from the folder that QCLUSTER_DATA names; MiniLM's directory (weights and vocab.txt of the
package in benchmarks/opponents/training.txt) from QCLUSTER_MINILM. Finished parts are cached, so an
interrupted run goes on. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import torch
from training_parts import leaks, parity, sampled, scaling, shakespeare

PARTS: dict[str, harness.Part] = {
    "parity": parity.run,
    "step": shakespeare.run_step,
    "leaks": leaks.run,
    "scaling": scaling.run,
    "shakespeare": shakespeare.run,
    "sampled": sampled.run,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    harness.run_parts("training", __doc__, PARTS, ("torch", "transformers", "ray"))
