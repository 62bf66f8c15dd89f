"""The toggles one by one, then together through ``attend``."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qcluster.errors import FormatError, InputError
from qcluster.q_attention import (
    AttentionConfig,
    ContrastiveTrainer,
    QAOASparseAttention,
    QPEPositionEncoder,
    QSVDHeadPruner,
    attend,
    attention,
    recommend,
)
from qcluster.q_attention.attend import attend_with_report
from qcluster.q_attention.contrastive import contrastive_loss
from qcluster.q_attention.fidelity import circuit_fidelities, fidelities, kernel_attention, rbf
from qcluster.q_attention.problem import state
from qcluster.q_attention.pruner import leading_values
from qcluster.q_attention.qaoa_pages import brute_force, choose_pages


def embeddings(n=24, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def pages(m, seed):
    generator = np.random.default_rng(seed)
    relevance = generator.exponential(size=m)
    directions = generator.normal(size=(m, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return relevance, np.clip(directions @ directions.T, 0, None)


@pytest.mark.parametrize(("m", "count", "seed"), [(4, 2, 0), (8, 3, 1), (10, 5, 2), (12, 4, 3)])
def test_chosen_pages_are_near_the_best(m, count, seed) -> None:
    s, r = pages(m, seed)
    choice = choose_pages(s, r, count, seed=seed, deadline_s=0.2)
    best = brute_force(s, r, count)
    assert choice.value >= 0.95 * best
    assert len(choice.pages) == count
    assert choice.value <= best + 1e-9
    assert all(value <= best + 1e-9 for value in choice.baselines.values())
    chosen = list(choice.pages)
    assert choice.value == pytest.approx(
        s[chosen].sum() - np.triu(r[np.ix_(chosen, chosen)], 1).sum()
    )


def test_without_redundancy_sorting_is_exact() -> None:
    s, r = pages(9, 4)
    choice = choose_pages(s, r, 3, redundancy=0.0)
    assert choice.baselines["sort"] == pytest.approx(brute_force(s, r, 3, redundancy=0.0))


@pytest.mark.parametrize("n", [3, 32, 50])
def test_pages_cover_what_they_say(n) -> None:
    x = torch.randn(2, n, 8)
    sparse = QAOASparseAttention(8, 2)
    mask = sparse.mask(x, x)
    assert mask.shape == (2, 1, n)
    assert sparse.edges(n)[0] == 0
    assert sparse.edges(n)[-1] == n
    assert np.diff(sparse.edges(n)).min() >= 1
    assert (mask.sum(-1) >= 2 * (n // 8)).all()


def test_the_page_of_the_key_that_matters_is_chosen() -> None:
    k = 0.1 * torch.randn(1, 64, 8)
    k[0, 40:44] += 3
    q = torch.ones(1, 4, 8)
    assert QAOASparseAttention(16, 3).mask(q, k)[0, 0, 40:44].all()


@pytest.mark.parametrize("mode", ["phases", "outcomes"])
def test_positions_are_what_phase_estimation_gives(mode) -> None:
    t, n = 3, 10
    found = QPEPositionEncoder(t, length=n, mode=mode).features(n)
    for i in range(n):
        psi = np.exp(2j * np.pi * i / n * np.arange(2**t)) / 2 ** (t / 2)
        if mode == "outcomes":
            np.testing.assert_allclose(
                found[i], np.abs(np.fft.fft(psi, norm="ortho")) ** 2, atol=1e-12
            )
            continue
        for qubit in range(t):
            bits = np.arange(2**t) >> qubit & 1
            partner = np.arange(2**t) | 1 << qubit
            coherence = 2 * (psi[bits == 0].conj() * psi[partner[bits == 0]]).sum()
            np.testing.assert_allclose(
                found[i, 2 * qubit : 2 * qubit + 2], [coherence.real, coherence.imag], atol=1e-12
            )


def test_encoding_keeps_kind_and_tells_positions_apart() -> None:
    x = embeddings()
    encoder = QPEPositionEncoder(4)
    out = encoder.encode(x)
    assert out.dtype == x.dtype
    np.testing.assert_allclose(encoder.encode(torch.from_numpy(x)).numpy(), out, rtol=1e-6)
    distances = np.linalg.norm(encoder.features(24)[:, None] - encoder.features(24)[None], axis=-1)
    assert distances[~np.eye(24, dtype=bool)].min() > 0.1


def test_loss_is_the_seeds_and_survives_large_scores() -> None:
    q, k = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    scores = (q @ k.T).exp()
    literal = -(scores.diag() / scores.sum(1)).log().mean()
    torch.testing.assert_close(contrastive_loss(q, k), literal)
    assert torch.isfinite(contrastive_loss(1e4 * q, k))
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, k, symmetric=True), (q,))


def test_training_finds_pairs_and_comes_back_from_disk(tmp_path) -> None:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(80, 8, generator=g)
    q = hidden @ torch.randn(8, 8, generator=g)
    k = hidden @ torch.randn(8, 8, generator=g)
    start = float(((q @ k.T).argmax(1) == torch.arange(80)).double().mean())
    trainer = ContrastiveTrainer(steps=150).fit(q, k)
    assert trainer.recall(q, k) > start + 0.2
    assert np.mean(trainer.history[-10:]) < np.mean(trainer.history[:10])
    trainer.save(tmp_path / "maps")
    again = ContrastiveTrainer.load(tmp_path / "maps")
    assert again.recall(q, k) == trainer.recall(q, k)
    (tmp_path / "maps.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="maps"):
        ContrastiveTrainer.load(tmp_path / "maps")
    with pytest.raises(InputError, match="not trained"):
        ContrastiveTrainer().transform(q, k)


def redundant_layers():
    """Two layers of four heads; in the first 2 repeats 0, in the second 1 is mute."""
    generator = np.random.default_rng(0)
    contexts = generator.normal(size=(2, 300, 4, 3)) + 1.0
    contexts[0, :, 2] = contexts[0, :, 0]
    contexts[1, :, 1] = 0.7 + 1e-3 * generator.normal(size=(300, 3))
    return list(contexts), list(generator.normal(size=(2, 10, 12)))


def test_pruner_removes_what_adds_nothing() -> None:
    contexts, w_o = redundant_layers()
    pruned = QSVDHeadPruner(0.25).fit(contexts, w_o)
    assert sorted(pruned.order) in ([(0, 0), (1, 1)], [(0, 2), (1, 1)])
    assert (~pruned.kept).sum() == 2
    for c, w, v, b in zip(contexts, w_o, pruned.w_o, pruned.bias, strict=True):
        flat = c.reshape(300, -1)
        np.testing.assert_allclose(flat @ v.T + b, flat @ w.T, atol=0.1)


def test_literal_mode_is_the_seeds_rule() -> None:
    generator = np.random.default_rng(1)
    w_q, w_k = generator.normal(size=(2, 3, 8, 4))
    w_q[1] *= 1e-3
    values = leading_values(w_q, w_k)
    assert values[0] == pytest.approx(np.linalg.norm(w_q[0] @ w_k[0].T, 2))
    kept = QSVDHeadPruner(threshold=0.5, mode="literal").heads(w_q, w_k)
    assert kept.tolist() == [True, False, True]


def test_fidelities_are_the_circuits() -> None:
    q, k = torch.randn(1, 5, 4, dtype=torch.float64), torch.randn(1, 7, 4, dtype=torch.float64)
    np.testing.assert_allclose(
        fidelities(q, k)[0].numpy(), circuit_fidelities(q[0].numpy(), k[0].numpy()), atol=1e-8
    )
    small = 0.01
    torch.testing.assert_close(fidelities(small * q, small * k), rbf(small * q, small * k))


@pytest.mark.parametrize("twin", [False, True])
def test_kernel_attention_attends(twin) -> None:
    k = torch.randn(2, 20, 6)
    problem = state(k[:, :3], k, torch.randn(2, 20, 4), is_causal=True)
    out, weights = kernel_attention(problem, qubits=6, twin=twin)
    assert out.shape == (2, 3, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))
    assert float(weights[:, 0, 1:].abs().max()) == 0
    assert (weights.argmax(-1) == torch.arange(3)).all()


@pytest.mark.parametrize("toggles", list(itertools.product([False, True], repeat=5)))
def test_every_combination_of_toggles_attends(toggles) -> None:
    names = ("qaoa", "qpe", "contrastive", "pruner", "kernel")
    config = AttentionConfig(
        heads=4, pages=4, keep=2, steps=3, **dict(zip(names, toggles, strict=True))
    )
    x = embeddings()
    found = attend_with_report(x, config=config)
    assert found.out.shape == x.shape
    assert found.out.dtype == x.dtype
    assert np.isfinite(found.out).all()
    assert {name for name, on in zip(names, toggles, strict=True) if on} == set(found.report)


def test_no_toggle_is_multi_head_attention() -> None:
    x = torch.randn(2, 9, 16)
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    w_q, w_k, w_v = module.in_proj_weight.chunk(3)
    weights = {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": module.out_proj.weight}
    found = attend(x, config={"heads": 4}, weights=weights)
    torch.testing.assert_close(found, module(x, x, x)[0], atol=1e-6, rtol=1e-5)
    assert attend(x).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_kinds_are_kept(dtype) -> None:
    x = torch.from_numpy(embeddings()).to(dtype)
    assert attend(x).dtype == dtype
    array = embeddings().astype(np.float64)
    assert attend(array).dtype == np.float64


def test_budgets_and_bounds_come_with_the_report() -> None:
    x = embeddings(600, 32)
    config = AttentionConfig(heads=2, budget=0.4, certificate=True)
    found = attend_with_report(x, config=config)
    assert found.bound.shape == (2, 600)
    assert found.report["attention"]["share"] <= 0.4


def test_hybrid_heads_are_measured_and_the_rest_are_not() -> None:
    x = torch.from_numpy(embeddings())
    exact = attend(x, config={"heads": 4})
    found = attend_with_report(x, config={"heads": 4, "hybrid": (1, 3), "shots": 2000})
    own = torch.zeros(16, dtype=torch.bool)
    own[4:8] = own[12:] = True
    torch.testing.assert_close(found.out[:, ~own], exact[:, ~own])
    off = (found.out[:, own] - exact[:, own]).abs()
    assert 0 < float(off.max()) < 0.5
    assert found.report["hybrid"]["simulator"] is True


def test_pruner_by_threshold_silences_heads() -> None:
    x = embeddings()
    w = np.eye(16, dtype=np.float32)
    w[:4] *= 1e-3
    weights = {"w_q": w, "w_k": w}
    config = {"heads": 4, "pruner": True, "prune_threshold": 0.1}
    found = attend_with_report(x, config=config, weights=weights)
    assert found.report["pruner"]["kept"] == [False, True, True, True]
    assert np.abs(found.out[:, :4]).max() == 0


@pytest.mark.parametrize(
    ("x", "config", "weights", "field"),
    [
        (np.zeros((3, 4), int), None, None, "embeddings"),
        (np.full((3, 4), np.nan), None, None, "embeddings"),
        (np.zeros((0, 4)), None, None, "embeddings"),
        (np.zeros(4), None, None, "embeddings"),
        (embeddings(), {"heads": 3}, None, "config.heads"),
        (embeddings(), {"heads": 0}, None, "config.heads"),
        (embeddings(), {"quantum": True}, None, "config.quantum"),
        (embeddings(), {"hybrid": (7,)}, None, "config.hybrid"),
        (embeddings(), None, {"w_x": np.eye(16)}, "weights"),
        (embeddings(), None, {"w_q": np.eye(4)}, "weights.w_q"),
    ],
)
def test_wrong_arguments_are_named(x, config, weights, field) -> None:
    with pytest.raises(InputError, match=field):
        attend(x, config=config, weights=weights)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: QAOASparseAttention(17), "pages"),
        (lambda: QAOASparseAttention(4, 5), "keep"),
        (lambda: choose_pages([1.0], [[1.0]], 2), "count"),
        (lambda: choose_pages([np.nan], [[1.0]], 1), "relevance"),
        (lambda: choose_pages([1.0, 2.0], [[0, 1], [0, 0]], 1), "likeness"),
        (lambda: QPEPositionEncoder(0), "qubits"),
        (lambda: QPEPositionEncoder(mode="x"), "mode"),
        (lambda: QPEPositionEncoder(length=0), "length"),
        (lambda: ContrastiveTrainer(lr=0), "lr"),
        (lambda: contrastive_loss(torch.zeros(2, 3), torch.zeros(3, 3)), "k"),
        (lambda: contrastive_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=0), "temp"),
        (lambda: QSVDHeadPruner(1.0), "share"),
        (lambda: QSVDHeadPruner(mode="x"), "mode"),
        (lambda: QSVDHeadPruner(mode="literal"), "threshold"),
        (lambda: QSVDHeadPruner().heads(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))), "mode"),
        (lambda: QSVDHeadPruner().fit([np.zeros((3, 2, 2))], [np.zeros((4, 5))]), "contexts"),
        (lambda: leading_values(np.zeros((2, 2)), np.zeros((2, 2))), "w_q"),
        (lambda: fidelities(torch.zeros(1, 1, 9), torch.zeros(1, 1, 9)), "qubits"),
    ],
)
def test_wrong_parts_are_named(make, field) -> None:
    with pytest.raises(InputError, match=field):
        make()


ROWS = {
    "Limited GPU memory": ({"qaoa", "pruner"}, "QAOA sparse + Q-SVD pruner"),
    "Quantum accelerator available": ({"qaoa", "qpe"}, "QAOA sparse + QPE"),
    "CPU-only": ({"contrastive", "pruner"}, "Contrastive trainer + Q-SVD"),
    "Training with massive sequences": ({"qpe", "contrastive"}, "QPE + Classical trainer"),
}


@pytest.mark.parametrize("situation", ROWS)
def test_recommendations_are_the_tables_rows(situation) -> None:
    toggles, words = ROWS[situation]
    found = recommend(situation=situation.lower())
    assert found.row["Situation"] == situation
    assert found.row["Recommended Toggles"] == words
    assert set(found.config.model_dump(exclude_defaults=True)) == toggles
    json.dumps(found.to_dict())
    small = found.config.with_(heads=4, pages=4, keep=2, steps=3)
    assert np.isfinite(attend(embeddings(), config=small)).all()


def test_other_situations_list_the_choices() -> None:
    with pytest.raises(ValueError, match="CPU-only"):
        recommend(situation="on the moon")


def test_limited_memory_row_reads_fewer_keys() -> None:
    """The row's claim: complexity is cut, here to the pages that are kept."""
    config = recommend(situation="gpu").config.with_(heads=2)
    found = attend_with_report(embeddings(64, 16), config=config)
    assert found.report["qaoa"]["keys attended to"] == pytest.approx(0.25)


def test_pages_lose_more_than_a_share_of_bytes(data_dir) -> None:
    """What our benchmark says of it: at as many bytes a budget is far closer."""
    with np.load(data_dir / "attention" / "minilm_qkv_512.npz") as data:
        q, k, v = (torch.from_numpy(data[x][3].astype(np.float32)) for x in "qkv")
    q = q[:, ::16]
    exact = F.scaled_dot_product_attention(q, k, v)
    mask = torch.from_numpy(QAOASparseAttention(16, 4).mask(q, k))
    paged = attention(q, k, v, budget=1.0, mask=mask).out
    shared = attention(q, k, v, budget=0.25).out
    assert (shared - exact).norm() * 5 < (paged - exact).norm()
