"""A quarter of a real model's heads removed: how close the sentence embeddings stay.

Calibration and test sentences are different. Opponents remove heads and nothing else, as published;
ours also moves what it can to the heads that stay, and is shown without that too.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import torch

from attention_parts.inputs import model_folder
from qcluster.q_attention.pruner import QSVDHeadPruner, leading_values

SHARE = 0.25


class _Model:
    """MiniLM's encoder with its heads in reach."""

    def __init__(self, folder: Any) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.layers = self.model.encoder.layer
        self.own = [layer.attention.output.dense for layer in self.layers]
        self.weights = [(d.weight.detach().clone(), d.bias.detach().clone()) for d in self.own]
        self.gates = [torch.ones(12) for _ in self.layers]
        self.contexts: list[list[torch.Tensor]] | None = None
        for i, dense in enumerate(self.own):
            dense.register_forward_pre_hook(self._hook(i))

    def _hook(self, i: int) -> Any:
        def hook(_module: Any, args: Any) -> Any:
            heads = args[0].reshape(*args[0].shape[:-1], 12, 32)
            if self.contexts is not None:
                self.contexts[i].append(heads.detach().reshape(-1, 12, 32))
            return ((heads * self.gates[i][:, None]).reshape(args[0].shape),)

        return hook

    def embed(self, sentences: list[str], grad: bool = False) -> torch.Tensor:
        """(sentences, 384) mean-pooled, unit length."""
        rows = []
        with torch.set_grad_enabled(grad):
            for text in sentences:
                ids = torch.tensor([self.tokenizer.encode(text).ids[:128]])
                hidden = self.model(ids).last_hidden_state[0].mean(0)
                rows.append(hidden / hidden.norm())
        return torch.stack(rows)

    def use(self, kept: Any, w_o: Any = None, bias: Any = None) -> None:
        """Heads that stay, perhaps with other output projections; None restores."""
        for i, dense in enumerate(self.own):
            w, b = self.weights[i]
            dense.weight.data = w if w_o is None else torch.as_tensor(w_o[i]).float()
            dense.bias.data = b if bias is None else b + torch.as_tensor(bias[i]).float()
            self.gates[i] = torch.ones(12) if kept is None else torch.as_tensor(kept[i]).float()


def _sentences() -> list[str]:
    lines = (harness.DATA / "attention" / "sst2_train.txt").read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines]


def _michel(model: _Model, sentences: list[str]) -> np.ndarray:
    """|gradient of the loss by each head's gate|, normed by layer (Michel et al., 2019); the loss
    is the distance of two halves' embeddings, as there are no labels.
    """
    model.use(None)
    scores = torch.zeros(6, 12)
    model.gates = [torch.ones(12, requires_grad=True) for _ in range(6)]
    for text in sentences:
        words = text.split()
        half = len(words) // 2 or 1
        a, b = model.embed([" ".join(words[:half]), " ".join(words[half:]) or text], grad=True)
        loss = 1 - a @ b
        for i, gradient in enumerate(torch.autograd.grad(loss, model.gates)):
            scores[i] += gradient.abs()
    model.use(None)
    return (scores / scores.norm(dim=1, keepdim=True)).numpy()


def _lowest(scores: np.ndarray) -> np.ndarray:
    kept = np.ones(72, bool)
    kept[np.argsort(scores.ravel(), kind="stable")[: round(72 * SHARE)]] = False
    return kept.reshape(6, 12)


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return; nothing without the model."""
    del fresh
    folder = model_folder()
    if folder is None:
        print("\npruner: not run, QCLUSTER_MINILM names no model")
        return {"reason": "QCLUSTER_MINILM names no model"}
    torch.set_num_threads(1)
    model, sentences = _Model(folder), _sentences()
    rows = []
    for seed in range(3 if quick else 10):
        order = np.random.default_rng(seed).permutation(len(sentences))
        calibration = [sentences[i] for i in order[:120]]
        test = [sentences[i] for i in order[-60:]]
        whole = model.embed(test)
        model.contexts = [[] for _ in range(6)]
        model.embed(calibration)
        contexts = [torch.cat(c).numpy() for c in model.contexts]
        model.contexts = None
        pruned = QSVDHeadPruner(SHARE).fit(contexts, [w.numpy() for w, _ in model.weights])
        literal = np.stack([
            leading_values(*(
                part.weight.detach().numpy().reshape(12, 32, 384).transpose(0, 2, 1)
                for part in (layer.attention.self.query, layer.attention.self.key)
            ))
            for layer in model.layers
        ])  # fmt: skip
        generator = np.random.default_rng(seed)
        choices: dict[str, tuple[Any, ...]] = {
            "ours": (pruned.kept, pruned.w_o, pruned.bias),
            "ours, choice alone": (pruned.kept,),
            "Michel": (_lowest(_michel(model, calibration[:40])),),
            "literal rule": (_lowest(literal),),
            "random": (_lowest(generator.random((6, 12))),),
        }
        row: dict[str, Any] = {"seed": seed}
        for name, how in choices.items():
            model.use(*how)
            row[name] = float((model.embed(test) * whole).sum(1).mean())
        model.use(None)
        rows.append(row)
    names = list(rows[0])
    mean = ["mean", *(float(np.mean([r[n] for r in rows])) for n in names[1:])]
    harness.table("Cosine to the unpruned model, 25 % of 72 heads removed", names,
                  [[r[n] for n in names] for r in rows] + [mean])  # fmt: skip
    return rows
