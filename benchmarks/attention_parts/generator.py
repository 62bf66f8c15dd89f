"""Long keys and values like those of a trained model, seeded.

Fitted to the real ones: keys and values of two heads of a layer (32 + 32 channels) are clustered
into 48 kinds of token with means and joint covariances of (k, v); tokens follow the kinds' own
Markov chain, so neighbours are alike as in text. Queries are real ones of the layer. Every third
head is left like this (wide attention, as in the model), the others get what long-context models
are known to have:

local      scores fall by 1 every 400 keys back
sink       the first four keys take about half of the mass (Xiao et al., 2024)
retrieval  eight keys far apart take about half, over many near-misses of half their lead
"""

from __future__ import annotations

import numpy as np
import torch
from attention_parts import inputs

KINDS = ("wide", "local", "sink", "retrieval")
TOKENS = 48


def make(n: int, heads: int = 8, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """q (1, heads, 1, 64), k and v (1, heads, n, 64), earlier queries (1, heads, 255, 64), float32;
    head h is of KINDS[h % 4].
    """
    q, k, v = (x.numpy() for x in inputs.shared())
    generator = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[], [], [], []]
    for head in range(heads):
        layer = head % 6
        real = np.concatenate([k[layer, 0], k[layer, 1], v[layer, 0], v[layer, 1]], -1)
        rows = _tokens(real.astype(np.float64), n, generator)
        keys, values = rows[:, :64], rows[:, 64:]
        asks = np.concatenate([q[layer, 0], q[layer, 1]], -1)[generator.permutation(512)[:256]]
        ask = asks[0]
        # Two heads' scores add up: 1 / sqrt(64) in place of 1 / sqrt(32) keeps their deviation.
        keys = _shape(KINDS[head % 4], keys, ask, generator)
        for store, item in zip(found, (ask[None], keys, values, asks[1:]), strict=True):
            store.append(item.astype(np.float32))
    return tuple(torch.from_numpy(np.stack(part))[None].contiguous() for part in found)


def _tokens(real: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    from sklearn.cluster import KMeans

    kind = KMeans(TOKENS, n_init=1, random_state=0).fit_predict(real)
    chain = np.full((TOKENS, TOKENS), 1 / TOKENS)
    np.add.at(chain, (kind[:-1], kind[1:]), 1.0)
    chain = (chain / chain.sum(1, keepdims=True)).cumsum(1)
    path = np.empty(n, np.int64)
    path[0], steps = kind[0], generator.random(n)
    for i in range(1, n):
        path[i] = min(TOKENS - 1, np.searchsorted(chain[path[i - 1]], steps[i]))
    rows = np.empty((n, real.shape[1]))
    shared = np.cov((real - np.stack([real[kind == t].mean(0) for t in range(TOKENS)])[kind]).T)
    for t in range(TOKENS):
        here = np.flatnonzero(path == t)
        own = real[kind == t]
        # Few tokens of a kind: its covariance is mixed with the mean one.
        part = len(own) / (len(own) + real.shape[1] / 4)
        covariance = (1 - part) * shared
        if len(own) > 1:
            covariance = covariance + part * np.cov(own.T)
        rows[here] = generator.multivariate_normal(
            own.mean(0), covariance, len(here), method="eigh", check_valid="ignore"
        )
    return rows


def _shape(
    kind: str, keys: np.ndarray, ask: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    n = len(keys)
    along = ask * 8 / (ask @ ask)  # a key moved by this scores 1 more
    scores = keys @ ask / 8
    level = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
    if kind == "local":
        return keys - np.outer((n - 1 - np.arange(n)) / 400, along)
    if kind == "sink":
        wanted = np.full(4, level - np.log(4))
        keys[:4] += np.outer(wanted - scores[:4], along)
    if kind == "retrieval":
        needles = generator.choice(n, 8, replace=False)
        near = generator.choice(n, n // 100, replace=False)
        wanted = level - np.log(8)
        half = (wanted + np.median(scores)) / 2
        keys[near] += np.outer(half - scores[near], along)
        scores = keys @ ask / 8
        keys[needles] += np.outer(wanted - scores[needles], along)
    return keys
