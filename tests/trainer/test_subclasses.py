"""Subclasses, callbacks and scripts written for transformers' Trainer: what they override is called, or named once."""

from __future__ import annotations

import copy
import inspect
import logging

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, SequentialSampler, Subset, SubsetRandomSampler

import trainwright
from tests import installed, tiny
from trainwright import ConfigError, Trainer, TrainerCallback, TrainingArguments


def arguments(folder, kind=TrainingArguments, **changes):
    settings = {
        "max_steps": 4, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
        "report_to": "none",
    }  # fmt: skip
    return kind(str(folder), **{**settings, **changes})


def line(folder, kind=Trainer, callbacks=None, rows=None, args=TrainingArguments, **changes):
    rows = rows or tiny.line_rows()
    return kind(tiny.new_line(), arguments(folder, args, **changes), None, rows, rows[:8], callbacks=callbacks)


def overriding(base, names, heard):
    """Return a subclass that notes which of these methods are called."""

    def method(name):
        def call(self, *args, **kwargs):
            heard.add(name)
            return getattr(super(kind, self), name)(*args, **kwargs)

        return call

    kind = type("Own", (base,), {name: method(name) for name in names if hasattr(base, name)})
    return kind


NOT_HOOKS = {
    "add_callback",
    "is_local_process_zero",
    "is_world_process_zero",
}  # calls to a Trainer, which nobody overrides to be called


@pytest.mark.slow
def test_every_method_that_transformers_calls_is_called_here_or_named_once(tmp_path, caplog):
    hooks = [
        name
        for name in dir(transformers.Trainer)
        if not name.startswith("__") and inspect.isfunction(inspect.getattr_static(transformers.Trainer, name))
    ]
    heard = {}
    for library in (transformers, trainwright):
        called = heard[library] = set()
        kind = overriding(library.Trainer, hooks, called)
        folder = tmp_path / library.__name__
        settings = {
            "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
            "load_best_model_at_end": True,
        }  # fmt: skip
        trainer = line(folder, kind, args=library.TrainingArguments, **settings)
        trainer.train()
        trainer.predict(tiny.line_rows(8))
        trainer.save_model()
        again = line(folder, kind, args=library.TrainingArguments, **settings)
        again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    ignored = heard[transformers] - heard[trainwright] - NOT_HOOKS
    assert len(ignored) > 20
    caplog.clear()
    line(tmp_path, type("Own", (Trainer,), {name: lambda self: None for name in ignored}))
    (said,) = [record.getMessage() for record in caplog.records if "nothing calls here" in record.getMessage()]
    assert not [name for name in ignored if f"{name} (instead: " not in said]
    caplog.clear()
    line(tmp_path)
    assert not [record for record in caplog.records if "nothing calls here" in record.getMessage()]


@pytest.mark.slow
@pytest.mark.parametrize("takes_dataset", [True, False])
def test_a_sampler_of_the_users_own_is_honoured(takes_dataset, tmp_path):
    def order(library):
        seen = []

        class Own(library.Trainer):
            def _get_train_sampler(self, *given, **more):
                return SequentialSampler(self.train_dataset)

            def _get_eval_sampler(self, eval_dataset):
                return SequentialSampler(eval_dataset)

            def training_step(self, model, inputs, *rest, **more):
                seen.append(inputs["x"].flatten().tolist())
                return super().training_step(model, inputs, *rest, **more)

        if not takes_dataset and library is trainwright:
            Own._get_train_sampler = lambda self: SequentialSampler(self.train_dataset)
        trainer = line(tmp_path / library.__name__, Own, args=library.TrainingArguments)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return seen, [*losses, trainer.evaluate()["eval_loss"]]

    (ours, mine), (theirs, their_losses) = order(trainwright), order(transformers)
    assert ours == theirs
    assert mine == pytest.approx(their_losses, rel=1e-3)  # transformers rounds logged losses


def test_a_run_with_a_sampler_of_the_users_own_resumes_bitwise(tmp_path):
    class Own(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return SubsetRandomSampler(range(len(train_dataset)))

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    straight = line(tmp_path / "straight", Own, **settings)
    straight.train()
    resumed = line(tmp_path / "straight", Own, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_columns_that_an_override_names_are_kept(tmp_path):
    seen = []

    class Own(Trainer):
        def _set_signature_columns_if_needed(self):
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*self._signature_columns, "weight"]

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            seen.append(inputs.pop("weight"))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    rows = [{**row, "weight": 2.0} for row in tiny.line_rows(8)]
    Own(tiny.new_line(), arguments(tmp_path, max_steps=1), train_dataset=rows).train()
    assert seen[0].tolist() == [2.0] * 8


ATTRIBUTES = (
    "label_smoother model_accepts_loss_kwargs is_deepspeed_enabled is_fsdp_enabled is_fsdp_xla_enabled deepspeed "
    "place_model_on_device hp_search_backend hp_name current_flos neftune_noise_alpha _train_batch_size"
).split()


def test_attributes_that_copied_overrides_read(tmp_path):
    ours, theirs = (
        lib.Trainer(tiny.llama(), arguments(tmp_path, lib.TrainingArguments)) for lib in (trainwright, transformers)
    )
    for name in ATTRIBUTES:
        mine, wanted = getattr(ours, name), getattr(theirs, name)
        assert mine == wanted or not (mine or wanted), name
    smoothing = arguments(tmp_path, label_smoothing_factor=0.1)
    assert Trainer(tiny.llama(), smoothing).label_smoother.epsilon == 0.1
    batches, items = Trainer(tiny.llama(), smoothing).get_batch_samples(
        iter([{"labels": torch.tensor([[1, 2, 3]])}] * 3), 2, None
    )
    assert (len(batches), items) == (2, 4)
    assert ours.gather_function(torch.arange(2)).tolist() == [0, 1]
    assert ours.accelerator.unwrap_model(nn.DataParallel(ours.model)) is ours.model
    assert ours.accelerator.unwrap_model(torch.compile(ours.model, backend="eager")) is ours.model
    ours.label_smoother = None  # as subclasses do


@pytest.mark.slow
@installed.true_mean
def test_a_copied_compute_loss_gives_transformers_numbers(tmp_path):
    def losses(library):
        class Own(library.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                labels = inputs.pop("labels") if self.label_smoother is not None and "labels" in inputs else None
                if self.model_accepts_loss_kwargs and labels is None:
                    inputs = {**inputs, "num_items_in_batch": num_items_in_batch}
                outputs = model(**inputs)
                loss = outputs["loss"] if labels is None else self.label_smoother(outputs, labels, shift_labels=True)
                return (loss, outputs) if return_outputs else loss

        found = []
        for smoothing in (0.0, 0.1):
            args = arguments(tmp_path, library.TrainingArguments, label_smoothing_factor=smoothing)
            trainer = Own(tiny.llama(), args, train_dataset=tiny.tokens(16))
            trainer.train()
            found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        return found

    for ours, theirs in zip(losses(trainwright), losses(transformers), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)  # transformers logs four decimals


@pytest.mark.parametrize("steps", [1, 2])
def test_an_override_of_log_may_do_without_the_start_time(steps, tmp_path):
    class Own(Trainer):
        def log(self, logs):
            super().log({**logs, "mine": 1.0})

    trainer = line(tmp_path, Own, logging_steps=steps)
    trainer.train()
    assert all(entry["mine"] == 1.0 for entry in trainer.state.log_history)


def test_callbacks_are_removed_by_transformers_classes(tmp_path):
    trainer = line(tmp_path)
    assert isinstance(trainer.pop_callback(transformers.PrinterCallback), trainwright.PrinterCallback)
    trainer.remove_callback(transformers.DefaultFlowCallback)
    assert trainer.callback_handler.callbacks == []
    bars = line(tmp_path, disable_tqdm=False)
    before = len(bars.callback_handler.callbacks)
    bars.remove_callback(transformers.ProgressCallback)
    assert len(bars.callback_handler.callbacks) == before - 1
    stop = trainwright.EarlyStoppingCallback()
    bars.add_callback(stop)
    assert bars.pop_callback(transformers.EarlyStoppingCallback) is stop


def test_a_callback_may_have_any_name(tmp_path):
    heard = []

    def on_step_end(self, args, state, control, **kwargs):
        heard.append(type(self).__mro__[1].__module__)

    on_step_end.__qualname__ = "TrainerCallback.on_step_end"
    for base in (TrainerCallback, transformers.TrainerCallback):
        line(tmp_path, callbacks=[type("TrainerCallback", (base,), {"on_step_end": on_step_end})()]).train()
    assert heard == ["trainwright.callbacks.base"] * 4 + ["transformers.trainer_callback"] * 4


def test_events_are_called_by_name(tmp_path, caplog):
    heard = []

    class Own(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            heard.append(metrics)

        def on_rollout(self, args, state, control, **kwargs):
            heard.append(kwargs["reward"])

    trainer = line(tmp_path, callbacks=[Own])
    handler, common = trainer.callback_handler, (trainer.args, trainer.state, trainer.control)
    assert handler.on_evaluate(*common, {"eval_f1": 1.0}) is trainer.control
    handler.call_event("on_evaluate", *common, metrics={"eval_f1": 2.0})
    handler.call_event("on_rollout", *common, reward=3.0)
    assert heard == [{"eval_f1": 1.0}, {"eval_f1": 2.0}, 3.0]
    assert "Own.on_rollout is of no event of a run" in caplog.text
    assert "Own" in handler.callback_list
    assert handler.model is trainer.model
    handler.model = None
    assert handler.shared["model"] is None


def test_a_run_that_dies_tells_its_callbacks(tmp_path):
    heard = []

    class Own(TrainerCallback):
        def on_error(self, args, state, control, exception, **kwargs):
            heard.append((state.global_step, exception, kwargs["model"]))

    class Fails(TrainerCallback):
        def on_error(self, *args, **kwargs):
            raise RuntimeError("and this too")

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3 and "fails" in args.run_name:
                raise KeyError("the user's own")

    trainer = line(tmp_path, callbacks=[Fails, Own], run_name="fails")
    with pytest.raises(KeyError, match="the user's own") as caught:
        trainer.train()
    assert heard == [(3, caught.value, trainer.model)]
    assert any("Fails.on_error failed too (RuntimeError: and this too)" in note for note in caught.value.__notes__)
    line(tmp_path, callbacks=[Own], run_name="works").train()
    assert len(heard) == 1


@pytest.mark.slow
@pytest.mark.parametrize("within", ["itself", "subset", "subset of a concatenation", "subset in a loader"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_hears_of_passes_is_told(workers, within, tmp_path):
    class Rows(list):
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __getitem__(self, index):
            return {**super().__getitem__(index), "labels": torch.tensor([float(self.epoch)])}

    rows = Rows(tiny.line_rows(8))
    rows.epoch = 0
    seen = []

    class Own(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(inputs["labels"].mean().item())
            return super().training_step(model, inputs, num_items_in_batch)

    data = {
        "itself": rows,
        "subset": Subset(Subset(rows, range(8)), range(8)),
        "subset of a concatenation": Subset(ConcatDataset([rows, tiny.line_rows(2)]), range(8)),
    }.get(within)
    loader = DataLoader(Subset(rows, range(8)), batch_size=8, num_workers=workers) if data is None else None
    args = arguments(tmp_path, max_steps=3, dataloader_num_workers=workers)
    Own(tiny.new_line(), args, train_dataset=data, train_loader=loader).train()
    assert seen == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("kind", [Trainer, transformers.Trainer])
def test_a_training_step_may_call_the_number_of_items_as_it_likes(tmp_path, kind):
    class Own(kind):
        def training_step(self, model, inputs, items):
            return super().training_step(model, inputs, items)

    made = transformers.TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True, report_to="none")
    assert Own(tiny.new_line(), made, train_dataset=tiny.line_rows()).train().global_step == 2


def test_a_search_takes_what_transformers_take_and_keeps_the_users_arguments(tmp_path):
    class Theirs(transformers.TrainingArguments):
        @property
        def name(self):
            return "mine"

    args = arguments(tmp_path, Theirs, max_steps=2, eval_strategy="steps", eval_steps=2)
    seen = []

    class Own(Trainer):
        def create_optimizer(self, model=None):
            seen.append((self.args.name, self.args.learning_rate))
            return super().create_optimizer(model)

    rows = tiny.line_rows()
    trainer = Own(model_init=lambda: tiny.new_line(), args=args, train_dataset=rows, eval_dataset=rows[:8])
    space = {"hp_space": lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2)}}
    best = trainer.hyperparameter_search(n_trials=2, backend=None, load_if_exists=True, **space)
    assert [name for name, _ in seen] == ["mine", "mine"]
    assert best.hyperparameters["learning_rate"] in [rate for _, rate in seen]
    assert trainer.args is args
    assert args.learning_rate == 5e-5
    with pytest.raises(ConfigError, match="backend='ray' is not supported"):
        trainer.hyperparameter_search(backend="ray", **space)


def test_arguments_may_be_changed_until_training_begins(tmp_path):
    for kind in (TrainingArguments, transformers.TrainingArguments):
        trainer = line(tmp_path, args=kind, max_steps=12)
        trainer.args.max_steps = 3
        assert trainer.train().global_step == 3
        trainer.args.learning_rate = "fast"
        with pytest.raises(ConfigError, match="learning_rate='fast' is str, not a number"):
            trainer.train()


def test_a_trainer_refuses_what_accelerates_launcher_asks_for(tmp_path, monkeypatch):
    given = arguments(tmp_path, transformers.TrainingArguments)
    own = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "1")
    for args in (given, own):
        with pytest.raises(ConfigError, match="ACCELERATE_USE_DEEPSPEED=1 asks for"):
            Trainer(tiny.new_line(), args)


def test_a_loader_prepared_by_accelerate_is_read(tmp_path):
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    rows = tiny.line_rows(16)
    seen = []

    class Own(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(inputs["x"].flatten().tolist())
            return super().training_step(model, inputs, num_items_in_batch)

    loader = Accelerator(cpu=True).prepare(DataLoader(rows, batch_size=8))
    Own(tiny.new_line(), arguments(tmp_path, save_strategy="steps", save_steps=3), train_loader=loader).train()
    Own(tiny.new_line(), arguments(tmp_path), train_loader=loader).train(str(tmp_path / "checkpoint-3"))
    wanted = [torch.stack([row["x"] for row in rows[at : at + 8]]).flatten().tolist() for at in (0, 8)]
    assert seen == [*wanted * 2, wanted[1]]


@pytest.mark.slow
def test_a_tracker_that_logs_the_model_can_save_it(tmp_path, monkeypatch):
    saved = []

    class Tracker(transformers.TrainerCallback):  # as transformers' callback of wandb does it
        def __init__(self):
            self._log_model = "end"

        def on_train_end(self, args, state, control, model=None, processing_class=None, **kwargs):
            given = copy.deepcopy(args)
            given.deepspeed = given.deepspeed_plugin = None
            made = transformers.Trainer(
                args=given, model=model, processing_class=processing_class, eval_dataset=["fake"]
            )
            made.save_model(str(tmp_path / "logged"))
            saved.append((args.load_best_model_at_end, args.metric_for_best_model, args.run_name))

    for module in ("integrations", "trainer"):
        monkeypatch.setattr(f"transformers.{module}.get_reporting_integration_callbacks", lambda names: [Tracker])
    for kind in (TrainingArguments, transformers.TrainingArguments):
        settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
        given = arguments(tmp_path, kind, **settings, load_best_model_at_end=True, run_name="one")
        given.report_to = ["wandb"]
        Trainer(tiny.bert_classifier(), given, train_dataset=tiny.sentences(8), eval_dataset=tiny.sentences(8),
                processing_class=tiny.tokenizer()).train()  # fmt: skip
        assert (tmp_path / "logged" / "model.safetensors").exists()
    assert saved == [(True, "loss", "one")] * 2


logging.getLogger("optuna").setLevel(logging.ERROR)
