"""Tiny random models of many architectures: ours against their own eager attention."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is an extra")

import transformers as tf

from qcluster.errors import InputError
from qcluster.q_attention import TwoLevelCache, register_hf
from qcluster.q_attention.hf_cache import held_behind

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 99, "max_position_embeddings": 64}  # fmt: skip
GQA = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}

DECODERS = {
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=99, n_positions=64,
        bos_token_id=1, eos_token_id=2)),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GQA)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GQA, sliding_window=4)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**{k: v for k, v in GQA.items()
                                                           if k != "head_dim"})),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GQA)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**GQA)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(
        **GQA, sliding_window=4, attn_logit_softcapping=2.0, query_pre_attn_scalar=8)),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**SMALL, pad_token_id=0)),
    "olmo": lambda: tf.OlmoForCausalLM(tf.OlmoConfig(**{**SMALL, "pad_token_id": 0})),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)),
    "opt": lambda: tf.OPTForCausalLM(tf.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=99,
        max_position_embeddings=64, word_embed_proj_dim=32)),
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**{
        k: v for k, v in GQA.items() if k != "head_dim"})),
}  # fmt: skip
ENCODERS = {
    "bert": lambda: tf.BertModel(tf.BertConfig(**SMALL)),
    "roberta": lambda: tf.RobertaModel(tf.RobertaConfig(**SMALL)),
    "electra": lambda: tf.ElectraModel(tf.ElectraConfig(**SMALL, embedding_size=32)),
    "distilbert": lambda: tf.DistilBertModel(tf.DistilBertConfig(
        dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=99, max_position_embeddings=64)),
}  # fmt: skip


def both(make):
    """The same weights behind eager attention and behind ours."""
    register_hf()
    torch.manual_seed(0)
    ours = make().eval()
    theirs = make().eval()
    theirs.load_state_dict(ours.state_dict())
    ours.set_attn_implementation("qcluster")
    theirs.set_attn_implementation("eager")
    assert ours.config._attn_implementation == "qcluster"
    return ours, theirs


def batch(length=9):
    ids = torch.randint(3, 99, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, :3] = 0
    return ids, mask


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_with_padding_cache_and_generate(name) -> None:
    ours, theirs = both(DECODERS[name])
    ids, mask = batch()
    with torch.no_grad():
        for attention_mask in (None, mask):
            a = ours(ids, attention_mask=attention_mask).logits
            b = theirs(ids, attention_mask=attention_mask).logits
            seen = torch.ones_like(mask).bool() if attention_mask is None else mask.bool()
            torch.testing.assert_close(a[seen], b[seen], atol=1e-5, rtol=1e-5)
        past = ours(ids[:, :6], attention_mask=mask[:, :6], use_cache=True).past_key_values
        step = ours(ids[:, 6:], attention_mask=mask, past_key_values=past).logits
        whole = theirs(ids, attention_mask=mask).logits[:, 6:]
        torch.testing.assert_close(step, whole, atol=1e-5, rtol=1e-5)
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        found = ours.generate(ids, attention_mask=mask, **options)
        assert torch.equal(found, theirs.generate(ids, attention_mask=mask, **options))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_with_padding(name) -> None:
    ours, theirs = both(ENCODERS[name])
    ids, mask = batch()
    with torch.no_grad():
        a = ours(ids, attention_mask=mask).last_hidden_state
        b = theirs(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(a[mask.bool()], b[mask.bool()], atol=1e-5, rtol=1e-5)


def test_encoder_decoder_with_position_bias() -> None:
    ours, theirs = both(lambda: tf.T5ForConditionalGeneration(tf.T5Config(
        d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=99,
        decoder_start_token_id=0)))  # fmt: skip
    ids, mask = batch()
    with torch.no_grad():
        a = ours(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
        b = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=ids).logits
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_vision() -> None:
    ours, theirs = both(lambda: tf.ViTModel(tf.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=4)))  # fmt: skip
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def test_speech_with_cross_attention() -> None:
    ours, theirs = both(lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=99,
        num_mel_bins=8, max_source_positions=20, max_target_positions=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None)))  # fmt: skip
    sound, ids = torch.randn(2, 8, 40), batch()[0][:2]
    with torch.no_grad():
        a = ours(input_features=sound, decoder_input_ids=ids).logits
        b = theirs(input_features=sound, decoder_input_ids=ids).logits
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_sinks() -> None:
    ours, theirs = both(lambda: tf.GptOssForCausalLM(tf.GptOssConfig(
        **GQA, num_local_experts=2, num_experts_per_tok=1, sliding_window=4)))  # fmt: skip
    ids, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


def test_sampling_in_evaluation_alone() -> None:
    register_hf("qcluster-sampled", {"backend": "varopt", "num_samples": 4})
    ours, theirs = both(DECODERS["llama"])
    ours.set_attn_implementation("qcluster-sampled")
    ids, _ = batch(24)
    with torch.no_grad():
        exact = theirs(ids).logits
        off = (ours(ids).logits - exact).abs().max()
        assert 1e-5 < off < 1
        torch.testing.assert_close(ours.train()(ids).logits, exact, atol=1e-5, rtol=1e-5)
        register_hf("qcluster-sampled", {"backend": "varopt", "num_samples": 4}, min_keys=25)
        torch.testing.assert_close(ours.eval()(ids).logits, exact, atol=1e-5, rtol=1e-5)


def test_a_share_of_bytes_in_generation() -> None:
    register_hf("qcluster-share", {"backend": "varopt", "budget": 0.5})
    ours, _ = both(DECODERS["llama"])
    ours.set_attn_implementation("qcluster-share")
    ids, mask = batch(24)
    found = ours.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    assert found.shape == (3, 28)


@pytest.mark.parametrize(
    "options",
    [{"quantum_config": {"backend": "simulation"}}, {"min_keys": 0}, {"quantum_config": {"x": 1}}],
)
def test_configurations_without_sense_are_refused(options) -> None:
    with pytest.raises(InputError):
        register_hf("never", **options)


LONG = 8300
"""Keys of which whole blocks are clustered."""


def long_gpt2():
    """A model that decodes over a cache which is too long to compute: filled by hand."""
    torch.manual_seed(0)
    config = tf.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=9000, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    register_hf()
    model = tf.GPT2LMHeadModel(config).eval()
    model.set_attn_implementation("qcluster")
    kinds = torch.randn(30, 16)
    keys = kinds[torch.randint(30, (2, 1, 2, LONG))] + 0.3 * torch.randn(2, 1, 2, LONG, 16)
    return model, keys, keys.flip(-1) + 0.2


def filled(kind, keys, values, length=LONG):
    cache = kind()
    for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
        cache.update(k[:, :, :length], v[:, :, :length], layer)
    return cache


def test_a_two_level_cache_generates_like_any_other() -> None:
    """Short: the same tokens as transformers' own cache, with and without beams and padding."""
    for name in ("gpt2", "llama", "gemma2", "mistral"):
        ours, _ = both(DECODERS[name])
        ids, mask = batch()
        for options in ({}, {"num_beams": 3}, {"attention_mask": mask}):
            kept = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
            expected = ours.generate(ids, **kept, **options)
            found = ours.generate(ids, past_key_values=TwoLevelCache(), **kept, **options)
            torch.testing.assert_close(found, expected)


def test_a_long_cache_is_read_in_part_and_close() -> None:
    model, keys, values = long_gpt2()
    cache = filled(TwoLevelCache, keys, values)
    whole = filled(tf.DynamicCache, keys, values)
    with torch.no_grad():
        for token in (5, 7, 11):
            ids = torch.tensor([[token]])
            found = model(ids, past_key_values=cache).logits
            expected = model(ids, past_key_values=whole).logits
            assert float((found - expected).norm() / expected.norm()) < 0.02
    layer = cache.layers[0]
    assert layer.keys.shape[2] == LONG + 3 == cache.get_seq_length()
    torch.testing.assert_close(layer.keys, whole.layers[0].keys)
    held = held_behind(layer.keys)
    assert held is not None
    assert held.rows_read is not None
    assert held.rows_read < 0.7
    assert held_behind(layer.keys[:, :, :-1]) is None
    assert held_behind(torch.randn(1, 2, 4, 16)) is None


def test_a_cropped_or_reordered_cache_is_read_as_it_is_now() -> None:
    model, keys, values = long_gpt2()
    both_rows = [torch.cat([x, x.flip(3)], 1) for x in (keys, values)]
    caches = [filled(kind, *both_rows) for kind in (TwoLevelCache, tf.DynamicCache)]
    ids = torch.tensor([[5], [6]])
    seen = []
    for cache in caches:
        with torch.no_grad():
            model(ids, past_key_values=cache)
            cache.crop(-101)
            cache.reorder_cache(torch.tensor([1, 0]))
            seen.append(model(ids, past_key_values=cache).logits)
        assert cache.get_seq_length() == LONG - 99
    assert float((seen[0] - seen[1]).norm() / seen[1].norm()) < 0.02


def test_prompts_teach_a_cache_and_masks_leave_it_alone() -> None:
    model, keys, values = long_gpt2()
    cache = filled(TwoLevelCache, keys, values, LONG - 3)
    whole = filled(tf.DynamicCache, keys, values, LONG - 3)
    prompt = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        a, b = (model(prompt, past_key_values=c).logits for c in (cache, whole))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)  # more than one query: exact
    mask = torch.ones(1, LONG + 1, dtype=torch.long)
    mask[0, :50] = 0
    with torch.no_grad():
        a, b = (model(prompt[:, :1], past_key_values=c, attention_mask=mask).logits
                for c in (cache, whole))  # fmt: skip
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_other_types_are_kept_by_transformers_own_layer() -> None:
    cache = TwoLevelCache()
    k = torch.randn(1, 2, 4, 8, dtype=torch.float64)
    for _ in range(2):
        keys, values = cache.update(k, k, 0)
    assert keys.shape == values.shape == (1, 2, 8, 8)
    assert held_behind(keys) is None
    for tolerance in (0, 1, -1.0, float("nan")):
        with pytest.raises(InputError, match="tolerance"):
            TwoLevelCache(tolerance)
