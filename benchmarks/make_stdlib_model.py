"""Make the model that is shipped: a byte-level decoder trained on Python's standard library.

    python benchmarks/make_stdlib_model.py [--steps 1200]

Writes float16 weights and ``config.json`` to ``qcluster/qtransformers/weights/python-stdlib``. The
text is that of the running Python, so another version gives slightly other weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from qcluster.qtransformers.language import train

TARGET = Path(__file__).resolve().parents[1] / "qcluster/qtransformers/weights/python-stdlib"
CONFIG = {
    "model": {"d_model": 96, "nhead": 4, "num_decoder_layers": 2, "max_length": 256,
              "dropout": 0.0, "activation": "gelu_tanh"},
    "data": {"text": "python-stdlib", "length": 96},
    "training": {"batch_size": 16, "learning_rate": 6e-3, "warmup_steps": 60,
                 "weight_decay": 0.1, "log_every": 100},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    config = {**CONFIG, "training": {**CONFIG["training"], "max_steps": steps}}
    with tempfile.TemporaryDirectory() as scratch:
        result = train(config, out=Path(scratch), note=lambda text: print(text, file=sys.stderr))
        made = Path(scratch, "model")
        TARGET.mkdir(parents=True, exist_ok=True)
        halves = {k: v.half() for k, v in load_file(made / "model.safetensors").items()}
        save_file(halves, TARGET / "model.safetensors", metadata={"format": "pt"})
        described = json.loads((made / "config.json").read_text())
    (TARGET / "config.json").write_text(json.dumps(described, indent=1) + "\n")
    print(f"{result['bits_per_byte']:.3f} bits a byte on the last tenth of the text")


if __name__ == "__main__":
    main()
