"""Logits of imported weights against transformers': tiny random models, and MiniLM."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from harness import table

from qcluster.qtransformers.hf import from_state, load_model


def run(quick: bool, _fresh: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    rows = []
    small = {"vocab_size": 97, "initializer_range": 0.4}
    bert = transformers.BertConfig(
        **small, hidden_size=24, num_attention_heads=3, num_hidden_layers=3, intermediate_size=40,
        max_position_embeddings=64,
    )  # fmt: skip
    gpt = transformers.GPT2Config(**small, n_embd=24, n_head=3, n_layer=3, n_positions=64)
    ids = torch.randint(0, 97, (8, 40), generator=torch.Generator().manual_seed(0))
    for kind, config in (
        ("BertForMaskedLM", bert), ("BertForSequenceClassification", bert),
        ("GPT2LMHeadModel", gpt),
    ):  # fmt: skip
        worst, size = 0.0, 0.0
        for seed in range(3 if quick else 10):
            torch.manual_seed(seed)
            model = getattr(transformers, kind)(config).eval()
            with torch.no_grad():
                want = model(ids).logits
                got = from_state(config.to_dict(), model.state_dict()).eval()(ids).logits
            worst = max(worst, float((want - got).abs().max()))
            size = max(size, float(want.abs().max()))
        rows.append((kind, worst, size))
    home = os.environ.get("QCLUSTER_MINILM")
    if home:
        rows.append(_minilm(Path(home), transformers))
    else:
        print("MiniLM left out: QCLUSTER_MINILM names no directory (see opponents/training.txt)")
    table("largest difference of logits or states (bar 1e-4)",
          ("model", "difference", "largest value"), rows)  # fmt: skip
    return rows


def _minilm(home: Path, transformers: Any) -> tuple[str, float, float]:
    from qcluster.qtransformers.evaluation.wordpiece import WordPiece

    texts = [("The cat sat on the mat.",), ("A much longer sentence, with commas, follows it.",)]
    batch = WordPiece.read(home / "vocab.txt").batch(texts, 64)
    theirs = transformers.BertModel.from_pretrained(home).eval()
    with torch.no_grad():
        want = theirs(**batch).last_hidden_state
        got = load_model(home, head="none").eval()(**batch).hidden
    kept = batch["attention_mask"].bool()
    return "MiniLM-L6-v2", float((want - got)[kept].abs().max()), float(want[kept].abs().max())
