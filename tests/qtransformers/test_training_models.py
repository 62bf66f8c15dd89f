"""Blocks, whole models and generation."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcluster.errors import InputError, NotFound
from qcluster.qtransformers import QuantumTransformerBlock, ScalableQuantumTransformer, zoo
from qcluster.qtransformers.generation import pick

SMALL: dict[str, Any] = {"vocab_size": 23, "d_model": 16, "nhead": 4, "dropout": 0.0}


def model(**fields: Any) -> ScalableQuantumTransformer:
    torch.manual_seed(0)
    return ScalableQuantumTransformer(**{**SMALL, **fields}).eval()


def tokens(batch: int = 3, length: int = 7) -> Tensor:
    return torch.randint(1, 23, (batch, length), generator=torch.Generator().manual_seed(4))


def test_block_keeps_the_shape() -> None:
    block = QuantumTransformerBlock(12, 3)
    out, cache = block(torch.randn(2, 5, 12))
    assert out.shape == (2, 5, 12)
    assert cache is None


def test_block_names_bad_sizes() -> None:
    with pytest.raises(InputError, match="nhead"):
        QuantumTransformerBlock(12, 5)


def test_an_encoder_equals_pytorch_encoder_layers() -> None:
    """The same weights in ``nn.TransformerEncoderLayer`` give the same result."""
    block = QuantumTransformerBlock(16, 4, 24, 0.0, activation="relu", norm_first=False).eval()
    peer = torch.nn.TransformerEncoderLayer(16, 4, 24, 0.0, "relu", batch_first=True).eval()
    names = {
        "attention.mha": "self_attn", "up": "linear1", "down": "linear2",
        "norm_attention": "norm1", "norm_feedforward": "norm2",
    }  # fmt: skip
    state = {}
    for name, value in block.state_dict().items():
        ours = next(k for k in names if name.startswith(k + "."))
        state[names[ours] + name[len(ours) :]] = value
    peer.load_state_dict(state)
    x = torch.randn(2, 6, 16)
    keep = torch.ones(2, 6, dtype=torch.bool)
    keep[0, 4:] = False
    want = peer(x, src_key_padding_mask=~keep)
    assert torch.allclose(block(x, keep=keep)[0][keep], want[keep], atol=1e-5)


def test_a_decoder_does_not_see_the_future() -> None:
    net = model(num_decoder_layers=2)
    ids = tokens()
    changed = ids.clone()
    changed[:, 4:] = 1
    with torch.no_grad():
        a, b = net(ids).logits, net(changed).logits
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-6)
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-3)


def test_an_encoder_sees_everything_but_padding() -> None:
    net = model(num_encoder_layers=2)
    ids = tokens()
    changed = ids.clone()
    changed[:, 6] = 2
    keep = torch.ones_like(ids)
    keep[:, 6] = 0
    with torch.no_grad():
        assert not torch.allclose(net(ids).logits[:, 0], net(changed).logits[:, 0], atol=1e-5)
        a, b = net(ids, keep).logits, net(changed, keep).logits
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-6)


def test_padding_id_masks_by_itself() -> None:
    net = model(num_encoder_layers=1, pad_token_id=0)
    ids = tokens()
    padded = torch.cat([ids, torch.zeros(3, 2, dtype=torch.long)], 1)
    with torch.no_grad():
        assert torch.allclose(net(ids).logits, net(padded).logits[:, :7], atol=1e-5)


def test_losses_are_means_over_counted_labels() -> None:
    net = model(num_decoder_layers=1)
    ids = tokens()
    labels = ids.clone()
    labels[0, 3:] = -100
    out = net(ids, labels=labels)
    logs = out.logits[:, :-1].log_softmax(-1)
    kept = labels[:, 1:] != -100
    picked = logs.gather(2, ids[:, 1:, None]).squeeze(2)[kept]
    assert torch.allclose(out.loss, -picked.mean(), atol=1e-6)
    assert net.loss_weight({"labels": labels}) == int(kept.sum())


def test_an_untrained_model_is_near_uniform() -> None:
    loss = model(num_decoder_layers=2)(tokens(), labels=tokens()).loss
    assert abs(loss.item() - math.log(23)) < 0.3


def test_classifiers_read_the_last_real_token_of_a_decoder() -> None:
    net = model(num_decoder_layers=1, head="classifier", num_labels=3)
    ids = tokens()
    keep = torch.ones_like(ids)
    keep[:, 5:] = 0
    changed = ids.clone()
    changed[:, 5:] = 2
    with torch.no_grad():
        assert torch.allclose(net(ids, keep).logits, net(changed, keep).logits, atol=1e-6)
    assert net(ids, labels=torch.tensor([0, 1, 2])).loss > 0
    assert net.loss_weight({"labels": torch.tensor([0, 1, 2])}) == 3


def test_encoder_decoder_learns_to_copy() -> None:
    torch.manual_seed(0)
    net = ScalableQuantumTransformer(
        vocab_size=8, d_model=32, nhead=4, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)
    draws = torch.Generator().manual_seed(1)
    for _ in range(150):
        ids = torch.randint(1, 8, (32, 5), generator=draws)
        loss = net(ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ids = torch.randint(1, 8, (16, 5), generator=draws)
    copied = net.generate(ids, max_new_tokens=5)[:, 1:]
    assert (copied == ids).float().mean() > 0.9


def test_encoder_decoder_needs_a_target() -> None:
    net = model(num_encoder_layers=1, num_decoder_layers=1)
    with pytest.raises(InputError, match="decoder_input_ids"):
        net(tokens())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"nhead": 3, "num_encoder_layers": 1}, "nhead"),
        ({}, "encoder or decoder"),
        ({"num_encoder_layers": 1, "dropout": 1.5}, "dropout"),
        ({"num_encoder_layers": 1, "depth": 3}, "depth"),
        ({"num_encoder_layers": True}, "num_encoder_layers"),
        ({"num_encoder_layers": 1, "pad_token_id": 23}, "pad_token_id"),
        ({"num_encoder_layers": 1, "position": "sinusoidal", "d_model": 15, "nhead": 3}, "even"),
    ],
)
def test_bad_configurations_are_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        ScalableQuantumTransformer(**{**SMALL, **fields})


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.ones(2, 40, dtype=torch.long), "max_length"),
        (torch.ones(3, dtype=torch.long), "batch, length"),
        (torch.ones(2, 0, dtype=torch.long), "batch, length"),
        (torch.ones(2, 3), "integers"),
        (torch.tensor([[1, 23]]), "from 0 to 22 wanted, came 1 to 23"),
        (torch.tensor([[-1, 2]]), "came -1 to 2"),
    ],
)
def test_bad_inputs_are_named(ids: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(num_decoder_layers=1, max_length=16)(ids)


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
@pytest.mark.parametrize("first", [True, False])
def test_generation_with_cache_equals_generation_without(position: str, first: bool) -> None:
    net = model(num_decoder_layers=2, position=position, norm_first=first)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(8.0)
    ids = tokens()
    with_cache = net.generate(ids, max_new_tokens=9)
    assert torch.equal(with_cache, net.generate(ids, max_new_tokens=9, use_cache=False))
    assert with_cache.shape == (3, 16)
    assert torch.equal(with_cache[:, :7], ids)


def test_padded_prompts_continue_as_if_alone() -> None:
    net = model(num_decoder_layers=2)
    ids = tokens(2, 6)
    padded = ids.clone()
    padded[0, :3] = 0
    keep = torch.ones_like(ids)
    keep[0, :3] = 0
    both = net.generate(padded, attention_mask=keep, max_new_tokens=5)
    alone = net.generate(ids[:1, 3:], max_new_tokens=5)
    assert torch.equal(both[0, 6:], alone[0, 3:])


def test_seq2seq_generation_with_cache_equals_without() -> None:
    net = model(num_encoder_layers=1, num_decoder_layers=2)
    ids = tokens()
    keep = torch.ones_like(ids)
    keep[1, 5:] = 0
    options = {"max_new_tokens": 6, "attention_mask": keep}
    assert torch.equal(net.generate(ids, **options), net.generate(ids, use_cache=False, **options))


def test_generation_ends_at_the_end_token_and_restores_the_mode() -> None:
    net = model(num_decoder_layers=1)
    end = int(net.generate(tokens(1), max_new_tokens=1)[0, -1])
    net.config = net.config.with_(eos_token_id=end)
    net.train()
    assert net.generate(tokens(1), max_new_tokens=9).shape == (1, 8)
    assert net.training


def test_sampling_is_seeded() -> None:
    net = model(num_decoder_layers=1)

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return net.generate(tokens(), temperature=1.0, generator=generator)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.05, 1.0))
def test_draws_come_from_the_nucleus(seed: int, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 9, generator=generator) * 2
    order = logits[0].argsort(descending=True)
    drawn = pick(logits, 1.0, top_k, None, generator)
    assert int(drawn) in order[:top_k].tolist()
    chances = logits[0].softmax(-1)[order]
    needed = int((chances.cumsum(0) - chances < top_p).sum())
    assert int(pick(logits, 1.0, None, top_p, generator)) in order[:needed].tolist()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": 2000}, "max_length"),
        ({"attention_mask": torch.tensor([[1, 0]])}, "left"),
    ],
)
def test_bad_generation_options_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        model(num_decoder_layers=1).generate(torch.tensor([[1, 2]]), **options)


def test_encoders_do_not_generate() -> None:
    with pytest.raises(InputError, match="decoder"):
        model(num_encoder_layers=1).generate(tokens())


def test_zoo_sizes_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        sizes = {
            "gpt2": sum(p.numel() for p in zoo.gpt("small").parameters()),
            "bert": sum(p.numel() for p in zoo.bert("base", head="none").parameters()),
        }
    # Without BERT's pooler (768 x 768 + 768), which only the classifier has.
    assert sizes == {"gpt2": 124_439_808, "bert": 109_482_240 - 590_592}


def test_zoo_names_its_sizes() -> None:
    with pytest.raises(NotFound, match="small"):
        zoo.gpt("giant")


def test_labels_that_are_no_token_are_named() -> None:
    with pytest.raises(InputError, match="labels"):
        model(num_decoder_layers=1)(tokens(), labels=tokens() + 20)


def test_backends_by_head_need_one_name_a_head() -> None:
    with pytest.raises(InputError, match="4 wanted, 2 came"):
        model(num_encoder_layers=1, quantum_config={"backend": ["classical", "varopt"]})


def test_the_shipped_model_knows_python() -> None:
    """The last tenth of what it was trained on was held out: at most 3 bits a byte there."""
    text = importlib.import_module("qcluster.qtransformers.text")
    net = zoo.load("python-stdlib").eval()
    _, held_out = text.split(text.standard_library(), 0.1)
    ids = torch.from_numpy(held_out[: 64 * 97].astype("int64")).view(64, 97)
    with torch.no_grad():
        assert text.bits_per_byte(net(ids, labels=ids).loss.item()) < 3.0
    prompt = torch.from_numpy(text.encode("import ").astype("int64"))[None]
    assert text.decode(net.generate(prompt, max_new_tokens=8)[0].tolist()).startswith("import ")
