"""Attention over HTTP, through the actor, and on the command line."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
import torch
from in_process import made_services, serving
from safetensors.numpy import load, save, save_file
from torch.nn import functional as F

from actors.attention_worker import AttentionWorker
from deployments.api import create_api
from qcluster.cli import main
from qcluster.errors import FormatError, InputError, NotReady
from qcluster.q_attention import attend
from qcluster.q_attention.compare import STRATEGIES, compare, gaussian, read_inputs
from qcluster.q_attention.wire import answer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 8)).astype(np.float32)
QKV = {name: RNG.normal(size=(2, 40, 8)).astype(np.float32) for name in "qkv"}


def report_of(body):
    return json.loads(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"][
        "report"])  # fmt: skip


def test_embeddings_with_weights() -> None:
    w = RNG.normal(size=(8, 8)).astype(np.float32)
    config = {"heads": 2, "hybrid": [], "qpe": True}
    found = answer(save({"embeddings": X, "w_v": w}), json.dumps(config))
    expected = attend(X, config={"heads": 2, "qpe": True}, weights={"w_v": w})
    np.testing.assert_allclose(load(found)["out"], expected, rtol=1e-5, atol=1e-6)
    assert report_of(found)["qpe"]["qubits"] == 6


def test_queries_keys_and_values_with_bounds() -> None:
    body = save({**QKV, "mask": np.tril(np.ones((40, 40), bool))},
                {"config": json.dumps({"budget": 8, "certificate": True})})  # fmt: skip
    found = load(answer(body))
    q, k, v = (torch.from_numpy(QKV[n]) for n in "qkv")
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True).numpy()
    error = np.linalg.norm(found["out"] - exact, axis=-1)
    assert (error <= found["bound"] + 1e-6).mean() > 0.95
    whole = load(answer(save(QKV), '{"is_causal": true}'))
    np.testing.assert_allclose(whole["out"], exact, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "config", "match"),
    [
        (b"", None, "safetensors"),
        (b"\xff" * 40, None, "safetensors"),
        (save({"embeddings": X})[:-4], None, "safetensors"),
        (save({"x": X}), None, "embeddings"),
        (save({**QKV, "w_q": X}), None, "w_q"),
        (save({"embeddings": X * np.nan}), None, "not finite"),
        (save({"embeddings": X}), "[1]", "object"),
        (save({"embeddings": X}), "{", "JSON"),
        (save({"embeddings": X}), '{"heads": 3}', "config.heads"),
        (save(QKV), '{"qaoa": true}', "config.qaoa"),
        (save({"embeddings": X.astype(np.int32)}), None, "embeddings"),
    ],
)
def test_wrong_bodies_are_refused(body, config, match) -> None:
    with pytest.raises((InputError, FormatError), match=match):
        answer(body, config)


def test_worker_answers_and_counts() -> None:
    worker = AttentionWorker()
    try:
        found = worker.attend(save({"embeddings": X}))
        np.testing.assert_allclose(load(found)["out"], attend(X), rtol=1e-5, atol=1e-6)
        with pytest.raises(InputError, match="embeddings"):
            worker.attend(save({"x": X}))
        assert worker.status() == {"done": 1, "failed": 1, "waiting": 0}
    finally:
        worker.close()


def test_worker_turns_away_what_it_cannot_queue(monkeypatch) -> None:
    worker = AttentionWorker(queue_limit=0)
    monkeypatch.setattr(worker, "_waiting", 1)
    with pytest.raises(NotReady, match="try again"):
        worker.attend(b"")
    with pytest.raises(InputError, match="queue_limit"):
        AttentionWorker(queue_limit=-1)


class Direct:
    """Answers in this process."""

    def attend(self, body, config=None):
        return answer(body, config)


def test_route(tmp_path) -> None:
    app = create_api(made_services(tmp_path, attention=Direct()))
    with serving(app) as url:
        good = httpx.post(f"{url}/v1/attention", content=save({"embeddings": X}),
                          params={"config": '{"heads": 2}'})  # fmt: skip
        assert good.status_code == 200
        expected = attend(X, config={"heads": 2})
        np.testing.assert_allclose(load(good.content)["out"], expected, rtol=1e-5, atol=1e-6)
        for body, config in ((b"nonsense", None), (save({"embeddings": X}), '{"heads": 5}')):
            bad = httpx.post(f"{url}/v1/attention", content=body,
                             params={} if config is None else {"config": config})  # fmt: skip
            assert bad.status_code == 422
            assert bad.headers["content-type"].startswith("application/problem+json")
        schema = httpx.get(f"{url}/openapi.json").json()["paths"]
        assert "post" in schema["/v1/attention"]


def test_comparison_has_every_strategy_and_its_theory() -> None:
    found = compare("normal", *gaussian(256, 2.0, queries=16), rows=(16, 64), repeats=20)
    assert {r["strategy"] for r in found} == set(STRATEGIES)
    for record in found:
        if record["measured_over_predicted"] is not None:
            assert record["measured_over_predicted"] == pytest.approx(1, abs=0.1)
    by = {(r["strategy"], r["rows"]): r["relative_error"] for r in found}
    # A constant control variate changes nothing, draw for draw, when weights sum to one.
    assert by["Stratified + constant", 16] == pytest.approx(by["Stratified", 16], rel=1e-3)
    assert by["VarOpt + Control Variate", 64] < by["VarOpt", 64] < by["Naive Sampling", 64]
    assert json.loads(json.dumps(found)) == found


def test_verb(tmp_path, capsys) -> None:
    path = tmp_path / "qkv.npz"
    np.savez(path, **QKV)
    assert main(["attention", "compare", str(path), "--rows", "4,8", "--repeats", "2",
                 "--json"]) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2 * len(STRATEGIES)
    assert found[0]["input"] == "qkv.npz"
    save_file(QKV, tmp_path / "qkv.safetensors")
    assert main(["attention", "compare", str(tmp_path / "qkv.safetensors"), "--rows", "4",
                 "--repeats", "1"]) == 0  # fmt: skip
    assert "Naive Sampling" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "options", "match"),
    [
        ("no.npz", None, [], "is not there"),
        ("bad.npz", b"nonsense", [], "bad.npz"),
        ("bad.safetensors", b"nonsense", [], "bad.safetensors"),
        ("good.npz", QKV, ["--rows", "x"], "--rows"),
        ("good.npz", QKV, ["--rows", "0"], "--rows"),
        ("half.npz", {"q": QKV["q"]}, [], "no tensor"),
        ("nan.npz", {**QKV, "k": QKV["k"] * np.nan}, [], "not finite"),
    ],
)
def test_verb_names_what_is_wrong(tmp_path, capsys, name, content, options, match) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    assert main(["attention", "compare", str(path), *options]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert len(error.strip().splitlines()) == 1


def test_recommend_verb(capsys) -> None:
    assert main(["recommend", "attention", "--situation", "CPU-only"]) == 0
    assert "Contrastive trainer + Q-SVD" in capsys.readouterr().out


def test_reader_takes_what_numpy_wrote(tmp_path) -> None:
    np.savez(tmp_path / "half.npz", **{n: x.astype(np.float16) for n, x in QKV.items()})
    q, _, _ = read_inputs(tmp_path / "half.npz")
    assert q.dtype == torch.float32
