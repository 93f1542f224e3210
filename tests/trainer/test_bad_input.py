"""Every mistake gets one sentence: what was wrong, what was expected, what to do."""

from __future__ import annotations

import functools
import math
import os
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler

from tests import tiny
from trainwright import (
    CheckpointError,
    ConfigError,
    DataError,
    EarlyStoppingCallback,
    Loss,
    Objective,
    Strategy,
    Trainer,
    TrainingArguments,
)  # fmt: skip
from trainwright.objectives.model_loss import ModelLoss

ARGUMENTS = [
    ({"learning_rate": "1e-3"}, r"learning_rate='1e-3' is str, not a number\. Write it without quotes"),
    ({"learning_rate": -1e-3}, "learning_rate=-0.001 is negative"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be a whole number of at least 1"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be a whole number"),
    ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0 is negative"),
    ({"warmup_steps": 20, "max_steps": 10}, "warmup_steps=20 is longer than the run"),
    ({"warmup_steps": 11, "max_steps": 10}, "warmup_steps=11 is longer than the run"),
    ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type='cosin' is not known. Did you mean 'cosine'"),
    ({"optim": "adamw_torh"}, "optim='adamw_torh' is not known. Did you mean 'adamw_torch'"),
    ({"optim": "AdamW"}, "optim='AdamW' is not known. Did you mean 'adamw_torch'"),
    ({"optim": "lomo"}, "optim='lomo' takes over the backward pass"),
    ({"eval_strategy": "step"}, "eval_strategy='step' is not known. Did you mean 'steps'"),
    ({"save_strategy": "epochs"}, "save_strategy='epochs' is not known. Did you mean 'epoch'"),
    ({"report_to": "tensorbord"}, "report_to='tensorbord' is not known. Did you mean 'tensorboard'"),
    ({"learning_rat": 1e-3}, "no argument 'learning_rat'.*Did you mean 'learning_rate'"),
    ({"load_best_model_at_end": True}, "chosen by evaluation, so it needs eval_strategy"),
    (
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
        "needs a checkpoint at an evaluation",
    ),
    (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 5},
        "needs save_steps=5 to be a multiple of eval_steps=3",
    ),
    ({"bf16": True, "fp16": True}, "fp16 and bf16 are both set"),
    ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor=2 needs worker processes"),
    ({"logging_steps": 0}, "logging_steps=0 must be above 0"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows a metric, so it needs eval_strategy"),
    ({"train_sampling_strategy": "batch_rebalance"}, "'batch_rebalance' is not supported; use 'group_by_length'"),
    ({"learning_rate": math.inf}, r"learning_rate=inf is not finite \(float32 ends at 3.4e38\)"),
    ({"learning_rate": 1e39}, "learning_rate=1e\\+39 is not finite"),
    ({"weight_decay": math.nan}, "weight_decay=nan is not finite"),
    ({"neftune_noise_alpha": math.nan}, "neftune_noise_alpha=nan is not finite"),
    ({"eval_delay": math.nan}, "eval_delay=nan is not finite"),
    ({"ddp_timeout": -1}, "ddp_timeout=-1 is negative"),
    ({"max_train_time": "8 parsecs"}, "max_train_time='8 parsecs' is no length of time; write '8h'"),
    ({"max_train_time": 0}, "max_train_time=0 is no length of time"),
    ({"spike_factor": math.nan}, "spike_factor=nan must be a number above 1"),
    ({"save_steps": math.nan}, "save_steps=nan is not finite; give a number, or save_strategy='no'"),
    ({"logging_steps": math.inf}, "logging_steps=inf is not finite"),
    ({"lr_scheduler_kwargs": {"min_lr": math.nan}}, "lr_scheduler_kwargs: min_lr=nan is not finite"),
    ({"num_train_epochs": 0}, "num_train_epochs=0 trains nothing"),
    ({"num_train_epochs": math.inf}, "num_train_epochs=inf is not finite"),
    ({"max_steps": 10.5}, "max_steps=10.5 must be a whole number"),
    ({"max_steps": 10**400}, "max_steps is a number of 1329 bits; it must be below 2"),
    ({"data_seed": 2**70}, "data_seed is a number of 71 bits"),
    ({"seed": 1.5}, "seed=1.5 must be a whole number"),
    ({"per_device_train_batch_size": True}, "per_device_train_batch_size=True must be a whole number"),
    ({"dataloader_num_workers": 1.5}, "dataloader_num_workers=1.5 must be a whole number of at least 0"),
    ({"eval_accumulation_steps": -1}, "eval_accumulation_steps=-1 must be a whole number of at least 1, or be left"),
    ({"label_names": "labels"}, r"label_names='labels' is a text.*: label_names=\['labels'\]"),
    ({"include_for_metrics": ["input"]}, "include_for_metrics='input' is not known. Did you mean 'inputs'"),
    ({"save_total_limit": 0}, "save_total_limit=0 must be a whole number of at least 1, or be left out"),
]


@pytest.mark.parametrize(("given", "message"), ARGUMENTS, ids=lambda value: str(value)[:40])
def test_arguments(given, message):
    with pytest.raises(ConfigError, match=message):
        TrainingArguments("out", **given)


def test_numbers_of_numpy_and_torch_are_taken_as_they_are_meant():
    args = TrainingArguments("out", learning_rate=np.float64(1e-2), max_steps=torch.tensor(7), seed=np.int64(3))
    assert [(type(value), value) for value in (args.learning_rate, args.max_steps, args.seed)] == [
        (float, 1e-2), (int, 7), (int, 3),
    ]  # fmt: skip
    assert type(TrainingArguments("out", max_steps=10.0).max_steps) is int
    assert TrainingArguments("out", max_grad_norm=math.inf).max_grad_norm == math.inf  # measured, and never clipped


def test_all_faults_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        TrainingArguments("out", learning_rate=-1, optim="adamm", per_device_train_batch_size=0)
    assert str(caught.value).startswith("3 arguments cannot work:")


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Rows(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def tokens_with(row, **changes):
    rows = tiny.tokens(16)
    rows[row] = {**rows[row], **changes}
    return rows


def frozen():
    model = tiny.new_line()
    model.requires_grad_(False)
    return model


ids = torch.arange(3, 15)
RUNS = {
    "no data": (lambda: {"train_dataset": None}, ConfigError, "Training needs data"),
    "empty dataset": (lambda: {"train_dataset": []}, DataError, "training dataset is empty"),
    "empty stream": (lambda: {"train_dataset": Stream([]), "steps": 4}, DataError, "gave no batch in pass 1"),
    "empty loader": (
        lambda: {"train_loader": DataLoader([], batch_size=2), "train_dataset": None},
        DataError,
        "training loader is empty",
    ),
    "all rows dropped": (
        lambda: {"train_dataset": tiny.line_rows(3), "dataloader_drop_last": True},
        DataError,
        "has 3 rows, fewer than one batch of 8",
    ),
    "no column fits": (
        lambda: {"train_dataset": [{"xx": torch.ones(4), "label": 1.0}]},
        DataError,
        r"No column of the training data is an input of the model. It has 'xx', 'label'; the model's forward takes .*x",
    ),
    "no column fits a dataset of the user's": (
        lambda: {"train_dataset": Rows([{"xx": torch.ones(4), "label": 1.0}])},
        DataError,
        "No column of the training data is an input of the model. It has 'xx', 'label'",
    ),
    "nearest column": (
        lambda: {"model": tiny.llama(), "train_dataset": [{"input_id": ids, "labels": ids}]},
        DataError,
        "Did you mean 'input_ids'",
    ),
    "raw text": (
        lambda: {"model": tiny.llama(), "train_dataset": [{"text": "some words"}]},
        DataError,
        r"'text'.*tokenise it first: dataset = dataset.map\(lambda rows: tokenizer\(rows\['text'\]",
    ),
    "row is None": (
        lambda: {"train_dataset": [None if i == 5 else row for i, row in enumerate(tiny.line_rows(8))]},
        DataError,
        "row 5 is None",
    ),
    "field is None": (
        lambda: {"train_dataset": [{**row, "x": None} if i == 3 else row for i, row in enumerate(tiny.line_rows(8))]},
        DataError,
        "row 3 has None in field 'x'",
    ),
    "ragged rows": (
        lambda: {"model": tiny.bert_classifier(), "train_dataset": tiny.sentences(8)},
        DataError,
        r"Field 'input_ids' has shape .* in row \d+ .*DataCollatorWithPadding",
    ),
    "token too large": (
        lambda: {"model": tiny.llama(), "train_dataset": tokens_with(3, input_ids=ids.clone().fill_(61)), "batch": 16},
        DataError,
        r"At step 1, row \d+ of the batch has token 61 in 'input_ids', but the model's vocabulary has 61 tokens",
    ),
    "tokens of a wrong type": (
        lambda: {"model": tiny.llama(), "train_dataset": tokens_with(3, input_ids=ids.float()), "batch": 16},
        DataError,
        r"'input_ids' of the batch is of type float32, but whole numbers are expected.*dtype=torch.long",
    ),
    "labels of a wrong type": (
        lambda: {"model": tiny.llama(), "train_dataset": tokens_with(3, labels=ids.float()), "batch": 16},
        DataError,
        "'labels' of the batch is of type float32",
    ),
    "classes of a wrong type": (
        lambda: {"model": tiny.bert_classifier(), "train_dataset": [{"input_ids": ids, "label": 1.0}]},
        DataError,
        "'labels' of the batch is of type float32",
    ),
    "sequence too long": (
        lambda: {"model": tiny.gpt2(), "train_dataset": tiny.tokens(8, length=80)},
        DataError,
        "the sequences have 80 tokens, but the model has 64 positions",
    ),
    "label too large": (
        lambda: {"model": tiny.bert_classifier(), "train_dataset": [{"input_ids": ids, "label": 7}]},
        DataError,
        r"row 0 of the batch has label 7, but the model's labels go from 0 to 2. Build the model with num_labels=8",
    ),
    "all labels ignored": (
        lambda: {
            "model": tiny.llama(),
            "train_dataset": [{**row, "labels": torch.full((12,), -100)} for row in tiny.tokens(16)],
        },
        DataError,
        "All labels up to step 2 are -100",
    ),
    "all frozen": (lambda: {"model": frozen()}, ConfigError, "None of the model's 2 parameters is trainable"),
    "no loss": (
        lambda: {"train_dataset": [{"x": row["x"]} for row in tiny.line_rows(8)]},
        DataError,
        "model returned no loss",
    ),
    "eval without a set": (lambda: {"eval_strategy": "steps"}, ConfigError, "eval_strategy='steps' needs eval_dataset"),
    "empty evaluation": (
        lambda: {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": []},
        DataError,
        "evaluation data is empty",
    ),
    "unknown metric": (
        lambda: {
            "eval_strategy": "steps",
            "eval_steps": 1,
            "eval_dataset": tiny.line_rows(8),
            "metric_for_best_model": "accurcy",
            "compute_metrics": lambda prediction: {"accuracy": 1.0},
        },
        ConfigError,
        "metric_for_best_model='accurcy' is not among the metrics.*Did you mean 'eval_accuracy'",
    ),
    "early stopping without a metric": (
        lambda: {"callbacks": [EarlyStoppingCallback()]},
        ConfigError,
        "EarlyStoppingCallback watches a metric",
    ),
    "stream without an end": (
        lambda: {"train_dataset": Stream(tiny.line_rows(8)), "steps": -1},
        ConfigError,
        "has no length, so lr_scheduler_type='linear' cannot know the end",
    ),
    "no lengths to group by": (
        lambda: {"train_sampling_strategy": "group_by_length"},
        DataError,
        "needs the length of every row",
    ),
    "optimizer settings": (
        lambda: {"optim": "sgd", "optim_args": "momentum"},
        ConfigError,
        "optim_args='momentum': 'momentum' has no '='",
    ),
    "an optimizer's setting that it does not have": (
        lambda: {"optim": "rmsprop", "optim_args": "alpah=0.9"},
        ConfigError,
        "nothing reads 'alpah' with optim='rmsprop'. Did you mean 'alpha'",
    ),
    "resume without a checkpoint": (lambda: {"resume": True}, CheckpointError, "No checkpoint to resume from.*none"),
    "resume from nowhere": (lambda: {"resume": "nowhere"}, CheckpointError, "'nowhere' is not a folder"),
    "wrong loss": (
        lambda: {"compute_loss_func": lambda outputs, labels, num_items_in_batch: 1.0},
        DataError,
        "compute_loss returned float; it must return a scalar tensor",
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(tmp_path, name):
    make, kind, message = RUNS[name]
    given = {"model": None, "train_dataset": tiny.line_rows(8), "steps": 4, "batch": 8, "resume": None, **make()}
    steps, batch, resume = given.pop("steps"), given.pop("batch"), given.pop("resume")
    known = TrainingArguments.__dataclass_fields__
    settings = {key: given.pop(key) for key in list(given) if key in known}
    given["model"] = given["model"] or tiny.new_line()
    with pytest.raises(kind, match=message) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = TrainingArguments(
            str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=batch,
            use_cpu=True,
            disable_tqdm=True,
            **settings,
        )
        Trainer(args=args, **given).train(resume_from_checkpoint=resume)
    assert "\n" not in str(caught.value)


def test_unknown_constructor_argument():
    with pytest.raises(ConfigError, match="Trainer has no argument 'train_datset'. Did you mean 'train_dataset'"):
        Trainer(tiny.new_line(), train_datset=[])


def test_tokenizer_is_the_old_name_of_processing_class(tmp_path):
    tokenizer = tiny.tokenizer()
    with pytest.warns(FutureWarning, match="use 'processing_class'"):
        trainer = Trainer(tiny.bert_classifier(), TrainingArguments(str(tmp_path)), tokenizer=tokenizer)
    assert trainer.processing_class is tokenizer


def test_model_and_model_init():
    with pytest.raises(ConfigError, match="either model= or model_init="):
        Trainer()
    with pytest.raises(ConfigError, match="either model= or model_init="):
        Trainer(tiny.new_line(), model_init=lambda: tiny.new_line())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; see the test below")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        Trainer(tiny.new_line(), TrainingArguments(str(tmp_path / "x")), train_dataset=tiny.line_rows()).train()


def test_output_dir_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="output_dir='.*taken' cannot be written"):
        Trainer(tiny.new_line(), TrainingArguments(str(tmp_path / "taken")), train_dataset=tiny.line_rows()).train()


def test_checkpoint_of_another_architecture(tmp_path):
    settings = {"max_steps": 2, "save_steps": 1, "use_cpu": True, "disable_tqdm": True}
    Trainer(tiny.new_line(), TrainingArguments(str(tmp_path), **settings), train_dataset=tiny.line_rows()).train()
    consented = TrainingArguments(str(tmp_path), allow_data_change=True, **settings)  # rows of 7 numbers are other data
    other = Trainer(tiny.Line(7), consented, train_dataset=tiny.line_rows(40, 7))
    before = other.model.layer.weight.clone()
    with pytest.raises(CheckpointError, match=r"of another architecture .*layer.weight \(1, 4\) against \(1, 7\)"):
        other.train(resume_from_checkpoint=True)
    assert torch.equal(other.model.layer.weight, before)


def own(**methods):
    return type("Mine", (Trainer,), methods)


def strategy(**methods):
    return type("Own", (Strategy,), methods)()


def watcher(**methods):
    return type("Watcher", (), methods)()


def returning(changed):
    """Return a model whose loss is changed."""

    class Changed(tiny.Line):
        def forward(self, x, labels=None):
            outputs = super().forward(x, labels)
            return {**outputs, "loss": changed(outputs["loss"])}

    return Changed()


class WithoutLength(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, index):
        return self.rows[index]


def on_step_end(*names):
    return type("Watcher", (), {"on_step_end": eval(f"lambda {', '.join(('self', *names))}: True")})()


def objective(**methods):
    return type("Own", (Objective,), methods)()


WRONG_HOOKS = [  # seen before work starts
    ({"objective": objective(loss=lambda self, model, batch, num_items: 0)}, {}, "Own has no count of its own"),
    ({"objective": objective()}, {}, "Own has no count and no loss of its own"),
    ({"objective": ModelLoss(), "compute_loss_func": lambda outputs, labels, **more: 0}, {}, "not both: each says"),
    ({"optimizers": (None, torch.optim.SGD(tiny.new_line().parameters()))}, {}, "ends with an optimizer, SGD, where"),
    ({"optimizer_cls_and_kwargs": ("sgd", {})}, {}, "begins with 'sgd'; a class is expected"),
    ({"model": None, "model_init": tiny.new_line(0)}, {}, "model_init= is a model; give it as model="),
    ({"checkpoint_parts": {"critic": torch.nn.Linear}}, {}, r"\['critic'\] is the class Linear; give what it makes"),
    (own(training_step=lambda self, model, inputs: 0), {}, r"Mine\.training_step\(model, inputs\) is called with"),
    (own(compute_loss=lambda self, model: 0), {}, r"Mine\.compute_loss\(model\) is called with \(model, inputs\)"),
    (own(prediction_step=lambda self, model, inputs: 0), {}, r"prediction_loss_only, ignore_keys=\.\.\.\), but"),
    (own(evaluate=lambda self: {}), {"eval_strategy": "steps"}, r"Mine\.evaluate\(\) is called with \(ignore_keys="),
    (own(save_model=lambda self: 0), {"save_strategy": "steps"}, r"Mine\.save_model\(\) .* Let it take \*\*kwargs"),
    (own(create_scheduler=lambda self: 0), {}, r"Mine\.create_scheduler\(\) is called with \(num_training_steps="),
    ({"compute_metrics": {"accuracy": 1}}, {}, r"compute_metrics\['accuracy'\] is 1; it must be a function"),
    ({"compute_metrics": lambda one, two: {}}, {}, r"compute_metrics\(one, two\) is called with \(prediction\)"),
    ({"preprocess_logits_for_metrics": lambda logits: logits}, {}, r"\(logits\) is called with \(logits, labels\)"),
    ({"compute_loss_func": lambda outputs, labels: 0}, {}, r"but got an unexpected keyword argument 'num_items_in_"),
    ({"data_collator": lambda rows, more: rows}, {}, r"data_collator\(rows, more\) is called with \(rows\), but miss"),
    ({"model": torch.nn.LazyLinear(2)}, {}, "The parameter 'weight' has no shape yet: .*Call the model on one before"),
    ({"model": tiny.Line}, {}, r"model= is the class Line; give what it makes: Line\(\.\.\.\)"),
    ({"model": None, "model_init": lambda: tiny.Line}, {}, "model_init returned <class 'tests.tiny.Line'>; it must"),
    ({"model": None, "model_init": lambda one, two: 0}, {}, r"model_init\(one, two\) is called with \(trial\)"),
    ({"optimizers": (None,)}, {}, r"optimizers= is \(None,\); optimizers=\(optimizer, lr_scheduler\) is expected"),
    ({"optimizers": ("adam", None)}, {}, "optimizers= begins with 'adam', which has no param_groups"),
    ({"optimizer_cls_and_kwargs": torch.optim.SGD}, {}, r"; \(class, keywords\) is expected"),
    ({"callbacks": [on_step_end("args", "state", "control")]}, {}, r"Watcher\.on_step_end\(.*Let it take \*\*kwargs"),
    ({"objective": type("Own", (Objective,), {"loss": lambda self, model: 0})()}, {}, r"Own\.loss\(model\) is called"),
    ({"strategy": type("Own", (Strategy,), {"prepare": lambda self, model: model})()}, {}, r"Own\.prepare\(model\) is"),
    ({"strategy": strategy(setup=lambda self, world, device, options: setattr(self, "data_shard", (0, 1)))}, {},
     r"Own\.setup has set self\.data_shard = \(0, 1\); it must be a trainwright\.world\.DataShard"),
    ({"callbacks": [watcher(on_step_ends=print)]}, {}, r"Watcher\.on_step_ends is of no event.* 'on_step_end'\?"),
]  # fmt: skip
WRONG_RETURNS = [  # seen where it is returned, or when training begins
    ({"optimizers": (torch.optim.SGD(tiny.new_line().parameters()), None)}, {}, "holds none of the 2 parameters that"),
    (own(create_optimizer=lambda self: setattr(self, "optimizer", torch.optim.SGD(tiny.new_line().parameters()))), {},
     "SGD holds none of the 2 parameters that the model trains"),
    ({"optimizers": (None, torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(tiny.new_line().parameters())))}, {},
     "ConstantLR sets the learning rates of another optimizer"),
    ({"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lrr": 1})}, {}, "The optimizer SGD cannot be made with lrr=1: "),
    ({"model": returning(lambda loss: loss.detach())}, {}, "The loss depends on no parameter that is trained"),
    ({"model": returning(float)}, {}, "The model's loss is a float; it must be a scalar tensor"),
    ({"train_dataset": WithoutLength(tiny.line_rows())}, {}, "The training data, a WithoutLength, has no length"),
    ({"train_dataset": [{**row, "labels": "good"} for row in tiny.line_rows()]}, {}, "A label is the text 'good'"),
    (own(_get_train_sampler=lambda self, rows: BatchSampler(SequentialSampler(rows), 4, False)), {},
     r"A sampler gave \[0, 1, 2, 3\] where the number of a row is expected"),
    (own(training_step=lambda self, *given: None), {}, r"Mine\.training_step returned nothing \(None\)"),
    (own(_prepare_inputs=lambda self, inputs: None), {}, r"Mine\._prepare_inputs returned nothing \(None\)"),
    (own(_prepare_inputs=lambda self, inputs: None if not self.model.training else inputs), {"eval_on_start": True},
     r"Mine\._prepare_inputs returned nothing \(None\)"),
    *(({"strategy": strategy(**{name: lambda self, *given, **named: None})}, {}, rf"Own\.{name} returned nothing")
      for name in ("place", "prepare", "accumulate", "clip_gradients", "nonfinite", "to_device")),
    ({"strategy": strategy(one_per_shard=lambda self, everyone: everyone[:0])}, {"eval_on_start": True},
     r"Own\.one_per_shard returned list; it must return a list with one object for each shard"),
    ({"strategy": strategy(agree=lambda self, *values: values)}, {"eval_on_start": True},
     r"Own\.agree returned tuple.* list of lists"),
    (own(training_step=lambda self, *given: {"loss": 1}), {}, r"Mine\.training_step returned dict; it must"),
    (own(compute_loss=lambda self, model, inputs, return_outputs=False: model(**inputs)["loss"]),
     {"eval_on_start": True}, r"compute_loss returned a Tensor of shape \(\); it must return \(loss, outputs\)"),
    (own(prediction_step=lambda self, *given, **more: (None, None)), {"eval_on_start": True}, r"\(loss, logits"),
    (own(evaluation_loop=lambda self, *given, **more: None), {"eval_on_start": True}, "must return an EvalLoopOutput"),
    (own(evaluate=lambda self, **more: None), {"eval_on_start": True}, r"Mine\.evaluate returned nothing"),
    (own(get_train_dataloader=lambda self: None), {}, "dataloader returned nothing"),
    (own(get_eval_dataloader=lambda self, rows: 3), {"eval_on_start": True}, "dataloader returned int; it must"),
    (own(create_optimizer=lambda self: None), {}, r"Mine\.create_optimizer has left self\.optimizer = None"),
    (own(create_scheduler=lambda self, **more: None), {}, r"create_scheduler has left self\.lr_scheduler = None"),
    (own(get_decay_parameter_names=lambda self, model: list(model.parameters())), {}, "must return names"),
    (own(get_optimizer_cls_and_kwargs=lambda self, *given: torch.optim.SGD), {}, r"it must return \(class, keywords\)"),
    (own(floating_point_ops=lambda self, inputs: None), {}, "it must return a number of operations"),
    ({"preprocess_logits_for_metrics": lambda logits, labels: None, "compute_metrics": lambda _: {}},
     {"eval_on_start": True}, "preprocess_logits_for_metrics returned nothing"),
    ({"data_collator": lambda rows: None}, {}, "At step 1, the batch is None: the data collator returned nothing"),
    ({"data_collator": lambda rows: rows}, {}, "the batch is a list of 8 rows: the data collator must make one batch"),
    ({"callbacks": [on_step_end("*given", "**more")]}, {}, "on_step_end returned bool; it must return the control"),
    ({"objective": type("Own", (Objective,), {"count": lambda self, batch: 8, "loss": lambda *_: Loss(None)})()},
     {}, r"Own\.loss returned Loss\(value=NoneType, terms=dict\)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "settings", "told"), [*WRONG_HOOKS, *WRONG_RETURNS])
def test_code_of_the_users_that_cannot_be_called_or_returns_something_else_is_named(tmp_path, given, settings, told):
    kind, parts = (Trainer, given) if isinstance(given, dict) else (given, {})
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, **{"save_strategy": "no", **settings})
    parts = {"model": tiny.new_line(), "train_dataset": tiny.line_rows(), "eval_dataset": tiny.line_rows(8), **parts}
    with pytest.raises((ConfigError, DataError), match=told):
        trainer = kind(args=args, **parts)
        assert (given, settings, told) in WRONG_RETURNS
        trainer.train()


def test_decorated_and_generous_hooks_are_taken(tmp_path):
    """What a decorator wraps may take less than what it is called with."""

    def without_the_last(method):
        @functools.wraps(method)
        def called(self, *given):
            return method(self, *given[:2])

        return called

    kind = own(training_step=without_the_last(lambda self, model, inputs: Trainer.training_step(self, model, inputs)))
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, save_strategy="no")
    assert kind(tiny.new_line(), args, train_dataset=tiny.line_rows()).train().global_step == 1


def noted(trainer):
    """Train, and return what was said."""
    said = []
    trainer.note = said.append
    trainer.train()
    return " ".join(said)


class Listed(tiny.Line):
    """Keeps a layer where torch does not see it."""

    def __init__(self):
        super().__init__()
        self.more = [torch.nn.Linear(4, 4)]


@pytest.mark.parametrize(
    "kind", ["a layer in a list", "a parameter that the optimizer does not hold", "a metric without labels"]
)
def test_what_is_silently_left_out_elsewhere_is_said(tmp_path, kind):
    model = Listed() if kind == "a layer in a list" else tiny.new_line()
    half = (torch.optim.SGD([model.layer.weight], lr=0.1), None)
    given = {
        "a layer in a list": {},
        "a parameter that the optimizer does not hold": {"optimizers": half},
        "a metric without labels": {"compute_metrics": lambda _: {}, "eval_dataset": tiny.line_rows(8)},
    }[kind]
    told = {
        "a layer in a list": "what lies in a plain list, tuple or dict: more. Use nn.ModuleList",
        "a parameter that the optimizer does not hold": "though they require gradients: layer.bias. Give an optimizer",
        "a metric without labels": "compute_metrics is not called, since a batch has no labels: none of its fields is",
    }[kind]
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "label_names": ["y"]} if "eval_dataset" in given else {}
    args = TrainingArguments(tmp_path, max_steps=2, use_cpu=True, save_strategy="no", **evaluated)
    assert noted(Trainer(model, args, train_dataset=tiny.line_rows(), **given)).count(told) == 1


class TwoOptimizers(Trainer):
    """Steps the bias by an optimizer of its own, as a GAN does, which checkpoints keep where it is a part."""

    def create_optimizer(self, model=None):
        self.optimizer = torch.optim.SGD([self.model.layer.weight], lr=0.01)
        self.second = torch.optim.Adam([self.model.layer.bias], lr=0.1)
        if self.keeps:
            self.checkpoint_parts["second"] = self.second
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.second.step()
        return loss


@pytest.mark.parametrize("keeps", [False, True])
def test_an_optimizer_of_a_subclass_that_no_checkpoint_keeps_is_said(tmp_path, keeps):
    def run(steps, **resume):
        args = TrainingArguments(tmp_path, max_steps=steps, save_steps=2, use_cpu=True, lr_scheduler_type="constant")
        trainer, said = TwoOptimizers(tiny.new_line(), args, train_dataset=tiny.line_rows()), []
        trainer.keeps, trainer.note = keeps, said.append
        trainer.train(**resume)
        return trainer.model.layer.bias.item(), " ".join(said)

    run(2)
    resumed, said = run(6, resume_from_checkpoint=True)
    assert ("No checkpoint keeps self.second (Adam)" in said) is not keeps
    assert (resumed == run(6)[0]) is keeps


def test_what_a_model_cannot_compute_is_told_with_the_batch(tmp_path):
    rows = [{"x": row["x"].double(), "labels": row["labels"]} for row in tiny.line_rows()]
    args = TrainingArguments(tmp_path, max_steps=2, use_cpu=True, save_strategy="no")
    with pytest.raises(RuntimeError, match="same dtype") as caught:
        Trainer(tiny.new_line(), args, train_dataset=rows).train()
    assert caught.value.__notes__ == ["At step 1, the batch was {x: float64[8, 4], labels: float32[8]}."]


def test_a_model_init_whose_parameters_have_values_is_not_given_the_trial(tmp_path):
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, save_strategy="no")
    assert Trainer(model_init=tiny.Line, args=args, train_dataset=tiny.line_rows()).train().global_step == 1
