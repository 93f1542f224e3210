"""What a checkpoint holds besides weights and optimizer, what is loaded from it, and what training leaves behind."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import nn

import trainwright
from tests import installed, tiny
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.session.model_setup import called
from trainwright.trainer.face import session_of

ROWS = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(16)]
QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}


def arguments(place, library=trainwright, **changes):
    settings = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.01, "lr_scheduler_type": "constant", **QUIET}
    return library.TrainingArguments(str(place), **{**settings, **changes})


def weights(trainer):
    return torch.cat([p.detach().float().flatten() for p in trainer.model.parameters()])


def tokenizer():
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)} | {"<end>": 60}, unk_token="w1"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w3", eos_token="<end>")


class Falling:
    """A metric that is best at the first evaluation."""

    def __init__(self):
        self.times = 0

    def __call__(self, prediction):
        self.times += 1
        return {"accuracy": -self.times}


@pytest.mark.slow
@pytest.mark.parametrize("library", [transformers, trainwright], ids=["transformers", "ours"])
def test_the_best_checkpoint_stays_though_it_was_saved_before_its_evaluation(tmp_path, library):
    changes = {"max_steps": -1, "num_train_epochs": 3, "per_device_train_batch_size": 10, "save_steps": 1}
    best = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "save_total_limit": 2}

    def made():
        args = arguments(tmp_path, library, **changes, **best, greater_is_better=True)
        data = {"train_dataset": tiny.line_rows(), "eval_dataset": tiny.line_rows(8)}
        return library.Trainer(tiny.new_line(), args, compute_metrics=Falling(), **data)

    trainer = made()
    trainer.train()
    assert trainer.state.best_global_step == 4
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-12"}
    if library is trainwright:  # its evaluation comes again, as the checkpoint was written before
        resumed = made()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        assert Path(resumed.state.best_model_checkpoint).name == "checkpoint-4"
        assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-12"}


def test_an_evaluation_in_half_precision_leaves_the_model_as_it_was(tmp_path):
    def made(**changes):
        return Trainer(tiny.llama(), arguments(tmp_path, **changes), train_dataset=ROWS, eval_dataset=ROWS)

    plain, half = made(), made(bf16_full_eval=True)
    buffers = {name: buffer.clone() for name, buffer in half.model.named_buffers()}
    exact, rounded = plain.evaluate()["eval_loss"], half.evaluate()["eval_loss"]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=1e-2)  # 8 bits of mantissa
    half.predict(ROWS)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in half.model.named_buffers())
    plain.train()
    half.train()
    assert torch.equal(weights(half), weights(plain))
    moments = [state["exp_avg"].dtype for state in half.optimizer.state.values()]
    assert set(moments) == {torch.float32}


@pytest.mark.slow
def test_special_tokens_are_those_of_transformers(tmp_path):
    found = []
    for library in (transformers, trainwright):
        trainer = library.Trainer(
            tiny.llama(), arguments(tmp_path, library), train_dataset=ROWS, processing_class=tokenizer()
        )
        trainer.train()
        trainer.save_model(str(tmp_path / "final"))
        saved = [
            json.loads((tmp_path / "final" / f"{name}.json").read_text()) for name in ("config", "generation_config")
        ]
        found.append([{key: one.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")} for one in saved])
    assert found[0] == found[1]
    assert found[1][0]["eos_token_id"] == 60


def test_the_tokenizer_of_a_collator_is_saved(tmp_path):
    collator = transformers.DataCollatorForLanguageModeling(tokenizer(), mlm=False)
    rows = [{"input_ids": row["input_ids"].tolist()} for row in ROWS]
    trainer = Trainer(tiny.llama(), arguments(tmp_path), train_dataset=rows, data_collator=collator)
    trainer.train()
    trainer.save_model()
    for place in (tmp_path, tmp_path / "checkpoint-4"):
        assert transformers.AutoTokenizer.from_pretrained(place).get_vocab() == tokenizer().get_vocab()


UNEVEN = [{**row, "labels": torch.where(torch.arange(len(row["labels"])) < 2 * i, -100, row["labels"])}
          for i, row in enumerate(ROWS)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_a_model_that_the_user_compiled_is_trained_and_saved_as_what_it_is(tmp_path, adapters):
    """transformers saves such a model under names that no model has, and of its adapters nothing."""
    import peft

    def made(place, compiled):
        model = tiny.llama(num_hidden_layers=1)
        if adapters:
            model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        model = torch.compile(model, backend="eager") if compiled else model
        args = arguments(place, per_device_train_batch_size=2, gradient_accumulation_steps=2, logging_steps=1)
        return Trainer(model, args, train_dataset=UNEVEN, eval_dataset=UNEVEN)

    def losses(trainer):
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    runs = [made(tmp_path / str(compiled), compiled) for compiled in (False, True)]
    for run in runs:
        run.train()
    assert [called(session_of(run)) is run.model for run in runs] == [True, False]  # the second one is called compiled
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-5)
    assert runs[1].evaluate()["eval_loss"] == pytest.approx(runs[0].evaluate()["eval_loss"], abs=1e-5)
    file = "adapter_model.safetensors" if adapters else "model.safetensors"
    plain, compiled = (load_file(tmp_path / name / "checkpoint-2" / file) for name in ("False", "True"))
    assert plain.keys() == compiled.keys()
    resumed = made(tmp_path / "True", True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "True" / "checkpoint-2"))
    assert losses(resumed) == losses(runs[1])
    assert torch.equal(weights(resumed), weights(runs[1]))


def test_a_model_may_be_compiled_after_the_trainer_was_made(tmp_path):
    trainer = Trainer(tiny.new_line(), arguments(tmp_path), train_dataset=tiny.line_rows(16))
    trainer.model = torch.compile(trainer.model, backend="eager")
    trainer.train()
    assert load_file(tmp_path / "checkpoint-4" / "model.safetensors").keys() == tiny.new_line().state_dict().keys()


@installed.true_mean
@pytest.mark.slow
def test_a_checkpoint_of_a_compiled_model_by_transformers_goes_on(tmp_path):
    args = arguments(tmp_path, transformers, remove_unused_columns=False)
    theirs = transformers.Trainer(torch.compile(tiny.llama(), backend="eager"), args, train_dataset=ROWS)
    theirs.train()
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(name.startswith("_orig_mod.") for name in saved)
    ours = Trainer(tiny.llama(), arguments(tmp_path), train_dataset=ROWS)
    ours.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(weights(ours), weights(theirs), atol=1e-5, rtol=0)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.slow
def test_training_args_are_written_and_never_read(tmp_path):
    args = arguments(tmp_path / "out", hub_token="secret")
    Trainer(tiny.llama(), args, train_dataset=ROWS).train()
    saved = torch.load(tmp_path / "out" / "checkpoint-2" / "training_args.bin", weights_only=False)
    assert (saved.learning_rate, saved.hub_token, args.hub_token) == (0.01, None, "secret")
    theirs = arguments(tmp_path / "theirs", transformers)
    transformers.Trainer(tiny.llama(), theirs, train_dataset=ROWS).train()
    torch.save(Bomb(tmp_path / "read"), tmp_path / "theirs" / "checkpoint-2" / "training_args.bin")
    Trainer(tiny.llama(), theirs, train_dataset=ROWS).train(
        resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-2")
    )
    assert not (tmp_path / "read").exists()


@dataclass
class Unpicklable(TrainingArguments):
    rule: Any = field(default_factory=lambda: lambda x: x)


def test_arguments_that_cannot_be_pickled_are_left_out(tmp_path, caplog):
    args = Unpicklable(str(tmp_path), max_steps=4, save_steps=2, **QUIET)
    Trainer(tiny.llama(), args, train_dataset=ROWS).train()
    assert caplog.text.count("training_args.bin is left out: the arguments cannot be pickled") == 1
    assert (tmp_path / "checkpoint-4" / "manifest.json").exists()


@pytest.mark.parametrize("steps", [2, 3], ids=["whole", "failed"])
def test_noise_is_gone_after_training(tmp_path, steps):
    rows = [*ROWS[:2], ROWS[2] if steps == 2 else {"input_ids": "no number"}]
    changes = {"max_steps": steps, "per_device_train_batch_size": 1, "neftune_noise_alpha": 5.0}
    args = arguments(tmp_path, **changes, train_sampling_strategy="sequential")
    trainer = Trainer(tiny.llama(), args, train_dataset=rows)
    if steps == 3:
        with pytest.raises(ValueError):
            trainer.train()
    else:
        trainer.train()
    assert not trainer.model.get_input_embeddings()._forward_hooks


class Growing(nn.Module):
    """Keeps what it has seen: a buffer of another shape than that of a new model."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x, labels):
        if self.training:
            self.seen = torch.cat([self.seen, labels.detach()])
        return {"loss": ((self.layer(x).squeeze(-1) - labels) ** 2).mean()}


class ByItself(Growing):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        self.seen = state_dict.get("seen", self.seen).clone()
        return super().load_state_dict(state_dict, strict=strict)


class ByAHook(Growing):
    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(
            lambda module, state, prefix, *_: setattr(module, "seen", state[f"{prefix}seen"].clone())
        )


@pytest.mark.parametrize("kind", [ByItself, ByAHook])
def test_a_model_that_loads_itself_is_asked_first(tmp_path, kind):
    def made(model):
        return Trainer(model, arguments(tmp_path), train_dataset=tiny.line_rows())

    straight = made(kind())
    straight.train()
    resumed = made(kind())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(resumed.model.seen, straight.model.seen)
    assert torch.equal(weights(resumed), weights(straight))
    other = kind()
    other.layer = nn.Linear(5, 1)
    with pytest.raises(CheckpointError, match="cannot be loaded by By.*size mismatch for layer.weight"):
        made(other).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_checkpoint_of_the_older_kind_goes_on(tmp_path, sharded):
    transformers.Trainer(tiny.llama(), arguments(tmp_path, transformers), train_dataset=ROWS).train()
    place = tmp_path / "checkpoint-2"
    straight = Trainer(tiny.llama(5), arguments(tmp_path / "new"), train_dataset=ROWS)
    straight.train(resume_from_checkpoint=str(place))
    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    if sharded:
        names = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(state)}
        for file in set(names.values()):
            torch.save({name: state[name] for name in names if names[name] == file}, place / file)
        (place / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    else:
        torch.save(state, place / "pytorch_model.bin")
    resumed = Trainer(tiny.llama(5), arguments(tmp_path / "old"), train_dataset=ROWS)
    resumed.train(resume_from_checkpoint=str(place))
    assert torch.equal(weights(resumed), weights(straight))
    torch.save(
        {**state, "more": Bomb(tmp_path / "read")}, place / ("pytorch_model-0.bin" if sharded else "pytorch_model.bin")
    )
    with pytest.raises(CheckpointError, match=r"pytorch_model.*bin cannot be read"):
        Trainer(tiny.llama(5), arguments(tmp_path / "bad"), train_dataset=ROWS).train(resume_from_checkpoint=str(place))
    assert not (tmp_path / "read").exists()


@pytest.mark.slow
def test_padding_without_a_mask_is_not_counted(tmp_path):
    rows = [{"input_ids": [5, 6, 7, 3, 3], "labels": [5, 6, 7, -100, -100]}] * 16
    seen = []
    for library in (transformers, trainwright):
        args = arguments(tmp_path, library, include_num_input_tokens_seen="non_padding")
        given = {"processing_class": tokenizer(), "data_collator": transformers.default_data_collator}
        trainer = library.Trainer(tiny.llama(), args, train_dataset=rows, **given)
        trainer.train()
        seen.append(trainer.state.num_input_tokens_seen)
    assert seen == [16 * 3 + 16 * 3, 16 * 3 + 16 * 3]


def test_an_8_bit_optimizer_keeps_embeddings_in_32_bit():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is in the extra `quant`")
    from trainwright.optim.optimizers import build_optimizer

    model = nn.Sequential(nn.Embedding(5000, 16), nn.Linear(16, 4096))
    choice = (bitsandbytes.optim.AdamW, {"lr": 1e-3, "optim_bits": 8})
    optimizer = build_optimizer(choice, model, [{"params": list(model.parameters())}])
    model(torch.arange(4)).pow(2).mean().backward()
    optimizer.step()
    kept = [optimizer.state[model[i].weight]["state1"].dtype for i in (0, 1)]
    assert kept == [torch.float32, torch.uint8]


class OfTheUsers(trainwright.Strategy):
    def prepare(self, model, recomputes=False):
        return model


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
def test_a_trainer_that_has_trained_can_be_pickled(tmp_path, schedule):
    args = arguments(tmp_path, lr_scheduler_type=schedule, max_steps=2, save_strategy="no")
    strategy = OfTheUsers() if schedule == "linear" else None
    trainer = trainwright.Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(), strategy=strategy)
    trainer.train()
    again = pickle.loads(pickle.dumps(trainer))
    again.train()
    assert again.lr_scheduler.get_last_lr() == trainer.lr_scheduler.get_last_lr()
