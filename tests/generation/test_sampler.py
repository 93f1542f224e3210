"""What is written: as transformers writes it, and by random numbers that belong to a completion alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers.generation import logits_process

from tests import installed, tiny, tiny_language
from trainwright.errors import ConfigError, DataError
from trainwright.generation.choosing import picked, uniforms
from trainwright.generation.sampler import Sampler
from trainwright.generation.sampling import Sampling

PROMPTS = [[5, 6, 7, 8, 9], [11, 12, 13, 14, 15, 16, 17, 18, 19], [21, 22], [31, 32, 33, 34, 35, 36, 37], [41] * 7]
KEYS = [(7, 0, row) for row in range(len(PROMPTS))]


def with_window():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, sliding_window=8,
        )
    )  # fmt: skip


def with_states():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4))


def with_adapters():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny.llama(), LoraConfig(r=2, init_lora_weights=False))


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.gpt_neox, with_window,
                                  pytest.param(with_states, marks=installed.sorts_states), with_adapters])  # fmt: skip
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_the_likeliest_tokens_are_those_of_transformers(make, penalty):
    model = make().eval()
    settings = Sampling(max_new_tokens=16, temperature=0, repetition_penalty=penalty)
    found = Sampler(model, settings, end_ids=[2, 3]).complete(PROMPTS, KEYS, 2)
    for prompt, both in zip(PROMPTS, found, strict=True):
        theirs = model.generate(
            input_ids=torch.tensor([prompt]), do_sample=False, max_new_tokens=16, eos_token_id=[2, 3], pad_token_id=0,
            repetition_penalty=penalty,
        )  # fmt: skip
        assert [one.ids.tolist() for one in both] == [theirs[0, len(prompt) :].tolist()] * 2


def test_log_probabilities_are_those_of_the_whole_text_at_the_temperature():
    model = tiny.gpt2().eval()
    settings = Sampling(max_new_tokens=12, temperature=0.7, top_k=20)
    for prompt, some in zip(PROMPTS, Sampler(model, settings, [2]).complete(PROMPTS, KEYS, 3), strict=True):
        for one in some:
            logits = model(torch.tensor([[*prompt, *one.ids.tolist()]])).logits[0, len(prompt) - 1 : -1] / 0.7
            theirs = logits.log_softmax(-1).gather(1, one.ids[:, None]).squeeze(1)
            torch.testing.assert_close(one.log_probs, theirs, atol=1e-5, rtol=0)  # float32, in another order of sums
            assert one.finished == (one.ids[-1] == 2)


def test_neither_order_nor_company_changes_what_is_written():
    model = tiny.llama().double()
    settings = Sampling(max_new_tokens=16, top_p=0.95, min_p=0.01)
    together = Sampler(model, settings, [2, 5, 9]).complete(PROMPTS, KEYS, 4)
    few = Sampler(model, settings, [2, 5, 9], batch_size=4).complete(PROMPTS[::-1], KEYS[::-1], 4)[::-1]
    alone = [Sampler(model, settings, [2, 5, 9]).complete([p], [k], 4)[0] for p, k in zip(PROMPTS, KEYS, strict=True)]
    for some in zip(together, few, alone, strict=True):
        first, *others = [[one.ids.tolist() for one in completions] for completions in some]
        assert others == [first, first]
        assert len(set(map(tuple, first))) > 1  # and the completions of a prompt differ
    assert {one.finished for some in together for one in some} == {True, False}


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (Sampling(1), []),
        (Sampling(1, temperature=0.5), [logits_process.TemperatureLogitsWarper(0.5)]),
        (Sampling(1, top_k=5), [logits_process.TopKLogitsWarper(5)]),
        (Sampling(1, top_p=0.6), [logits_process.TopPLogitsWarper(0.6)]),
        (
            Sampling(1, temperature=2.0, top_k=30, top_p=0.9, min_p=0.3),
            [
                logits_process.TemperatureLogitsWarper(2.0),
                logits_process.TopKLogitsWarper(30),
                logits_process.TopPLogitsWarper(0.9),
                logits_process.MinPLogitsWarper(0.3),
            ],
        ),
    ],
)
def test_tokens_come_as_often_as_transformers_would_draw_them(settings, theirs):
    model = tiny.llama().eval()
    with torch.no_grad():
        model.lm_head.weight *= 20  # so that they differ
        logits = model(torch.tensor([PROMPTS[0]])).logits[:, -1]
    for change in theirs:
        logits = change(torch.tensor([PROMPTS[0]]), logits)
    wanted, many = logits.softmax(-1)[0], 10_000
    (found,) = Sampler(model, settings).complete([PROMPTS[0]], [(1, 2, 3)], many)
    counts = torch.bincount(torch.cat([one.ids for one in found]), minlength=tiny.VOCABULARY)
    assert not counts[wanted == 0].any()
    often = wanted * many > 25  # where a normal distribution tells how far off a count may be
    off = (counts / many - wanted)[often].abs() / (wanted * (1 - wanted) / many)[often].sqrt()
    assert len(off) > 1
    assert off.max() < 4.5  # standard deviations; one token in 100,000 is further off


def test_what_has_no_share_is_never_taken_however_many_classes_there_are():
    shares = torch.zeros(1, 5000)
    shares[0, [0, 255, 256, 700, 4999]] = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1])
    drawn = torch.linspace(0, 1 - 1e-9, 1001, dtype=torch.float64)
    found, total = picked(shares.expand(1001, -1), drawn)
    torch.testing.assert_close(total, shares.double().sum(-1, keepdim=True).expand(1001, 1))
    assert found.unique().tolist() == [0, 255, 256, 700, 4999]
    assert torch.equal(found, found.sort().values)
    counts = torch.bincount(found, minlength=5000)[[0, 255, 256, 700, 4999]]
    torch.testing.assert_close(counts / 1001, shares[0, [0, 255, 256, 700, 4999]], atol=2e-3, rtol=0)


def test_random_numbers_follow_from_key_and_completion():
    some, others = uniforms([(1, 2), (1, 3)], 2, 5), uniforms([(1, 3)], 3, 4)
    assert torch.equal(some[2:, :4], others[:2])
    assert len(some.unique()) == some.numel()


def test_a_text_ends_what_is_written_and_belongs_to_it():
    model, tokenizer = tiny.llama().eval(), tiny.tokenizer()
    (whole,) = Sampler(model, Sampling(24)).complete([PROMPTS[0]], [KEYS[0]], 4)
    stop = tokenizer.decode(whole[1].ids[4:6])
    settings = Sampling(24, stop=(stop, "never written"))
    (cut,) = Sampler(model, settings, tokenizer=tokenizer).complete([PROMPTS[0]], [KEYS[0]], 4)
    assert cut[1].ids.tolist() == whole[1].ids[:6].tolist()
    assert [one.finished for one in cut[:2]] == [False, True]
    assert cut[0].ids.tolist() == whole[0].ids.tolist()


def test_a_stop_text_of_which_every_byte_is_a_token_ends_what_is_written():
    model, tokenizer = tiny_language.new_model().eval(), tiny_language.new_tokenizer()
    written = tokenizer("x日!")["input_ids"]
    assert len(written) == 5  # three of them are one character
    with torch.no_grad():  # every token is followed by the next of these
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (token, following) in enumerate(pairwise(written)):
            model.model.embed_tokens.weight[token, place] = 1.0
            model.lm_head.weight[following, place] = 9.0
    sampler = Sampler(model, Sampling(4, temperature=0, stop=("日",)), tokenizer=tokenizer)
    [[found]] = sampler.complete([written[:1]], [(0,)])
    assert (found.ids.tolist(), found.finished) == (written[1:4], True)


def test_a_stream_gives_the_same_tokens_one_after_another():
    model = tiny.gpt2().train()
    sampler = Sampler(model, Sampling(10), [2])
    stream = sampler.stream(PROMPTS[0], KEYS[0])
    first = next(stream)
    assert model.training  # between the tokens everything is as it was
    assert [first, *stream] == sampler.complete([PROMPTS[0]], [KEYS[0]])[0][0].ids.tolist()


def test_writing_ends_with_the_models_positions():
    model = tiny.gpt2()
    prompts = [[5] * 60, [6] * 3]
    long, short = Sampler(model, Sampling(20)).complete(prompts, KEYS[:2])
    assert (len(long[0].ids), len(short[0].ids)) == (4, 20)
    assert not long[0].finished


@pytest.mark.parametrize(("prompt", "told"), [([], "Prompt 1 is empty"), ([5] * 64, "Prompt 1 has 64 tokens")])
def test_prompts_after_which_nothing_can_be_written_are_named(prompt, told):
    with pytest.raises(DataError, match=told):
        Sampler(tiny.gpt2(), Sampling(20)).complete([[5], prompt], KEYS[:2])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0},
        {"repetition_penalty": 0.0}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_settings_out_of_their_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_a_stop_text_needs_the_tokenizer():
    with pytest.raises(ConfigError, match="tokenizer"):
        Sampler(tiny.llama(), Sampling(stop=("w3",)))


def test_a_model_whose_cache_is_not_transformers_own_is_refused():
    with pytest.raises(ConfigError, match="Words keeps no cache"):
        Sampler(tiny.words(), Sampling())
