"""The loss without the logits: equal to float64 arithmetic and to every model's own, and on by itself where it fits."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import transformers
from torch.nn import functional

from tests import tiny
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.losses import fused_loss
from trainwright.objectives.linear import loss as linear_loss
from trainwright.objectives.linear.loss import CHUNK, linear_cross_entropy, linear_log_probs


def plain(hidden, weight, targets, bias, scale, cap):
    logits = functional.linear(hidden, weight, bias) * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("rows", [1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 3.0)])
def test_value_and_gradients(monkeypatch, rows, bias, scale, cap):
    monkeypatch.setattr(linear_loss, "_ELEMENTS", 0)  # the smallest chunks
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((rows, 8), (50, 8), (50,))]
    targets = torch.randint(0, 50, (rows,), generator=generator)
    found = []
    for function in (plain, linear_cross_entropy):
        hidden, weight, shift = (part.clone().requires_grad_() for part in parts)
        loss = function(hidden, weight, targets, bias=shift if bias else None, scale=scale, cap=cap)
        (loss / 7).backward()
        found.append([loss.detach(), hidden.grad, weight.grad, *([shift.grad] if bias else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 2**24], ids=["computed again", "kept"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 3.0)])
def test_log_probabilities_of_rows_that_weigh_apart(monkeypatch, kept, bias, scale, cap):
    monkeypatch.setattr(linear_loss, "_KEPT", kept)
    monkeypatch.setattr(linear_loss, "_ELEMENTS", 0)  # the smallest chunks
    generator = torch.Generator().manual_seed(0)
    rows = 2 * CHUNK + 3
    parts = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((rows, 8), (50, 8), (50,))]
    targets = torch.randint(0, 50, (rows,), generator=generator)
    factors = torch.randn(rows, dtype=torch.float64, generator=generator)

    def reference(hidden, weight, targets, bias, scale, cap):
        logits = functional.linear(hidden, weight, bias) * scale
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)

    found = []
    for function in (reference, linear_log_probs):
        hidden, weight, shift = (part.clone().requires_grad_() for part in parts)
        values = function(hidden, weight, targets, bias=shift if bias else None, scale=scale, cap=cap)
        (factors * values).sum().backward()
        found.append([values.detach(), hidden.grad, weight.grad, *([shift.grad] if bias else [])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
def test_gradients_in_mixed_precision(monkeypatch, function):
    """Chunk by chunk into a float32 gradient, from bfloat16 products; against float64 from the same rounded numbers."""
    monkeypatch.setattr(linear_loss, "_ELEMENTS", 0)
    generator = torch.Generator().manual_seed(0)
    rows = 2 * CHUNK + 3
    parts = [torch.randn(*shape, generator=generator).bfloat16() for shape in ((rows, 8), (50, 8), (50,))]
    targets = torch.randint(0, 50, (rows,), generator=generator)
    hidden, weight, bias = (part.float().requires_grad_() for part in parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        function(hidden, weight, targets, bias=bias).sum().backward()
    exact = [part.double().requires_grad_() for part in parts]
    sign = 1 if function is linear_cross_entropy else -1
    (sign * plain(exact[0], exact[1], targets, exact[2], 1.0, None)).backward()
    for one, other in zip((hidden, weight, bias), exact, strict=True):
        assert one.grad.dtype == torch.float32
        assert (one.grad - other.grad).norm() < 1e-2 * other.grad.norm()  # 8 bits of mantissa


@pytest.mark.parametrize("function", [linear_cross_entropy, lambda *given: -linear_log_probs(*given).sum()])
def test_gradients_are_given_as_often_as_they_are_asked_for(function):
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5).double().requires_grad_(), torch.randn(11, 5).double().requires_grad_()
    targets = torch.randint(11, (7,))
    expected = torch.autograd.grad(
        functional.cross_entropy(hidden @ weight.T, targets, reduction="sum") / 3, (hidden, weight)
    )
    loss = function(hidden, weight, targets) / 3
    for kept in (True, True, False):
        found = torch.autograd.grad(loss, (hidden, weight), retain_graph=kept)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, (hidden, weight))


@pytest.mark.parametrize(
    "wanted", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
def test_room_is_made_for_the_gradients_that_are_wanted_alone(wanted):
    parts = torch.ones(2, 3), torch.ones(5, 3), torch.ones(5)
    made = linear_loss.empty_gradients(*parts, wanted, torch.float64)
    assert tuple(None if one is None else one.shape for one in made) == tuple(
        part.shape if one else None for part, one in zip(parts, wanted, strict=True)
    )
    assert linear_loss.empty_gradients(*parts[:2], None, wanted, torch.float64)[2] is None


def test_frozen_parts_get_no_gradient_and_autocast_is_followed():
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(50, 8)
    targets = torch.arange(9)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert hidden.grad is not None
    assert not linear_cross_entropy(hidden.detach(), weight, targets).requires_grad
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
        own = plain(hidden, weight, targets, None, 1.0, None)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(own.item(), rel=1e-2)
    loss.backward()
    assert weight.grad.dtype == torch.float32


SIZES = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
MODELS = {
    "llama": lambda: tiny.llama(),
    "tied llama": lambda: tiny.llama(tie_word_embeddings=True),
    "gpt2": lambda: tiny.gpt2(),
    "neox": lambda: tiny.gpt_neox(),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=16)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES)),
    "gemma2 (cap)": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SIZES, head_dim=16)),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SIZES, head_dim=16)),
    "cohere (scale)": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SIZES)),
    "granite (divisor)": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**SIZES, logits_scaling=8.0)
    ),
    "phi (bias)": lambda: transformers.PhiForCausalLM(transformers.PhiConfig(**SIZES)),
}


def trained(place, model, kind=Trainer, rows=None, steps=6, eval_dataset=None, collate=None, **changes):
    args = TrainingArguments(
        str(place), max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True, **changes,
    )  # fmt: skip
    trainer = kind(
        model,
        args,
        train_dataset=rows or tiny.tokens(32, ragged=True),
        eval_dataset=eval_dataset,
        data_collator=collate,
    )
    trainer.kinds = []

    class TokenStatistics(TrainerCallback):
        def on_step_end(self, *given, **named):
            trainer.kinds.append(trainer.objective.fused)

    trainer.add_callback(TokenStatistics)
    trainer.train()
    return trainer


@contextmanager
def calls_of(layer):
    """Collect what a layer is given and returns, without a hook, which the engine would see."""
    seen, forward = [], type(layer).forward

    def spy(self, given):
        output = forward(self, given)
        if self is layer:
            seen.append((given, output))
        return output

    with mock.patch.object(type(layer), "forward", spy):
        yield seen


def kinds(trainer):
    """Whether the steps of a run were fused."""
    return {kind is not None for kind in trainer.kinds}


def numbers(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_losses_and_norms_are_the_models_own(tmp_path, name, caplog):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        trainer = trained(tmp_path, MODELS[name](), use_fused_loss=fused)
        assert kinds(trainer) == {fused}
        results.append(trainer)
    assert "use_fused_loss is off" not in caplog.text
    for what in ("loss", "grad_norm"):  # float32: sums in another order
        assert numbers(results[0], what) == pytest.approx(numbers(results[1], what), abs=2e-5, rel=2e-5)


@pytest.mark.slow
def test_micro_batches_are_one_batch_in_float64(tmp_path):
    weights = []
    for size, accumulation in ((12, 1), (4, 3), (1, 12)):
        model = tiny.gpt2().double()  # transformers' Llama computes partly in float32, whatever its dtype
        args = TrainingArguments(
            str(tmp_path), max_steps=20, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            learning_rate=1e-3, save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, args, train_dataset=tiny.tokens(36, ragged=True))
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for other in weights[1:]:
        assert (weights[0] - other).abs().max() < 1e-9


def test_lora_adapters(tmp_path):
    from peft import LoraConfig, get_peft_model

    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = get_peft_model(tiny.llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        results.append(trained(tmp_path, model, use_fused_loss=fused))
    assert kinds(results[0]) == {True}
    assert numbers(results[0], "loss") == pytest.approx(numbers(results[1], "loss"), abs=1e-5)


def hooked():
    model = tiny.llama()
    model.lm_head.register_forward_hook(lambda *given: None)
    return model


class PenaltyForCausalLM(transformers.LlamaForCausalLM):
    """A model whose own loss has a term more."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, **named):
        outputs = super().forward(input_ids, attention_mask, labels=labels, **named)
        if outputs.loss is not None:
            outputs.loss = outputs.loss + 0.5
        return outputs


def another_loss():
    model, own = tiny.llama(), tiny.llama().loss_function
    model.loss_function = lambda **given: own(**given) + 0.5
    return model


def adapted_head():
    from peft import LoraConfig, get_peft_model

    return get_peft_model(tiny.llama(), LoraConfig(r=4, target_modules=["lm_head"]))


@pytest.mark.parametrize(
    ("model", "reason"),
    [(hooked, "its output layer has hooks"), (adapted_head, "not a plain Linear"),
     (lambda: PenaltyForCausalLM(tiny.llama().config), "PenaltyForCausalLM has a forward of its own, whose loss"),
     (another_loss, "computed by another_loss.<locals>.<lambda>, which is not transformers' own")],
    ids=["hook", "adapted head", "own forward", "another loss"],
)  # fmt: skip
def test_it_is_off_by_itself_with_one_line(tmp_path, caplog, model, reason):
    trainer = trained(tmp_path, model())
    assert kinds(trainer) == {False}
    assert caplog.text.count("use_fused_loss is off") == 1
    assert reason in caplog.text


def test_outputs_are_there_for_those_who_ask(tmp_path):
    class Asking(Trainer):
        shapes = ()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            self.shapes = outputs.logits.shape
            return (loss, outputs) if return_outputs else loss

    assert trained(tmp_path, tiny.llama(), kind=Asking).shapes == (4, 12, tiny.VOCABULARY)


def test_the_logits_are_never_built(tmp_path):
    sizes = []

    class Watching(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            with calls_of(model.lm_head) as calls:
                loss = super().training_step(model, inputs, num_items_in_batch)
            sizes.extend(output.shape[1] for _, output in calls)
            return loss

    trained(tmp_path, tiny.llama(), kind=Watching)
    assert sorted(set(sizes)) == [0, 12]  # 12 only in the two comparisons before the first step
    assert sizes.count(12) == 2


def lists(rows=32):
    """Rows of 2 to 20 tokens, the first third of which are no targets."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for _ in range(rows):
        length = int(torch.randint(2, 21, (), generator=generator))
        tokens = torch.randint(3, tiny.VOCABULARY, (length,), generator=generator).tolist()
        made.append({"input_ids": tokens, "labels": [-100] * (length // 3) + tokens[length // 3 :]})
    return made


class Pad:
    """Pads on one side; keeps what it made."""

    def __init__(self, side="right", label=-100):
        self.side, self.label = side, label

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)
        parts = {"input_ids": [], "labels": [], "attention_mask": []}
        for row in rows:
            free = longest - len(row["input_ids"])
            real = {**row, "attention_mask": [1] * len(row["input_ids"])}
            for name, filler in (("input_ids", 0), ("labels", self.label), ("attention_mask", 0)):
                more = [filler] * free
                parts[name].append(real[name] + more if self.side == "right" else more + real[name])
        return {name: torch.tensor(rows) for name, rows in parts.items()}


class Lengths(Trainer):
    """Watches how many tokens the first layer of the model sees, and in how many rows."""

    shapes: list

    def training_step(self, model, inputs, num_items_in_batch=None):
        with calls_of(model.get_input_embeddings()) as calls:
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.shapes += [tuple(given.shape) for given, _ in calls]
        return loss


MICRO_BATCHES = 16


def padded(place, model, collate=None, **changes):
    args = TrainingArguments(
        str(place), max_steps=8, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3,
        logging_steps=1, save_steps=4, use_cpu=True, disable_tqdm=True, **changes,
    )  # fmt: skip
    trainer = Lengths(model, args, train_dataset=lists(), eval_dataset=lists(6), data_collator=collate or Pad())
    trainer.shapes = []
    trainer.train()
    return trainer


WINDOWED = {
    "mistral, window": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=5)),
    "gemma3, window": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **SIZES, head_dim=16, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
        )
    ),
}
FLAT = {name: make for name, make in MODELS.items() if "gemma2" not in name} | WINDOWED


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
def test_batches_lose_their_padding_and_no_number_changes(tmp_path, name, caplog):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        results.append(padded(tmp_path, FLAT[name](), use_fused_loss=fused))
    assert "use_fused_loss is off" not in caplog.text
    real = sum(len(row["input_ids"]) for row in lists())
    steps = results[0].shapes[-MICRO_BATCHES:]  # before them, the comparisons at the first batch
    assert sum(rows * tokens for rows, tokens in steps[: MICRO_BATCHES // 2]) == real
    assert {rows for rows, _ in steps} == {1}
    assert {rows for rows, _ in results[1].shapes} == {4}
    for what in ("loss", "grad_norm"):  # float32: sums in another order
        assert numbers(results[0], what) == pytest.approx(numbers(results[1], what), abs=3e-5, rel=3e-5)
    assert results[0].evaluate()["eval_loss"] == pytest.approx(results[1].evaluate()["eval_loss"], abs=1e-4)


def test_activation_checkpointing_sees_the_same_documents(tmp_path):
    results = [padded(tmp_path, tiny.llama(), activation_checkpointing=on) for on in (True, False)]
    assert {rows for rows, _ in results[0].shapes[-MICRO_BATCHES:]} == {1}
    assert numbers(results[0], "grad_norm") == pytest.approx(numbers(results[1], "grad_norm"), rel=1e-5)


def test_the_model_keeps_its_own_attention_afterwards(tmp_path):
    trainer = padded(tmp_path, tiny.llama())
    assert trainer.model.config._attn_implementation == "sdpa"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-8")
    assert loaded.config._attn_implementation == "sdpa"
    assert "trainwright" not in (tmp_path / "checkpoint-8" / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("collate", "model"),
    [(Pad("left"), tiny.llama), (Pad(label=7), tiny.llama), (Pad(), lambda: tiny.llama(dropout=0.1)),
     (Pad(), lambda: tiny.gpt2(dropout=0.1)),
     (Pad(), lambda: transformers.LlamaForCausalLM._from_config(tiny.llama().config, attn_implementation="eager"))],
    ids=["left padding", "labels at the padding", "attention dropout", "dropout", "eager attention"],
)  # fmt: skip
def test_padding_stays_where_numbers_would_change(tmp_path, collate, model):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        results.append(padded(tmp_path, model(), collate, use_fused_loss=fused))
    assert {rows for rows, _ in results[0].shapes[-MICRO_BATCHES:]} == {4}
    assert numbers(results[0], "loss") == pytest.approx(numbers(results[1], "loss"), abs=3e-5, rel=3e-5)


def test_a_teacher_has_its_own_head(tmp_path):
    teacher = tiny.llama(seed=9)

    class Distilling(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            with torch.no_grad():
                theirs = super().compute_loss(teacher, inputs, num_items_in_batch=num_items_in_batch)
                self.record("teacher", theirs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    results = [trained(tmp_path, tiny.llama(), kind=Distilling, use_fused_loss=fused) for fused in (True, False)]
    assert kinds(results[0]) == {True}
    for what in ("teacher", "loss"):
        assert numbers(results[0], what) == pytest.approx(numbers(results[1], what), abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True], ids=["model", "adapters"])
def test_resuming_without_padding_is_bitwise(tmp_path, adapters):
    def model(seed):
        made = tiny.llama(seed=0 if adapters else seed)  # adapters lie on a model that is loaded, not trained
        if adapters:
            from peft import LoraConfig, get_peft_model

            torch.manual_seed(seed)
            made = get_peft_model(made, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        return made

    straight = padded(tmp_path, model(0))
    shutil.rmtree(tmp_path / "checkpoint-8")
    resumed = Lengths(
        model(5), straight.args, train_dataset=lists(), eval_dataset=lists(6), data_collator=Pad()
    )  # fmt: skip
    resumed.shapes = []
    resumed.train(resume_from_checkpoint=True)
    assert {rows for rows, _ in resumed.shapes[-MICRO_BATCHES // 2 :]} == {1}
    assert numbers(resumed, "loss") == numbers(straight, "loss")
    pairs = zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("what", ["rows", "logits"])
def test_what_the_first_batch_did_not_prove_a_resumed_run_does_not_try_again(tmp_path, caplog, monkeypatch, what):
    """Else its own first batch might, and its numbers be rounded otherwise."""
    judged, seen = [], []

    def at_first(tokens):
        judged.append(tokens)
        return "it seems so" if len(judged) <= (1 if what == "rows" else 2) else None  # flat rows, then others

    if what == "rows":
        monkeypatch.setattr(fused_loss.document_isolation, "leak", lambda *given: at_first(given[3]))
    else:
        monkeypatch.setattr(fused_loss, "difference", lambda *given: at_first(given[3]["input_ids"]))
    straight = padded(tmp_path, tiny.llama())
    assert "it seems so" in caplog.text
    caplog.clear()
    if what == "rows":
        assert (judged[0] != 0).all()  # no padding is among the tokens that are tried
    shutil.rmtree(tmp_path / "checkpoint-8")
    resumed = Lengths(
        tiny.llama(seed=5), straight.args, train_dataset=lists(), eval_dataset=lists(6), data_collator=Pad()
    )
    resumed.shapes = seen
    resumed.train(resume_from_checkpoint=True)
    assert 1 not in {rows for rows, _ in seen}
    assert ("use_fused_loss is off: it seems so" in caplog.text) is (what == "logits")
    assert numbers(resumed, "loss") == numbers(straight, "loss")


def test_a_prompt_that_could_not_be_shared_is_not_shared_by_a_resumed_run():
    def session(shares):
        fused = SimpleNamespace(shares=shares, flat_rows=None)
        objective = SimpleNamespace(fused=fused, fused_reference=None, reference=None, shares=shares)
        return SimpleNamespace(isolation={}, model=tiny.llama(), objective=objective)

    for before, expected in ((False, False), (True, None)):
        after = session(None)
        fused_loss.give_up(after, fused_loss.given_up(session(before)))
        assert after.objective.fused.shares is after.objective.shares is expected
