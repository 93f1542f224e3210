"""Hooks on a model see what they see with transformers' Trainer: labels, loss and logits outside, every row inside."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from torch.nn.modules.module import register_module_forward_hook

from tests import tiny
from tests.objectives.test_fused_loss import Pad, lists
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.models.hooks import unwatched, watched

STEPS = 4


def size(value):
    return (*value.shape, value.double().norm().item())


def outputs(seen):
    return lambda module, given, output: seen.append((output["loss"].item(), *size(output.logits)))


def replace_forward(model, seen):
    own = model.forward

    @functools.wraps(own)
    def forward(*given, **named):
        output = own(*given, **named)
        seen.append((output.loss.item(), *size(output.logits)))
        return output

    model.forward = forward


def labels(seen):
    return lambda module, given, named: seen.append(size(named["labels"]))


def inputs(seen):
    return lambda module, given, named: seen.append(size(named["input_ids"]))


def of_all(module, seen):
    return lambda one, given, output: outputs(seen)(one, given, output) if one is module else None


OUTSIDE = {
    "forward hook": lambda model, seen: model.register_forward_hook(outputs(seen)),
    "forward pre-hook": lambda model, seen: model.register_forward_pre_hook(labels(seen), with_kwargs=True),
    "forward replaced": replace_forward,
    "output layer": lambda model, seen: model.lm_head.register_forward_hook(
        lambda module, given, output: seen.append((*size(given[0]), *size(output)))
    ),
    "gradient of the output layer": lambda model, seen: model.lm_head.register_full_backward_hook(
        lambda module, given, output: seen.append((*size(given[0]), *size(output[0])))
    ),
    "hook for all modules": lambda model, seen: register_module_forward_hook(of_all(model, seen)),
}
INSIDE = {
    "trunk": lambda model, seen: model.model.register_forward_pre_hook(inputs(seen), with_kwargs=True),
    "last layer": lambda model, seen: model.model.layers[-1].register_forward_hook(
        lambda module, given, output: seen.append(size(output[0] if isinstance(output, tuple) else output))
    ),
    "gradient of a layer": lambda model, seen: model.model.layers[0].mlp.register_full_backward_hook(
        lambda module, given, output: seen.append(size(output[0]))
    ),
}


class Late(TrainerCallback):
    """Sets the hook in a step."""

    def __init__(self, hook, seen, step):
        self.hook, self.seen, self.step = hook, seen, step
        self.handle = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.handle = self.hook(model, self.seen)


def seen_by(kind, arguments, place, hook, step):
    model, seen = tiny.llama(), []
    args = arguments(
        str(place), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-2, save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_steps=1, report_to="none",
    )  # fmt: skip
    late = Late(hook, seen, step)
    handle = hook(model, seen) if step is None else None
    trainer = kind(model, args, train_dataset=lists(), data_collator=Pad(), callbacks=[late])
    try:
        trainer.train()
    finally:
        for one in (handle, late.handle):
            if one is not None:
                one.remove()
    return seen, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "step"),
    [
        *((name, None) for name in OUTSIDE | INSIDE),
        ("forward hook", 0),
        ("forward hook", 2),
        ("trunk", 0),
        ("trunk", 2),
    ],
)
def test_hooks_see_what_they_see_with_transformers(tmp_path, caplog, name, step):
    hook = {**OUTSIDE, **INSIDE}[name]
    theirs = seen_by(transformers.Trainer, transformers.TrainingArguments, tmp_path, hook, step)
    ours = seen_by(Trainer, TrainingArguments, tmp_path, hook, step)
    assert len(ours[0]) == len(theirs[0]) == STEPS - (step or 0)
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one == pytest.approx(other, rel=2e-4)  # float32, after some steps of other sums
    assert ours[1] == pytest.approx(theirs[1], rel=2e-4)
    assert caplog.text.count("use_fused_loss is off") == (name in OUTSIDE)


def test_what_transformers_captures_is_no_users_hook():
    """A mixture's loss needs what its routers gave, also in a step that one of several ranks repeats without rows."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.MixtralConfig(**shape, vocab_size=tiny.VOCABULARY, num_key_value_heads=2, num_local_experts=2)
    config.output_router_logits = True
    model, heard = transformers.MixtralForCausalLM(config), []
    batch = {name: torch.arange(6).reshape(2, 3) for name in ("input_ids", "labels")}
    first = model(**batch).loss
    assert watched(model.modules()) is None
    model.model.layers[0].register_forward_hook(lambda *given: heard.append(1))
    assert watched(model.modules()) is not None
    with unwatched(model):
        assert model(**batch).loss == first
    assert not heard
