"""A quarter of a real model's heads removed: how close the sentence embeddings stay.

Calibration and test sentences are different; "other text" is of another corpus altogether.
Opponents remove heads and nothing else, as published; ours also refits what stays. Both are shown
the other way too: our choice alone, and their choice with our refit.
"""

from __future__ import annotations

import functools
from typing import Any

import harness
import numpy as np
import torch

from attention_parts.inputs import model_folder
from qcluster.q_attention.model_pruner import Calibration, refit
from qcluster.q_attention.pruner import QSVDHeadPruner, leading_values

SHARE = 0.25
CALIBRATION, TEST = 120, 60
VERSION = 1


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
        for i, dense in enumerate(self.own):
            dense.register_forward_pre_hook(self._hook(i))

    def _hook(self, i: int) -> Any:
        def hook(_module: Any, args: Any) -> Any:
            heads = args[0].reshape(*args[0].shape[:-1], 12, 32)
            return ((heads * self.gates[i][:, None]).reshape(args[0].shape),)

        return hook

    def batches(self, sentences: list[str]) -> list[tuple[list[int], torch.Tensor]]:
        """(places, tokens) of sentences of equal length, so that nothing is padded."""
        groups: dict[int, tuple[list[int], list[list[int]]]] = {}
        for place, text in enumerate(sentences):
            ids = self.tokenizer.encode(text).ids[:128]
            places, rows = groups.setdefault(len(ids), ([], []))
            places.append(place)
            rows.append(ids)
        return [(places, torch.tensor(rows)) for places, rows in groups.values()]

    def run(self, batch: tuple[list[int], torch.Tensor]) -> torch.Tensor:
        """(sentences, 384) mean-pooled."""
        return self.model(batch[1]).last_hidden_state.mean(1)

    def embed(self, sentences: list[str], grad: bool = False) -> torch.Tensor:
        """(sentences, 384) mean-pooled, unit length."""
        out = torch.zeros(len(sentences), 384)
        with torch.set_grad_enabled(grad):
            for batch in self.batches(sentences):
                hidden = self.run(batch)
                out[batch[0]] = hidden / hidden.norm(dim=1, keepdim=True)
        return out

    def calibration(self, sentences: list[str]) -> Calibration:
        """Projections with the norms behind them."""
        sums = [layer.attention.output.LayerNorm for layer in self.layers]
        return Calibration(self.run, self.batches(sentences), self.own, 12, sums)

    def use(self, kept: Any, w_o: Any = None, bias: Any = None) -> None:
        """Heads that stay, perhaps with other output projections; None restores."""
        for i, dense in enumerate(self.own):
            w, b = self.weights[i]
            dense.weight.data = w if w_o is None else torch.as_tensor(w_o[i]).float()
            dense.bias.data = b if bias is None else b + torch.as_tensor(bias[i]).float()
            self.gates[i] = torch.ones(12) if kept is None else torch.as_tensor(kept[i]).float()


def _sentences() -> tuple[list[str], list[str]]:
    """Film reviews, and sentences of linguists."""
    folder = harness.DATA / "attention"
    lines = (folder / "sst2_train.txt").read_text().splitlines()
    others = (folder / "cola_train.tsv").read_text().splitlines()
    return [line.split(" ", 1)[1] for line in lines], [line.split("\t")[3] for line in others]


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
    folder = model_folder()
    if folder is None:
        print("\npruner: not run, QCLUSTER_MINILM names no model")
        return {"reason": "QCLUSTER_MINILM names no model"}
    torch.set_num_threads(1)
    model, (sentences, others) = _Model(folder), _sentences()
    rows = [
        harness.cached(
            "attention_pruner",
            [seed, VERSION],
            functools.partial(_one, model, sentences, others, seed),
            fresh=fresh,
        )
        for seed in range(2 if quick else 10)
    ]
    names = list(rows[0])
    mean = ["mean", *(float(np.mean([r[n] for r in rows])) for n in names[1:])]
    least = ["least", *(min(r[n] for r in rows) for n in names[1:])]
    harness.table("Cosine to the unpruned model, 25 % of 72 heads removed", names,
                  [[r[n] for n in names] for r in rows] + [mean, least])  # fmt: skip
    return rows


def _one(model: _Model, sentences: list[str], others: list[str], seed: int) -> dict[str, Any]:
    """Cosines of one draw of calibration and test sentences."""
    order = np.random.default_rng(seed).permutation(len(sentences))
    calibration = [sentences[i] for i in order[:CALIBRATION]]
    test = [sentences[i] for i in order[-TEST:]]
    apart = [others[i] for i in np.random.default_rng(seed).permutation(len(others))[:TEST]]
    whole, whole_apart = model.embed(test), model.embed(apart)
    ready = model.calibration(calibration)
    seen = ready.observe(range(6))

    def refitted(kept: np.ndarray) -> tuple[Any, ...]:
        weights, biases = refit(ready, kept, [sums for _, sums in seen])
        own = [b - bias for b, (_, bias) in zip(biases, model.weights, strict=True)]
        return kept, weights, own

    pruned = QSVDHeadPruner(SHARE, mode="joint").fit_model(ready, seed=seed)
    contexts = [inputs.reshape(-1, 12, 32).numpy() for inputs, _ in seen]
    whitened = QSVDHeadPruner(SHARE).fit(contexts, [w.numpy() for w, _ in model.weights])
    literal = np.stack([
        leading_values(*(
            part.weight.detach().numpy().reshape(12, 32, 384).transpose(0, 2, 1)
            for part in (layer.attention.self.query, layer.attention.self.key)
        ))
        for layer in model.layers
    ])  # fmt: skip
    michel = _lowest(_michel(model, calibration))
    chance = _lowest(np.random.default_rng(seed).random((6, 12)))
    choices: dict[str, tuple[Any, ...]] = {
        "ours": (pruned.kept, pruned.w_o, pruned.bias),
        "ours, choice alone": (pruned.kept,),
        "Michel": (michel,),
        "Michel + our refit": refitted(michel),
        "random": (chance,),
        "random + our refit": refitted(chance),
        "whitened, layer by layer": (whitened.kept, whitened.w_o, whitened.bias),
        "literal rule": (_lowest(literal),),
    }
    row: dict[str, Any] = {"seed": seed}
    for name, how in choices.items():
        model.use(*how)
        row[name] = float((model.embed(test) * whole).sum(1).mean())
        if name in ("ours", "Michel"):
            row[f"{name}, other text"] = float((model.embed(apart) * whole_apart).sum(1).mean())
    model.use(None)
    return row
