"""Deltas: exact, small where little changed, and never applied to the wrong parent."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec.errors import QctCorruptError
from qcluster.errors import InputError
from qcluster.q_compressor import compress, compress_state_dict
from qcluster.q_decompressor import decompress, inspect

LIMIT = 1 << 24
BF16 = ml_dtypes.bfloat16


def weights(seed: int = 0, shape: tuple[int, ...] = (128, 256)) -> np.ndarray:
    return (0.05 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def stepped(w: np.ndarray, size: float) -> np.ndarray:
    return (w + size * np.random.default_rng(1).normal(size=w.shape)).astype(np.float32)


def state(shape: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {
        "exp_avg": (1e-3 * rng.normal(size=shape)).astype(np.float32),
        "exp_avg_sq": (1e-6 * rng.random(shape)).astype(np.float32),
        "step": 7, "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize("kind", [np.float32, np.float16, BF16, np.float64, np.int32, np.uint8,
                                  np.bool_, np.complex64, np.int64])  # fmt: skip
@pytest.mark.parametrize("size", [0.0, 1e-5, 1.0])
def test_any_type_comes_back_against_a_parent(kind: Any, size: float) -> None:
    old = weights().astype(kind)
    new = stepped(weights(), size).astype(kind)
    blob = compress(new, parent=old)
    back = decompress(blob, max_output_bytes=LIMIT, parent=old)
    assert back.tobytes() == new.tobytes()
    if size == 0:
        assert len(blob) < 200


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(0, 2**32))
def test_arbitrary_bits_against_arbitrary_bits(raw: bytes, seed: int) -> None:
    new = np.frombuffer(raw * 4, np.uint32)
    old = np.random.default_rng(seed).integers(0, 2**32, new.size, dtype=np.uint32)
    for kind in (np.float32, np.uint32):
        blob = compress(new.view(kind), parent=old.view(kind))
        back = decompress(blob, max_output_bytes=LIMIT, parent=old.view(kind))
        assert back.tobytes() == new.tobytes()


def test_few_changes_take_few_bytes() -> None:
    old, new = weights().astype(BF16), stepped(weights(), 1e-5).astype(BF16)
    changed = float(np.mean(old != new))
    assert 0.002 < changed < 0.1
    blob = compress(new, parent=old)
    # A mask by itself would cost its entropy, before the values.
    entropy = -changed * np.log2(changed) - (1 - changed) * np.log2(1 - changed)
    assert 8 * len(blob) / new.size < entropy + 1.2 * changed + 0.03


def test_an_unlike_parent_does_no_harm() -> None:
    new = weights(0).astype(BF16)
    blob = compress(new, parent=weights(5).astype(BF16))
    assert len(blob) < 1.02 * len(compress(new)) + 64


def test_a_wrong_parent_is_refused() -> None:
    old, new = weights(), stepped(weights(), 1e-6)
    blob = compress(new, parent=old)
    drifted = old.copy()
    drifted[3, 4] += 1e-7
    with pytest.raises(QctCorruptError, match="parent"):
        decompress(blob, max_output_bytes=LIMIT, parent=drifted)
    with pytest.raises(InputError, match="needed"):
        decompress(blob, max_output_bytes=LIMIT)
    with pytest.raises(InputError, match="F64"):
        decompress(blob, max_output_bytes=LIMIT, parent=old.astype(np.float64))
    with pytest.raises(InputError, match="parent"):
        compress(new, parent=old[:5])


def test_a_parent_may_be_a_blob() -> None:
    old, new = weights(), stepped(weights(), 1e-6)
    first = compress(old)
    blob = compress(new, parent=first)
    assert np.array_equal(decompress(blob, max_output_bytes=LIMIT, parent=first), new)


def test_a_chain_of_deltas_ends_where_it_should() -> None:
    versions = [weights().astype(BF16)]
    for number in range(5):
        step = 1e-5 * np.random.default_rng(number).normal(size=versions[0].shape)
        versions.append((versions[-1].astype(np.float32) + step).astype(BF16))
    links = [compress(b, parent=a) for a, b in zip(versions, versions[1:], strict=False)]
    here = versions[0]
    for link, expected in zip(links, versions[1:], strict=True):
        here = decompress(link, max_output_bytes=LIMIT, parent=here)
        assert here.tobytes() == expected.tobytes()
    with pytest.raises(QctCorruptError):
        decompress(links[2], max_output_bytes=LIMIT, parent=versions[1])


def test_state_dicts_against_state_dicts() -> None:
    old = {"a": weights(0), "b": weights(1), "gone": weights(2)}
    new = {"a": stepped(old["a"], 1e-7), "b": weights(1, (64, 64)), "new": weights(3)}
    blob = compress_state_dict(new, parent=old)
    back = decompress(blob, max_output_bytes=LIMIT, parent=old)
    assert all(np.array_equal(back[name], new[name]) for name in new)
    assert [t.parent is not None for t in inspect(blob).tensors] == [True, False, False]


def adamw(w: np.ndarray, grads: list[np.ndarray]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """torch's own optimizer; the weights after each step and the state after the last."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.from_numpy(w.copy()))
    optimizer = torch.optim.AdamW([parameter], lr=2e-3, weight_decay=0.05, foreach=False)
    seen = []
    for grad in grads:
        parameter.grad = torch.from_numpy(grad)
        optimizer.step()
        seen.append(parameter.detach().numpy().copy())
    inner = optimizer.state[parameter]
    return seen, {
        "exp_avg": inner["exp_avg"].numpy(), "exp_avg_sq": inner["exp_avg_sq"].numpy(),
        "step": int(inner["step"]), "lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8,
        "weight_decay": 0.05,
    }  # fmt: skip


def test_a_replayed_optimizer_step_costs_next_to_nothing() -> None:
    rng = np.random.default_rng(3)
    w = weights()
    grads = [(0.01 * rng.normal(size=w.shape)).astype(np.float32) for _ in range(4)]
    seen, moments = adamw(w, grads)
    for kind in (np.float32, BF16):
        new = seen[-1].astype(kind)
        blob = compress(new, parent=seen[-2], optimizer_state=moments)
        back = decompress(blob, max_output_bytes=LIMIT, parent=seen[-2], optimizer_state=moments)
        assert back.tobytes() == new.tobytes()
        # For 32,768 weights; of bfloat16 most is the header.
        assert len(blob) < 700


def test_replay_wants_the_same_state() -> None:
    w = weights()
    moments = state(w.shape)
    new = stepped(w, 1e-6)
    blob = compress(new, parent=w, optimizer_state=moments)
    if inspect(blob).tensors[0].chain == ["replay"]:
        with pytest.raises(QctCorruptError, match="state"):
            decompress(blob, max_output_bytes=LIMIT, parent=w,
                       optimizer_state={**moments, "lr": 2e-3})  # fmt: skip
        with pytest.raises(InputError, match="optimizer_state"):
            decompress(blob, max_output_bytes=LIMIT, parent=w)


@pytest.mark.parametrize(
    "change",
    [{"step": 0}, {"lr": "x"}, {"betas": (0.9,)}, {"betas": (1.0, 0.9)}, {"eps": float("nan")},
     {"exp_avg": np.zeros(3, np.float32)}, {"exp_avg_sq": np.zeros((128, 256), np.int32)}],
)  # fmt: skip
def test_states_that_make_no_sense_are_named(change: dict[str, Any]) -> None:
    w = weights()
    with pytest.raises(InputError, match="optimizer_state"):
        compress(w, parent=w, optimizer_state={**state(w.shape), **change})
    with pytest.raises(InputError, match="weight_decay"):
        incomplete = state(w.shape)
        del incomplete["weight_decay"]
        compress(w, parent=w, optimizer_state=incomplete)
