"""The module against torch's own, over the grid of its options."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from qcluster.errors import InputError
from qcluster.qtransformers import QuantumMultiheadAttention

SAMPLED = {"backend": "stratified", "num_samples": 8}


def pair(**options):
    """Torch's module and ours with the same weights."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(16, 4, **options)
    ours = QuantumMultiheadAttention(16, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


GRID = list(
    itertools.product([False, True], [None, 12], [False, True], [False, True], [False, True])
)


@pytest.mark.parametrize(("batch_first", "kdim", "bias_kv", "zero", "train"), GRID)
def test_exact_mode_is_torchs(batch_first, kdim, bias_kv, zero, train) -> None:
    theirs, ours = pair(
        batch_first=batch_first, kdim=kdim, vdim=kdim, add_bias_kv=bias_kv, add_zero_attn=zero
    )
    theirs.train(train)
    ours.train(train)
    query = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
    memory = torch.randn(*query.shape[:2], kdim or 16)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, -1] = True
    floats = torch.randn(12, 5, 5)
    for options in (
        {},
        {"attn_mask": causal},
        {"attn_mask": causal, "is_causal": True},
        {"attn_mask": floats},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": causal, "average_attn_weights": False},
        {"key_padding_mask": padding, "need_weights": False},
    ):
        expected = theirs(query, memory, memory, **options)
        found = ours(query, memory, memory, **options)
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
        if expected[1] is None:
            assert found[1] is None
        else:
            torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)


def test_without_a_batch_axis() -> None:
    theirs, ours = pair()
    x, padding = torch.randn(5, 16), torch.tensor([False, False, True, False, True])
    for options in ({}, {"key_padding_mask": padding}):
        for a, b in zip(theirs(x, x, x, **options), ours(x, x, x, **options), strict=True):
            torch.testing.assert_close(b, a)


@pytest.mark.parametrize("sampler", [None, SAMPLED])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "attention"])
def test_masked_rows_are_zero_and_have_gradients(
    sampler, need_weights, train, batch_first, kind
) -> None:
    config = None if sampler is None else {**sampler, "sample_in_training": True}
    module = QuantumMultiheadAttention(16, 4, batch_first=batch_first, quantum_config=config)
    module.train(train)
    x = torch.randn(3, 5, 16, requires_grad=True) if batch_first else torch.randn(
        5, 3, 16, requires_grad=True
    )  # fmt: skip
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1] = True
    options = {"key_padding_mask": padding}
    if kind == "float":
        options = {"key_padding_mask": torch.zeros(3, 5).masked_fill(padding, -torch.inf)}
    if kind == "attention":
        options = {"attn_mask": torch.ones(5, 5, dtype=torch.bool)}
    out, weights = module(x, x, x, need_weights=need_weights, **options)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    dead = out[1] if batch_first else out[:, 1]
    torch.testing.assert_close(dead, module.out_proj.bias.expand_as(dead))
    if weights is not None:
        assert float(weights[1].abs().sum().detach()) == 0


@pytest.mark.parametrize("train", [False, True])
def test_encoder_layers_call_our_forward(train) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, batch_first=True)
    layer.self_attn = QuantumMultiheadAttention(
        16, 4, batch_first=True, quantum_config={**SAMPLED, "sample_in_training": True}
    )
    layer.train(train)
    with torch.no_grad():
        layer(torch.randn(2, 24, 16))
    assert layer.self_attn.last_report["method"].startswith("stratified")


def test_sampling_waits_for_evaluation_unless_asked() -> None:
    module = QuantumMultiheadAttention(16, 4, quantum_config=SAMPLED)
    x = torch.randn(32, 2, 16)
    assert module.exact_now
    module(x, x, x)
    assert module.last_report == {}
    module.eval()
    module(x, x, x)
    assert module.last_report["share"] < 1


def test_equal_calls_draw_equally_and_calls_differ() -> None:
    a = QuantumMultiheadAttention(16, 4, quantum_config={**SAMPLED, "control_variate": "none"})
    a.eval()
    b = copy.deepcopy(a)
    x = torch.randn(32, 2, 16)
    first, second = a(x, x, x)[0], a(x, x, x)[0]
    torch.testing.assert_close(b(x, x, x)[0], first)
    assert not torch.equal(first, second)


def test_budget_of_all_keys_is_exact() -> None:
    theirs, ours = pair()
    ours.quantum_config = ours.quantum_config.with_(backend="varopt", num_samples=32)
    x = torch.randn(32, 2, 16)
    ours.eval()
    for a, b in zip(theirs(x, x, x), ours(x, x, x), strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)


def test_mitigation_without_noise_says_that_it_does_nothing() -> None:
    module = QuantumMultiheadAttention(
        16, 4, quantum_config={"backend": "stratified", "num_samples": 4, "error_mitigation": True}
    ).eval()
    x = torch.randn(32, 2, 16)
    module(x, x, x)
    assert "does nothing" in module.last_report["warnings"][0]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"backend": "magic"}, "backend"),
        ({"num_samples": 0}, "num_samples"),
        ({"budget": 1.5}, "budget"),
        ({"samples": 3}, "samples"),
        ({"noise_level": float("nan")}, "noise_level"),
    ],
)
def test_wrong_configurations_name_their_field(config, field) -> None:
    with pytest.raises(InputError, match=field):
        QuantumMultiheadAttention(16, 4, quantum_config=config)


def test_wrong_shapes_raise_as_torch_does() -> None:
    theirs, ours = pair()
    x = torch.randn(5, 3, 16)
    for options in (
        {"attn_mask": torch.zeros(4, 5, dtype=torch.bool)},
        {"key_padding_mask": torch.zeros(5, 3, dtype=torch.bool)},
    ):
        with pytest.raises((RuntimeError, AssertionError)) as expected:
            theirs(x, x, x, **options)
        with pytest.raises(expected.type):
            ours(x, x, x, **options)


def test_half_precision_and_autocast() -> None:
    _, ours = pair()
    x = torch.randn(5, 3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = ours(x, x, x, attn_mask=torch.zeros(5, 5, dtype=torch.bool))
    assert out.dtype == torch.bfloat16
    half = ours.to(torch.bfloat16)
    half.quantum_config = half.quantum_config.with_(**SAMPLED)
    half.eval()
    out, weights = half(*[x.bfloat16()] * 3)
    assert out.dtype == weights.dtype == torch.bfloat16


def test_second_derivatives_in_exact_mode() -> None:
    module = QuantumMultiheadAttention(4, 2, dtype=torch.float64)
    x = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])
    assert torch.autograd.gradgradcheck(lambda y: module(y, y, y, attn_mask=mask)[0], (x,))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("which", ["padding", "attention", "both"])
def test_masked_rows_without_gradients(batch_first, need_weights, averaged, which) -> None:
    """Torch's fused path leaves NaN in rows that see nothing; ours fills them, and only them."""
    theirs, ours = pair(batch_first=batch_first)
    theirs.eval()
    ours.eval()
    x = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1] = True
    attention = torch.zeros(5, 5, dtype=torch.bool)
    attention[2] = True
    masks = {"key_padding_mask": padding, "attn_mask": attention}
    wanted = {"padding": "key_padding_mask", "attention": "attn_mask"}.get(which)
    options = {name: mask for name, mask in masks.items() if wanted in (None, name)}
    options |= {"need_weights": need_weights, "average_attn_weights": averaged}
    expected = pair(batch_first=batch_first)[1]
    expected.load_state_dict(ours.state_dict())
    with torch.no_grad():
        out, weights = ours(x, x, x, **options)
        reference, _ = theirs(x, x, x, **options)
    slow, slow_weights = expected.eval()(x, x, x, **options)
    torch.testing.assert_close(out, slow.detach(), atol=1e-6, rtol=1e-5)
    seen = torch.isfinite(reference)
    torch.testing.assert_close(out[seen], reference[seen], atol=1e-6, rtol=1e-5)
    if need_weights:
        torch.testing.assert_close(weights, slow_weights.detach(), atol=1e-6, rtol=1e-5)


def test_the_fused_operator_is_called_with_both_masks(monkeypatch) -> None:
    called = []
    real = torch._native_multi_head_attention
    monkeypatch.setattr(
        torch, "_native_multi_head_attention", lambda *a, **k: (called.append(1), real(*a, **k))[1]
    )
    _, ours = pair(batch_first=True)
    x = torch.randn(3, 5, 16)
    with torch.no_grad():
        ours.eval()(x, x, x, attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
                    key_padding_mask=torch.zeros(3, 5, dtype=torch.bool))  # fmt: skip
    assert called


def test_masks_in_a_compiled_graph() -> None:
    _, ours = pair(batch_first=True)
    x = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False, True, True, True, True]])
    compiled = torch.compile(ours.eval(), fullgraph=True, backend="eager")
    out = compiled(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    expected = ours(x, x, x, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(out, expected)


def jagged(*lengths, grad=False):
    """One sequence of each length."""
    torch.manual_seed(sum(lengths))
    parts = [torch.randn(n, 16, requires_grad=grad) for n in lengths]
    return torch.nested.as_nested_tensor(parts, layout=torch.jagged), parts


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_sequences_of_different_lengths_in_one_tensor(train, options) -> None:
    """Torch's module refuses these with gradients on; ours treats each sequence by itself."""
    theirs, ours = pair(batch_first=True, **options)
    ours.train(train)
    theirs.train(train)
    nested, parts = jagged(4, 6, grad=True)
    memory, memories = jagged(7, 3)
    out, weights = ours(nested, memory, memory)
    assert out.is_nested
    assert (nested + out).is_nested  # the lengths are known to be the queries' own
    for found, shown, x, y in zip(out.unbind(), weights, parts, memories, strict=True):
        expected, by = theirs(x, y, y)
        torch.testing.assert_close(found, expected)
        seen = shown[: len(x)]
        torch.testing.assert_close(seen[:, : len(y)], by[:, : len(y)])
        assert not bool(shown[len(x) :].any())
    out.values().square().sum().backward()
    assert all(bool(x.grad.isfinite().all()) and float(x.grad.norm()) > 0 for x in parts)


def test_sequences_of_different_lengths_causal_and_sampled() -> None:
    theirs, ours = pair(batch_first=True)
    nested, parts = jagged(5, 2)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for found, x in zip(ours(nested, nested, nested, is_causal=True)[0].unbind(), parts,
                        strict=True):  # fmt: skip
        own = causal[: len(x), : len(x)]
        torch.testing.assert_close(found, theirs(x, x, x, attn_mask=own)[0])
    ours.quantum_config = {"backend": "varopt", "num_samples": 64}
    out, _ = ours.eval()(nested, nested, nested)
    torch.testing.assert_close(out.unbind()[1], theirs.eval()(parts[1], parts[1], parts[1])[0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_other_nested_tensors_go_to_torch() -> None:
    theirs, ours = pair(batch_first=True)
    strided = torch.nested.nested_tensor([torch.randn(4, 16), torch.randn(6, 16)])
    for module in (theirs, ours):
        with pytest.raises(AssertionError, match="does not support NestedTensor"):
            module(strided, strided, strided)
    empty = torch.nested.nested_tensor([])
    with pytest.raises(AssertionError, match="received 1-D query tensor"):
        ours(empty, empty, empty)


@pytest.mark.parametrize(
    ("query", "key", "options", "message"),
    [
        ((4, 4, 16), (4, 16), {}, "to be 3-D but found 2-D"),
        ((4, 16), (4, 4, 16), {}, "to be 2-D but found 3-D"),
        ((4, 4, 16), (4, 4, 16), {"key_padding_mask": torch.zeros(4).bool()}, "2-D but found 1-D"),
        ((4, 4, 16), (4, 4, 16), {"attn_mask": torch.zeros(4).bool()}, "3-D but found 1-D"),
    ],
)
def test_messages_are_torchs(query, key, options, message) -> None:
    _, ours = pair()
    with pytest.raises(AssertionError, match=message):
        ours(torch.randn(query), torch.randn(key), torch.randn(4, 4, 16)[: query[0]], **options)
