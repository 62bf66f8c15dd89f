"""Gradients between ranks: levels to bytes, rounding in Adam's metric, memory, damaged bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcluster.codec._gradient_kernels import code_levels
from qcluster.codec.gradient import LARGEST, Layout, read_levels, write_levels
from qcluster.errors import FormatError, InputError
from qcluster.q_compressor.ddp import CompressedGradients, HookState
from qcluster.q_compressor.gradients import GradientCoder, GradientConfig

SHAPES = {"a": (64, 48), "b": (48,), "c": (7, 5, 3), "d": ()}


def gradients(seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        name: np.asarray(draw.normal(size=shape) * spread, dtype=np.float32)
        for name, shape in SHAPES.items()
    }


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.int32, st.integers(0, 300), elements=st.integers(-LARGEST, LARGEST)),
    st.integers(1, 40),
)
def test_levels_come_back(levels: np.ndarray, columns: int) -> None:
    half = levels.size // 2
    layout = Layout([(half,), (levels.size - half, columns)])
    layout.tables[:, 0] = half, levels.size - half
    layout.elements = levels.size
    assert np.array_equal(read_levels(write_levels(levels, layout), layout), levels)


def test_levels_take_what_their_entropy_is() -> None:
    levels = np.rint(np.random.default_rng(0).normal(size=200_000) * 0.8).astype(np.int32)
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    entropy = -(shares * np.log2(shares)).sum()
    assert 8 * len(write_levels(levels, Layout([(400, 500)]))) / levels.size < entropy + 0.01
    assert len(write_levels(np.zeros_like(levels), Layout([(400, 500)]))) < 64


def test_compiled_and_plain_kernels_write_the_same() -> None:
    plain = getattr(code_levels, "py_func", code_levels)
    from qcluster.codec._coder_kernels import RATES, new_contexts
    from qcluster.codec._gradient_kernels import LEVEL_CONTEXTS

    levels = np.rint(np.random.default_rng(1).normal(size=300) * 3).astype(np.int32)
    layout = Layout([(10, 20), (100,)])
    buffer = np.zeros(2000, dtype=np.uint16)
    used = plain(levels, layout.tables, 1, buffer, new_contexts(2 * LEVEL_CONTEXTS), RATES)
    assert buffer[:used].tobytes() == write_levels(levels, layout)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_as_levels_of_the_right_number(data: bytes) -> None:
    layout = Layout(list(SHAPES.values()))
    if len(data) % 2:
        with pytest.raises(FormatError):
            read_levels(data, layout)
    else:
        assert len(read_levels(data, layout)) == layout.elements


def test_other_ranks_decode_what_the_sender_decodes() -> None:
    sender, receiver = GradientCoder(), GradientCoder()
    for step in range(5):
        sent = gradients(step)
        blob, mine = sender.encode(sent)
        theirs = receiver.decode(blob, SHAPES)
        for name, value in mine.items():
            assert value.shape == SHAPES[name]
            assert value.tobytes() == theirs[name].tobytes()
        for coder in (sender, receiver):
            coder.learn(mine)


@pytest.mark.parametrize("bits", [0.5, 1.0, 3.0])
def test_matrices_take_the_bits_that_are_asked_for(bits: float) -> None:
    coder = GradientCoder(GradientConfig(bits=bits))
    draw = np.random.default_rng(3)
    for _ in range(40):
        x = draw.standard_normal((300, 200), dtype=np.float32)
        blob, mine = coder.encode({"x": x})
        coder.learn(mine)
    assert 8 * len(blob) / x.size == pytest.approx(bits, abs=0.1)
    lost = np.square(x - mine["x"]).mean()
    # The rate-distortion function and what the dead zone and a metric learnt of 100 steps cost.
    assert lost < 2.0 ** (-2 * (bits - 0.35))


def test_elements_of_small_gradients_are_kept_in_adams_metric() -> None:
    """One row is a hundred times smaller: plain rounding silences it, Adam's metric does not."""
    kept = {}
    for metric in ("adam", "plain"):
        coder = GradientCoder(GradientConfig(metric=metric))
        for step in range(60):
            x = np.random.default_rng(step).standard_normal((20, 100), dtype=np.float32)
            x[3] *= 0.01
            mine = coder.encode({"x": x})[1]
            coder.learn(mine if step > 3 else {"x": x})
        kept[metric] = np.corrcoef(x[3], mine["x"][3])[0, 1] if mine["x"][3].any() else 0.0
    assert kept["plain"] == 0.0
    assert kept["adam"] > 0.7


def test_feedback_sends_in_time_what_was_lost() -> None:
    coder = GradientCoder(GradientConfig(metric="plain", feedback=1.0, bits=0.5))
    x = np.random.default_rng(0).standard_normal((50, 40), dtype=np.float32)
    total = np.zeros_like(x)
    for _ in range(200):
        total += coder.encode({"x": x})[1]["x"]
    assert np.abs(total / 200 - x).max() < 0.15


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_heard_of_and_not_remembered(bad: float) -> None:
    coder = GradientCoder(GradientConfig(feedback=1.0))
    coder.learn(gradients(0))
    broken = gradients(1)
    broken["a"][3, 4] = bad
    blob, mine = coder.encode(broken)
    assert np.isnan(mine["a"]).all()
    assert np.isfinite(mine["b"]).all()
    coder.learn(mine)
    assert all(np.isfinite(value).all() for value in coder.encode(gradients(2))[1].values())
    other = GradientCoder(GradientConfig(feedback=1.0))
    other.learn(gradients(0))
    assert np.isnan(other.decode(blob, SHAPES)["a"]).all()


def test_zeros_are_zeros() -> None:
    blob, mine = GradientCoder().encode({"x": np.zeros((9, 9), np.float32)})
    assert not mine["x"].any()
    assert len(blob) < 16


def test_damaged_bytes_are_refused() -> None:
    blob, _ = GradientCoder().encode(gradients(0))
    for at in range(0, len(blob), 97):
        damaged = bytearray(blob)
        damaged[at] ^= 1
        with pytest.raises(FormatError, match="damaged"):
            GradientCoder().decode(bytes(damaged), SHAPES)
    for cut in (0, 3, 4, len(blob) - 1):
        with pytest.raises(FormatError, match="damaged"):
            GradientCoder().decode(blob[:cut], SHAPES)


@pytest.mark.parametrize("feedback", [0.0, 0.7])
def test_coders_go_on_after_a_checkpoint(feedback: float) -> None:
    hooks = [CompressedGradients({"feedback": feedback}) for _ in range(2)]
    for step in range(6):
        parts = [hook.state.coder.encode(gradients(10 * step + r))[1]
                 for r, hook in enumerate(hooks)]  # fmt: skip
        mean = {name: (parts[0][name] + parts[1][name]) / 2 for name in SHAPES}
        for hook in hooks:
            hook.state.coder.learn(mean)
            hook.state.step += 1
    owns = [hook.state.coder.state()[1] for hook in hooks]
    tensors, told = hooks[0].snapshot(lambda _: owns)
    for rank, hook in enumerate(hooks):
        again = CompressedGradients({"feedback": feedback})
        again.put_back(tensors, told, rank, 2)
        assert again.state.step == 6
        assert (
            again.state.coder.encode(gradients(99))[0] == hook.state.coder.encode(gradients(99))[0]
        )
    alone = CompressedGradients({"feedback": feedback})
    alone.put_back(tensors, told, 0, 1)
    owed = alone.state.coder.memories["a"].error
    if feedback:
        assert np.allclose(owed, (owns[0]["a"]["error"] + owns[1]["a"]["error"]) / 2, atol=1e-6)
    else:
        assert owed is None


def test_hook_states_can_be_pickled() -> None:
    state = HookState(config={"bits": 2.0}, step=5)
    state.coder.encode(gradients(0))
    again = pickle.loads(pickle.dumps(state))
    assert again.step == 5
    assert again.coder.encode(gradients(1))[0] == state.coder.encode(gradients(1))[0]


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 1}, {"metric": "sgd"}, {"rate": 2.0},
                                   {"feedback": float("nan")}])  # fmt: skip
def test_wrong_options_are_named(wrong: dict[str, object]) -> None:
    if wrong == {"bits": 1}:  # a whole number is a number
        assert GradientConfig.read(wrong).bits == 1.0
        return
    with pytest.raises(InputError, match=next(iter(wrong))):
        CompressedGradients(wrong)
