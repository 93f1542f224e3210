"""The fused loss drops nothing of the model's own, in any number format: terms, scales and caps of logits, modes."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from torch.nn import functional

from tests import tiny
from tests.objectives.test_fused_loss import SIZES, Pad, kinds, lists, numbers, trained
from trainwright import Trainer, TrainingArguments
from trainwright.models import head

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}


def mixture(coefficient=0.02, dtype=torch.float32):
    config = transformers.MixtralConfig(**SIZES, **EXPERTS, router_aux_loss_coef=coefficient)
    return transformers.MixtralForCausalLM(config).to(dtype)


def another(change):
    """Return a model whose own loss is another one: `change(loss, model, logits, labels)`."""
    model = tiny.llama()
    own = model.loss_function

    def loss_function(logits, labels, **more):
        return change(own(logits, labels, **more), model, logits, labels)

    model.loss_function = loss_function
    return model


def without_first(loss, model, logits, labels):
    """Learn no row's last token."""
    return torch.nn.functional.cross_entropy(logits[:, :-2].flatten(0, 1).float(), labels[:, 1:-1].flatten())


TERMS = {
    "the balance of experts": mixture,
    "a hundredth of it": lambda: mixture(0.001),
    "it in weights of bfloat16": lambda: mixture(0.002, torch.bfloat16),
    "a z-loss": lambda: another(lambda loss, model, z, _: loss + 1e-4 * z.float().logsumexp(-1).square().mean()),
    "a term of training alone": lambda: another(lambda loss, model, z, _: loss + 0.01 * model.training),
    "a decay of weights": lambda: another(
        lambda loss, model, z, _: loss + 1e-4 * sum(p.square().sum() for p in model.parameters())
    ),
    "other targets": lambda: another(without_first),
    "label smoothing of its own": lambda: another(
        lambda loss, model, z, labels: torch.nn.functional.cross_entropy(
            z[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), label_smoothing=0.01
        )
    ),
}


def weighted(logits, labels, vocab_size, **more):
    """Weigh one rare token ten times."""
    weights = torch.ones(vocab_size)
    weights[RARE] = 10.0
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), weight=weights)


class Rare(transformers.LlamaForCausalLM):
    def forward(self, input_ids=None, labels=None, **more):
        logits = self.lm_head(self.model(input_ids=input_ids).last_hidden_state)
        loss = None if labels is None else weighted(logits, labels, self.vocab_size)  # of labels[..., 1:]
        return transformers.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)


class Kept(transformers.LlamaForCausalLM):
    def loss_function(self, *given, **more):
        return weighted(*given, **more)


def with_class(kind):
    return lambda patch: kind(tiny.llama(max_position_embeddings=128).config)


def with_function(patch):
    model = tiny.llama(max_position_embeddings=128)
    model.loss_function = weighted
    return model


def with_wrapper(patch):
    """Return a model whose loss looks like transformers' own."""
    model = tiny.llama(max_position_embeddings=128)
    model.loss_function = functools.wraps(model.loss_function)(lambda **given: weighted(**given))
    return model


def with_padding(patch):
    model = tiny.llama(max_position_embeddings=128)
    model.loss_function = functools.partial(model.loss_function, ignore_index=RARE)
    return model


def with_part(name, kind=transformers.LlamaForCausalLM):
    """Return a model of transformers for which a part of the way to its loss was replaced."""

    def made(patch):
        def cross_entropy(source, target, *given, ignore_index=-100, **more):
            weights = torch.ones(source.shape[-1])
            weights[RARE] = 10.0
            return plain(source, target, weight=weights, ignore_index=ignore_index)

        plain = functional.cross_entropy
        patch.setattr(name, cross_entropy)
        return kind(tiny.llama(max_position_embeddings=128).config)

    return made


RARE = 2
RULES = {
    "a function": with_function,
    "a function that looks like the own one": with_wrapper,
    "another padding": with_padding,
    "a forward of the user's": with_class(Rare),
    "a method of the user's": with_class(Kept),
    "a part of transformers' function": with_part("transformers.loss.loss_utils.fixed_cross_entropy"),
    "torch's function": with_part("torch.nn.functional.cross_entropy"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_for_a_rare_token_is_kept(tmp_path, monkeypatch, name):
    model = RULES[name](monkeypatch)
    ids = torch.randint(3, tiny.VOCABULARY, (4, 100), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = RARE  # which no small piece of the batch has
    with torch.no_grad():
        expected = model.eval()(input_ids=ids, labels=ids).loss.item()
    args = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, logging_steps=1, use_cpu=True, disable_tqdm=True
    )
    rows = [{"input_ids": row, "labels": row.clone()} for row in ids]
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_no_term_of_the_models_own_loss_is_lost(tmp_path, caplog, monkeypatch, name, bf16):
    monkeypatch.setattr(head, "own_loss", lambda model: None)  # as if all of it were transformers' own
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        trainer = trained(tmp_path, TERMS[name](), rows=tiny.tokens(32), steps=2, use_fused_loss=fused, bf16=bf16)
        assert kinds(trainer) == {False}
        results.append((numbers(trainer, "loss"), numbers(trainer, "grad_norm")))
    assert results[0] == results[1]
    assert caplog.text.count("use_fused_loss is off") == 1
    assert "the model's own loss is not the cross-entropy of its logits" in caplog.text


def test_a_term_of_training_is_seen_after_an_evaluation_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(head, "own_loss", lambda model: None)
    model = another(lambda loss, model, z, _: loss + 0.5 * model.training)
    trainer = trained(
        tmp_path, model, rows=tiny.tokens(32), steps=2, eval_dataset=tiny.tokens(4), eval_strategy="steps",
        eval_on_start=True, eval_steps=1,
    )  # fmt: skip
    assert kinds(trainer) == {False}


def recurrent(**changes):
    settings = {"num_hidden_layers": 2, "attention_window_size": 8, "lru_width": 32, **changes}
    sizes = {name: value for name, value in SIZES.items() if name not in ("max_position_embeddings", *settings)}
    return transformers.RecurrentGemmaForCausalLM(transformers.RecurrentGemmaConfig(**sizes, **settings))


LOGITS = {  # small ones, which a cap hardly bends yet, and a scale hardly changes the loss of
    "a cap of another name": recurrent,
    "a multiplier": lambda: transformers.FalconH1ForCausalLM(
        transformers.FalconH1Config(**SIZES, lm_head_multiplier=0.9, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8)
    ),
}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", LOGITS)
def test_logits_that_are_bent_in_an_unknown_way_are_built(tmp_path, caplog, name, bf16):
    torch.manual_seed(0)
    model = LOGITS[name]()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.01)
    trainer = trained(tmp_path, model, rows=tiny.tokens(16), steps=1, bf16=bf16)
    assert kinds(trainer) == {False}
    assert "the model's logits are not those of its output layer" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bf16", [False, True])
def test_it_stays_on_with_dropout_and_in_every_format(tmp_path, caplog, dtype, bf16):
    torch.manual_seed(0)
    trainer = trained(tmp_path, tiny.llama(dropout=0.5).to(dtype), steps=2, bf16=bf16)
    assert kinds(trainer) == {True}, caplog.text


def test_the_comparison_leaves_no_trace(tmp_path):
    """With dropout, a run that compares and one that does not draw the same numbers."""
    losses = []
    for fused in (True, False):
        torch.manual_seed(0)
        trainer = trained(tmp_path, tiny.llama(dropout=0.3), steps=3, use_fused_loss=fused)
        losses.append(numbers(trainer, "loss"))
        assert kinds(trainer) == {fused}
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


STABLE = {name: value for name, value in SIZES.items() if name != "pad_token_id"}
MIXING = {
    "stablelm": lambda: transformers.StableLmForCausalLM(transformers.StableLmConfig(**STABLE)),
    "minimax": lambda: transformers.MiniMaxForCausalLM(
        transformers.MiniMaxConfig(
            **STABLE, head_dim=16, num_local_experts=2, num_experts_per_tok=1, block_size=4,
            layer_types=["linear_attention", "full_attention"],
        )
    ),
    "olmo hybrid": lambda: transformers.OlmoHybridForCausalLM(
        transformers.OlmoHybridConfig(
            **SIZES, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
            linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_rows_that_would_see_each_other_keep_their_padding(tmp_path, name, bf16):
    results, steps = [], 1 if bf16 else 2  # what rounding leaves, Adam's first step makes much of
    for fused in (True, False):
        torch.manual_seed(0)
        model = MIXING[name]()
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(8.0)
        trainer = trained(tmp_path, model, rows=lists(), steps=steps, use_fused_loss=fused, bf16=bf16, collate=Pad())
        results.append(numbers(trainer, "loss"))
        assert trainer.kinds[-1] is None or trainer.kinds[-1].flat_rows is None
    assert results[0] == pytest.approx(results[1], rel=2e-3 if bf16 else 1e-5)
