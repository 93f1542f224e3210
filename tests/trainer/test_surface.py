"""The rest of the surface that scripts and subclasses use."""

from __future__ import annotations

import inspect
import json
import math
import re
from importlib import metadata

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

import trainwright
from tests import installed, tiny
from trainwright import ConfigError, Trainer, TrainerCallback, TrainingArguments
from trainwright.trainer.face import session_of

NAMED = [
    "train",
    "evaluate",
    "predict",
    "save_model",
    "save_state",
    "log",
    "log_metrics",
    "save_metrics",
    "hyperparameter_search",
    "add_callback",
    "pop_callback",
    "remove_callback",
    "create_optimizer",
    "create_scheduler",
    "create_optimizer_and_scheduler",
    "get_train_dataloader",
    "get_eval_dataloader",
    "get_test_dataloader",
    "compute_loss",
    "training_step",
    "prediction_step",
    "evaluation_loop",
    "num_examples",
    "floating_point_ops",
    "is_world_process_zero",
    "is_local_process_zero",
    "create_model_card",
    "push_to_hub",
    "get_decay_parameter_names",
    "get_learning_rates",
    "get_num_trainable_parameters",
    "get_optimizer_group",
    "call_model_init",
    "store_flos",
    "init_hf_repo",
    "compute_loss_context_manager",
    "autocast_smart_context_manager",
    "get_optimizer_cls_and_kwargs",
    "get_total_train_batch_size",
    "metrics_format",
]
ATTRIBUTES = [
    "model",
    "model_wrapped",
    "args",
    "state",
    "control",
    "callback_handler",
    "optimizer",
    "lr_scheduler",
    "accelerator",
    "train_dataset",
    "eval_dataset",
    "data_collator",
    "processing_class",
    "label_names",
    "is_in_train",
    "is_model_parallel",
    "compute_metrics",
]


def arguments(folder, **changes):
    settings = {"max_steps": 4, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return TrainingArguments(str(folder), **{**settings, **changes})


def line(folder, kind=Trainer, callbacks=None, **changes):
    rows = tiny.line_rows()
    return kind(tiny.new_line(), arguments(folder, **changes), None, rows, rows[:8], callbacks=callbacks)


@pytest.mark.parametrize("name", NAMED)
def test_methods_take_what_transformers_take(name):
    ours, theirs = getattr(Trainer, name), getattr(transformers.Trainer, name)
    wanted = [p for p in inspect.signature(theirs).parameters.values() if p.name not in ("self", "trainer")]
    given = [p for p in inspect.signature(ours).parameters.values() if p.name not in ("self", "trainer")]
    names = [p.name for p in given]
    assert not [p.name for p in wanted if p.name not in names and p.kind is not p.VAR_KEYWORD]


def test_constructor_takes_what_transformers_takes_in_the_same_order():
    theirs = list(inspect.signature(transformers.Trainer.__init__).parameters)
    ours = list(inspect.signature(Trainer.__init__).parameters)
    assert ours[: len(theirs)] == theirs


def test_attributes_are_what_they_are_in_transformers(tmp_path):
    rows, found = tiny.line_rows(), {}
    for library in (transformers, trainwright):
        model, metrics = tiny.new_line(), lambda prediction: {}
        args = library.TrainingArguments(
            str(tmp_path), max_steps=4, use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none",
            optim="adamw_torch",
        )  # fmt: skip
        trainer = library.Trainer(model, args, None, rows, rows[:8], compute_metrics=metrics)
        trainer.train()
        given = {"model": model, "args": args, "train_dataset": rows, "compute_metrics": metrics}
        assert all(getattr(trainer, name) is value for name, value in given.items())
        assert trainer.eval_dataset == rows[:8]
        found[library] = {name: getattr(trainer, name) for name in ATTRIBUTES}
    theirs, ours = found.values()
    for name in ("label_names", "is_in_train", "is_model_parallel", "processing_class"):
        assert ours[name] == theirs[name], name
    for name in ("model_wrapped", "optimizer", "lr_scheduler"):
        assert type(ours[name]) is type(theirs[name].optimizer if name == "optimizer" else theirs[name]), name
    for name, value in vars(theirs["control"]).items():
        assert getattr(ours["control"], name) == value, name
    assert (ours["state"].global_step, ours["state"].epoch) == (4, theirs["state"].epoch)
    assert [p.shape for group in ours["optimizer"].param_groups for p in group["params"]] == [
        p.shape for group in theirs["optimizer"].param_groups for p in group["params"]
    ]
    batch = ours["data_collator"](rows[:2])
    assert all(torch.equal(batch[name], value) for name, value in theirs["data_collator"](rows[:2]).items())


OF_DEEPER_CODE = {  # of transformers' own loop: an override of it would have to know the rest of that loop
    "create_accelerator_and_postprocess", "set_initial_training_values", "end",
}  # fmt: skip


@installed.todays_arguments
@pytest.mark.parametrize("name", ["Trainer", "Seq2SeqTrainer"])
def test_public_names_are_those_of_the_installed_transformers(name, tmp_path):
    kinds = [getattr(library, name) for library in (transformers, trainwright)]
    kind = name.replace("Trainer", "TrainingArguments")
    arguments = [getattr(library, kind)(str(tmp_path), use_cpu=True) for library in (transformers, trainwright)]
    theirs, ours = (k(tiny.t5(), args) for k, args in zip(kinds, arguments, strict=True))
    public = {one for one in dir(theirs) if not one.startswith("_")}
    assert {one for one in public if not hasattr(ours, one)} <= OF_DEEPER_CODE


class Watching(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        self.seen = [*getattr(self, "seen", []), [int(value * 1e4) for value in inputs["labels"]]]
        return super().training_step(model, inputs, num_items_in_batch)


class Copied(Watching):
    """The loader and the columns as transformers' own `get_train_dataloader` makes them, copied into a subclass."""

    prepares = False

    def get_train_dataloader(self):
        sampler, collator = self._get_train_sampler(), self.data_collator
        rows = self._remove_unused_columns(self.train_dataset, description="training")
        collator = self._get_collator_with_removed_columns(collator, description="training")
        loader = DataLoader(rows, batch_size=self._train_batch_size, sampler=sampler, collate_fn=collator)
        return self.accelerator.prepare(loader) if self.prepares else loader


class Prepared(Copied):
    prepares = True


@pytest.mark.parametrize("kind", [Copied, Prepared])
def test_a_copied_loader_has_the_order_of_the_arguments(tmp_path, kind):
    rows = [{**row, "name": "unused"} for row in tiny.line_rows(20)]
    settings = {"max_steps": 6, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    plain, copied = (
        k(tiny.new_line(), arguments(tmp_path / k.__name__, **settings), train_dataset=rows) for k in (Watching, kind)
    )
    plain.train()
    copied.train()
    assert len(plain.seen) == 6
    assert plain.seen[:3] != plain.seen[3:]
    assert copied.seen == plain.seen


def test_an_override_of_the_sampler_may_ask_for_ours(tmp_path):
    class Own(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return super()._get_train_sampler(train_dataset)

    logs = []
    for kind in (Trainer, Own):
        trainer = line(tmp_path, kind)
        trainer.train()
        logs.append([entry.get("loss") for entry in trainer.state.log_history])
    assert logs[0] == logs[1]
    assert list(Own._get_eval_sampler(trainer, [1, 2, 3])) == [0, 1, 2]
    assert Own._get_eval_sampler(trainer, iter([1, 2, 3])) is None  # a stream has its own order


def test_private_names_that_scripts_call(tmp_path):
    trainer = line(tmp_path)
    trainer.train()
    state = {name: torch.zeros_like(value) for name, value in trainer.model.state_dict().items()}
    trainer._save(str(tmp_path / "zeros"), state_dict=state)
    trainer._load_from_checkpoint(str(tmp_path / "zeros"))
    assert all(not value.any() for value in trainer.model.state_dict().values())
    llama = Trainer(tiny.llama(), arguments(tmp_path))
    llama._save(str(tmp_path / "llama"), {name: value + 1 for name, value in llama.model.state_dict().items()})
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "llama").state_dict()
    assert all(torch.equal(again[name], value + 1) for name, value in llama.model.state_dict().items())
    assert trainer._get_output_dir(trial=None) == str(tmp_path)
    assert trainer._get_learning_rate() == trainer.optimizer.param_groups[0]["lr"]
    trainer._memory_tracker.start()
    trainer._memory_tracker.stop_and_update_metrics({})
    loader = trainer._get_dataloader(trainer.eval_dataset, "Evaluation", 3, trainer._get_eval_sampler)
    assert [len(batch["labels"]) for batch in loader] == [3, 3, 2]
    assert llama._loss_shifts_labels
    assert not trainer._loss_shifts_labels


def test_every_name_can_be_imported():
    for name in trainwright.__all__:
        assert getattr(trainwright, name) is not None
    assert trainwright.AutoTokenizer is transformers.AutoTokenizer
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        trainwright.Nonsense  # noqa: B018


def test_every_name_that_the_examples_import_from_transformers_is_there():
    names = "AutoModelForCausalLM AutoModelForSequenceClassification AutoTokenizer DataCollatorWithPadding Trainer"
    names += " EarlyStoppingCallback TrainerCallback TrainingArguments get_cosine_schedule_with_warmup"
    assert set(names.split()) <= set(trainwright.__all__)


EVENTS = [
    "init_end",
    "train_begin",
    "epoch_begin",
    "step_begin",
    "substep_end",
    "pre_optimizer_step",
    "optimizer_step",
    "step_end",
    "log",
    "prediction_step",
    "evaluate",
    "save",
    "epoch_end",
    "train_end",
]


def recorder(base, calls):
    def method(event):
        def on_event(self, args, state, control, **kwargs):
            calls.append((event, state.global_step, tuple(sorted(kwargs))))

        return on_event

    return type("Recorder", (base,), {f"on_{event}": method(event) for event in EVENTS})()


def test_callbacks_hear_what_they_hear_in_transformers(tmp_path):
    heard = {}
    for library, base in ((transformers, transformers.TrainerCallback), (trainwright, TrainerCallback)):
        calls = heard[library.__name__] = []
        args = library.TrainingArguments(
            str(tmp_path / library.__name__),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            logging_steps=2,
            eval_strategy="steps",
            eval_steps=3,
            save_steps=3,
            use_cpu=True,
            disable_tqdm=True,
        )
        rows = tiny.line_rows(40)
        trainer = library.Trainer(
            tiny.new_line(), args, train_dataset=rows, eval_dataset=rows[:8], callbacks=[recorder(base, calls)]
        )
        trainer.train()
    ours = [(event, step) for event, step, _ in heard["trainwright"]]
    theirs = [(event, step) for event, step, _ in heard["transformers"]]
    assert ours == theirs
    keywords = {event: names for event, _, names in heard["trainwright"]}
    for event, _, names in heard["transformers"]:
        assert set(names) <= set(keywords[event]), event


def test_callbacks_of_transformers_work_as_they_are(tmp_path):
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    trainer = line(
        tmp_path,
        callbacks=[stop, transformers.ProgressCallback],
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=0.05,
    )
    assert trainer.train().global_step == 2


def test_tensorboard_through_report_to(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    line(tmp_path, report_to="tensorboard").train()
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_callbacks_can_be_added_popped_and_steer(tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2
            return control

    trainer = line(tmp_path)
    trainer.add_callback(Stop)
    assert trainer.train().global_step == 2
    assert isinstance(trainer.pop_callback(Stop), Stop)
    trainer.add_callback(Stop())
    trainer.remove_callback(Stop)
    assert trainer.train().global_step == 4


def test_overrides_are_called(tmp_path):
    called = []

    class Own(Trainer):
        def get_train_dataloader(self):
            called.append("loader")
            return super().get_train_dataloader()

        def create_optimizer(self, model=None):
            called.append("optimizer")
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
            return self.optimizer

        def log(self, logs, start_time=None):
            called.append("log")
            super().log({**logs, "mine": 1.0}, start_time)

        def prediction_step(self, *args, **kwargs):
            called.append("prediction")
            return super().prediction_step(*args, **kwargs)

        def evaluate(self, *args, **kwargs):
            called.append("evaluate")
            return super().evaluate(*args, **kwargs)

        def floating_point_ops(self, inputs):
            return 10

    trainer = line(tmp_path, Own, eval_strategy="steps", eval_steps=4)
    trainer.train()
    assert {"loader", "optimizer", "log", "prediction", "evaluate"} <= set(called)
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert trainer.state.log_history[0]["mine"] == 1.0
    assert trainer.state.total_flos == 40


def test_optimizer_class_and_keywords(tmp_path):
    rows = tiny.line_rows()
    choice = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5})
    trainer = Trainer(tiny.new_line(), arguments(tmp_path), train_dataset=rows, optimizer_cls_and_kwargs=choice)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["momentum"] == 0.5


def test_weight_decay_groups_are_transformers(tmp_path):
    theirs = transformers.Trainer(tiny.bert_classifier(), transformers.TrainingArguments(str(tmp_path), use_cpu=True))
    ours = Trainer(tiny.bert_classifier(), arguments(tmp_path))
    assert set(ours.get_decay_parameter_names(ours.model)) == set(theirs.get_decay_parameter_names(theirs.model))
    ours.create_optimizer()
    theirs.create_optimizer()
    sizes = [[len(group["params"]) for group in trainer.optimizer.param_groups] for trainer in (ours, theirs)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("given", "optimizer", "settings"),
    [
        ("momentum=0.9,nesterov=True", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("momentum=0.5,dampening=0.2", torch.optim.SGD, {"momentum": 0.5, "dampening": 0.2}),
        ("", torch.optim.SGD, {}),
    ],
)
def test_settings_of_the_optimizer_are_torchs(tmp_path, given, optimizer, settings):
    rates, more = {"learning_rate": 0.05, "lr_scheduler_type": "constant"}, {"optim_args": given} if given else {}
    ours = line(tmp_path, optim="sgd", **more, **rates)
    model = tiny.new_line()
    theirs = optimizer(model.parameters(), lr=0.05, **settings)
    own = Trainer(model, arguments(tmp_path, **rates), train_dataset=tiny.line_rows(), optimizers=(theirs, None))
    ours.train()
    own.train()
    torch.testing.assert_close(ours.model.layer.weight, model.layer.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cosine_with_restarts", {"num_cycles": 3}),
        ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
        ("cosine", {"num_cycles": 1.5}),
        ("inverse_sqrt", {"timescale": 7}),
        ("cosine_with_min_lr", {"min_lr_rate": 0.2}),
        ("warmup_stable_decay", {"num_decay_steps": 4, "min_lr_ratio": 0.1}),
    ],
)
def test_settings_of_a_schedule_are_those_of_transformers(tmp_path, name, settings):
    trainer = line(
        tmp_path, max_steps=12, warmup_steps=3, learning_rate=1e-2, lr_scheduler_type=name, lr_scheduler_kwargs=settings
    )
    trainer.train()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs = transformers.get_scheduler(
        name, optimizer, num_warmup_steps=3, num_training_steps=12, scheduler_specific_kwargs=settings
    )
    rates = []
    for _ in range(12):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    found = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert found == pytest.approx(rates, rel=1e-9)
    assert rates != pytest.approx([1e-2 * min(step / 3, 1, (12 - step) / 9) for step in range(12)])  # of plain linear


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup"])
def test_our_schedules_are_transformers(name):
    from trainwright.optim.schedules import build_scheduler

    def course(make):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = make(optimizer)
        rates = []
        for _ in range(30):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        return rates

    ours = course(lambda o: build_scheduler(name, o, 5, 30))
    theirs = course(lambda o: transformers.get_scheduler(name, o, num_warmup_steps=5, num_training_steps=30))
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_plateau_schedule_follows_the_metric(tmp_path):
    trainer = line(
        tmp_path,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5},
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=0.08,
        max_steps=6,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] == 0.08
    assert rates[-1] < rates[0]


def test_files_of_metrics_state_and_card(tmp_path, capsys):
    trainer = line(tmp_path, eval_strategy="steps", eval_steps=4)
    metrics = trainer.train().metrics
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    trainer.create_model_card(model_name="line", license="apache-2.0")
    assert "***** train metrics *****" in capsys.readouterr().out
    everything = json.loads((tmp_path / "all_results.json").read_text())
    assert {"train_loss", "eval_loss"} <= set(everything)
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4
    card = (tmp_path / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert re.search(r"\| 4 \| eval_loss \| [\d.]+ \|", card)


def test_accelerator_is_made_on_demand(tmp_path):
    trainer = line(tmp_path)
    trainer.train()
    assert session_of(trainer).accelerator is None
    accelerator = trainer.accelerator
    assert accelerator.unwrap_model(trainer.model_wrapped) is trainer.model
    assert accelerator.num_processes == 1
    assert torch.equal(accelerator.gather_for_metrics(torch.arange(3)), torch.arange(3))
    assert str(accelerator.mixed_precision) == "no"  # of the real accelerate.Accelerator


@pytest.mark.parametrize("most", [0.5, 100.0])
def test_the_accelerator_clips_as_torch_does(tmp_path, most):
    trainer, by_hand = line(tmp_path), tiny.new_line()
    trainer.model.load_state_dict(by_hand.state_dict())
    trainer.create_optimizer()
    batch = torch.utils.data.default_collate(tiny.line_rows(4))
    for model in (trainer.model, by_hand):
        model(**batch)["loss"].backward()
    norm = trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), most)
    wanted = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), most)
    assert 0.5 < wanted < 100
    torch.testing.assert_close(norm, wanted)
    for one, other in zip(trainer.model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(ConfigError, match="norm_type=inf"):
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), most, norm_type=math.inf)


def test_shares_of_max_steps(tmp_path):
    trainer = line(tmp_path, max_steps=10, logging_steps=0.25, warmup_steps=0.2)
    trainer.train()
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == [3, 6, 9]
    first = [e["learning_rate"] for e in trainer.state.log_history if "loss" in e][0]
    assert first == pytest.approx(5e-5)


def test_input_tokens_are_counted(tmp_path):
    args = arguments(tmp_path, include_num_input_tokens_seen="non_padding", per_device_train_batch_size=2)
    trainer = Trainer(tiny.llama(), args, train_dataset=tiny.tokens(8))
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 4 * 2 * 12
    assert trainer.state.log_history[0]["num_input_tokens_seen"] == 24
    inner = trainer.model.num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == 6 * inner * 4 * 2 * 12


def test_gradient_checkpointing_changes_no_number(tmp_path):
    def weights(**changes):
        trainer = Trainer(tiny.llama(), arguments(tmp_path, **changes), train_dataset=tiny.tokens(16))
        trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    torch.testing.assert_close(weights(gradient_checkpointing=True), weights(), rtol=1e-6, atol=1e-7)


def test_neftune_adds_noise_in_training_only(tmp_path):
    def loss(**changes):
        args = arguments(tmp_path, max_steps=1, **changes)
        trainer = Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16), eval_dataset=tiny.tokens(4))
        trainer.train()
        return trainer.state.log_history[0]["loss"], [trainer.evaluate()["eval_loss"] for _ in range(2)]

    plain, noisy = loss(), loss(neftune_noise_alpha=50.0)
    assert plain[0] != noisy[0]
    assert noisy[1][0] == noisy[1][1]


def test_the_noise_of_neftune_is_that_of_the_paper(tmp_path):
    """Uniform up to alpha / sqrt(tokens of a row × width), arXiv:2310.05914, algorithm 1."""
    noise = {True: [], False: []}

    class Watching(Trainer):
        def create_optimizer(self):
            def look(layer, given, named):
                plain = nn.functional.embedding(self.ids, self.model.get_input_embeddings().weight)
                noise[layer.training].append((named.get("hidden_states", *given) - plain).detach())

            self.model.model.layers[0].register_forward_pre_hook(look, with_kwargs=True)
            return super().create_optimizer()

        def _prepare_inputs(self, inputs):
            self.ids = inputs["input_ids"]
            return super()._prepare_inputs(inputs)

    args = arguments(tmp_path, max_steps=2, neftune_noise_alpha=5.0, eval_strategy="steps", eval_steps=1)
    rows = tiny.tokens(16)
    trainer = Watching(tiny.llama(), args, train_dataset=rows, eval_dataset=rows[:4])
    trainer.train()
    bound = 5.0 / (rows[0]["input_ids"].numel() * trainer.model.config.hidden_size) ** 0.5
    drawn = torch.stack(noise[True])
    assert drawn.abs().max() <= bound + 1e-6  # float32
    assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)  # of 6144 numbers
    assert abs(drawn.mean().item()) < 0.05 * bound
    assert not torch.equal(drawn[0], drawn[1])
    assert all(one.abs().max() == 0 for one in noise[False])
    assert len(noise[False]) > 0
    assert not trainer.model.get_input_embeddings()._forward_hooks  # none is left in the user's model


def test_peft_models_train_and_save_adapters(tmp_path):
    from peft import LoraConfig, get_peft_model

    def adapted(seed):
        return get_peft_model(tiny.llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=seed == 0))

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    straight = Trainer(adapted(0), arguments(tmp_path, **settings), train_dataset=tiny.tokens(16))
    straight.train()
    assert (tmp_path / "checkpoint-3" / "adapter_model.safetensors").exists()
    for file in (tmp_path / "checkpoint-6").iterdir():
        file.unlink()
    (tmp_path / "checkpoint-6").rmdir()
    resumed = Trainer(adapted(1), arguments(tmp_path, **settings), train_dataset=tiny.tokens(16))
    resumed.train(resume_from_checkpoint=True)
    for (name, a), (_, b) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_model_init_starts_every_run_anew(tmp_path):
    trainer = Trainer(model_init=lambda: tiny.new_line(), args=arguments(tmp_path), train_dataset=tiny.line_rows())
    first = trainer.train().training_loss
    assert trainer.train().training_loss == first


def test_torch_compile(tmp_path):
    trainer, plain = line(tmp_path, torch_compile_backend="eager"), line(tmp_path)
    assert trainer.args.torch_compile
    trainer.train()
    plain.train()
    assert torch.equal(trainer.model.layer.weight, plain.model.layer.weight)
    assert not torch.equal(plain.model.layer.weight, tiny.new_line().layer.weight)
    compiled, eager = ([(one["loss"], one["grad_norm"]) for one in run.state.log_history if "loss" in one]
                       for run in (trainer, plain))  # fmt: skip
    assert len(compiled) == 4
    assert compiled == eager  # which an optimizer that takes no notice of scales does not show
    assert trainer.model_wrapped is not trainer.model
    assert isinstance(trainer.model, tiny.Line)


def test_version_is_that_of_the_package():
    assert metadata.version("trainwright") == trainwright.__version__
