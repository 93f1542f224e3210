"""TrainingArguments: transformers' fields and defaults, each honoured or refused; old names; parsers; subclasses."""

from __future__ import annotations

import logging
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import pytest
import transformers
from transformers import HfArgumentParser
from transformers.training_args import OptimizerNames, SchedulerType

from tests import installed
from trainwright import ConfigError, Seq2SeqTrainingArguments, TrainingArguments
from trainwright.args import names
from trainwright.args.durations import seconds
from trainwright.args.foreign import adopt, check
from trainwright.args.unsupported import REFUSED
from trainwright.trackers.table import TRACKERS

DOCS = Path(__file__).parents[2] / "docs" / "arguments.md"
OTHER_DEFAULTS = {"restore_callback_states_from_checkpoint": True}
OURS_ONLY = {
    "allow_batch_change", "allow_data_change", "checkpoint_mirror", "ema_decay", "max_skipped_steps", "max_train_time",
    "spike_factor", "use_fused_loss",
}  # fmt: skip


def default(field):
    return field.default_factory() if field.default is MISSING else field.default


@installed.todays_arguments
@pytest.mark.parametrize("ours", [TrainingArguments, Seq2SeqTrainingArguments], ids=lambda kind: kind.__name__)
def test_fields_and_defaults_are_those_of_the_installed_transformers(ours):
    theirs = {f.name: default(f) for f in fields(getattr(transformers, ours.__name__))}
    mine = {f.name: default(f) for f in fields(ours)}
    assert set(mine) - set(theirs) == OURS_ONLY
    assert {name: mine[name] for name in theirs} == {**theirs, **OTHER_DEFAULTS}


def test_other_defaults_than_those_of_transformers_are_marked_in_the_docs():
    marked = re.findall(r"^\| `(\w+)` \| honoured \| `(\w+)` \(transformers: `(\w+)`\)", DOCS.read_text(), flags=re.M)
    theirs = {f.name: default(f) for f in fields(transformers.TrainingArguments)}
    assert marked == [(name, repr(value), repr(theirs[name])) for name, value in OTHER_DEFAULTS.items()]


def test_every_field_stands_in_the_docs_with_what_becomes_of_it():
    rows = dict(re.findall(r"^\| `(\w+)` \| (honoured|refused|no effect)", DOCS.read_text(), flags=re.M))
    assert set(rows) == {f.name for f in fields(TrainingArguments)}
    assert {name for name, fate in rows.items() if fate == "refused"} == set(REFUSED)


@installed.todays_arguments
def test_tables_of_names_are_those_of_the_installed_transformers():
    assert set(names.SCHEDULERS) == {kind.value for kind in SchedulerType}
    assert set(names.OPTIMIZERS) | set(names.REFUSED_OPTIMIZERS) == {kind.value for kind in OptimizerNames}
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) == {*INTEGRATION_TO_CALLBACK, "trainwright"}  # and the job store


SET_TO = {"skip_memory_metrics": False, "average_tokens_across_devices": False}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_with_advice(name):
    with pytest.raises(ConfigError, match=rf"^{name}=") as caught:
        TrainingArguments("out", **{name: SET_TO.get(name, True)})
    assert len(str(caught.value)) > 40


def test_output_dir_is_the_first_positional_argument():
    assert TrainingArguments("out").output_dir == "out"


def test_hf_argument_parser():
    @dataclass
    class Script:
        data: str = "somewhere"

    parser = HfArgumentParser((TrainingArguments, Script))
    args, script = parser.parse_args_into_dataclasses(
        ["--output_dir", "x", "--learning_rate", "1e-3", "--bf16", "--report_to", "none", "--data", "here"]
    )
    assert (args.output_dir, args.learning_rate, args.bf16, args.report_to) == ("x", 1e-3, True, [])
    assert script.data == "here"


def test_dataclass_subclasses():
    @dataclass
    class Mine(TrainingArguments):
        beta: float = 0.1

    mine = Mine("out", beta=0.5, learning_rate=1e-3)
    assert (mine.beta, mine.learning_rate, mine.eval_strategy) == (0.5, 1e-3, "no")
    with pytest.raises(ConfigError, match="Mine has no argument 'betta'.*Did you mean 'beta'"):
        Mine("out", betta=1)
    with pytest.warns(FutureWarning, match="eval_strategy"):
        assert Mine("out", evaluation_strategy="epoch").eval_strategy == "epoch"


OLD = [
    ({"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
    ({"no_cuda": True}, {"use_cpu": True}),
    ({"warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
    ({"per_gpu_train_batch_size": 3}, {"per_device_train_batch_size": 3}),
    ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
    ({"include_inputs_for_metrics": True}, {"include_for_metrics": ["inputs"]}),
    ({"overwrite_output_dir": True}, {}),
    ({"logging_dir": "logs"}, {}),
]


@pytest.mark.parametrize(("old", "new"), OLD, ids=lambda given: next(iter(given), ""))
def test_names_of_the_past_are_accepted_with_a_warning(old, new):
    with pytest.warns(FutureWarning, match=next(iter(old))):
        args = TrainingArguments("out", **old)
    for name, value in new.items():
        assert getattr(args, name) == value
    assert not {f.name for f in fields(TrainingArguments)} & set(old)


def test_two_names_of_one_thing_are_refused():
    with pytest.warns(FutureWarning), pytest.raises(ConfigError, match="two names of one argument"):
        TrainingArguments("out", evaluation_strategy="steps", eval_strategy="epoch")


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


NOT_OF_ARGUMENTS = {"default_optim", "is_torch_greater_or_equal_than_2_8"}  # helpers that stand in their class body


@installed.todays_arguments
@pytest.mark.parametrize("ours", [TrainingArguments, Seq2SeqTrainingArguments], ids=lambda kind: kind.__name__)
def test_methods_and_properties_are_those_of_the_installed_transformers(ours, tmp_path):
    kind = getattr(transformers, ours.__name__)
    assert public(kind) - public(ours) <= NOT_OF_ARGUMENTS
    theirs, mine = (k(str(tmp_path), use_cpu=True, log_level="info", bf16=True) for k in (kind, ours))
    assert public(theirs) - public(mine) <= NOT_OF_ARGUMENTS
    properties = [name for name in public(kind) if isinstance(getattr(kind, name), property)]
    properties += [
        name for name in vars(theirs) if name[0] != "_" and name not in {field.name for field in fields(kind)}
    ]
    assert len(properties) > 14
    for name in [*properties, "_n_gpu"]:
        if name != "distributed_state":
            assert getattr(mine, name) == getattr(theirs, name), name
    state = mine.distributed_state
    assert (state.num_processes, state.is_main_process, state.device) == (1, True, theirs.device)
    with state.local_main_process_first(), state.split_between_processes([1, 2]) as part:
        assert part == [1, 2]
    assert mine.get_process_log_level() == theirs.get_process_log_level() == logging.INFO
    assert TrainingArguments("out").get_process_log_level() == transformers.logging.get_verbosity()
    with mine.main_process_first(desc="nothing"), mine.main_process_first(local=False):
        pass


SET = {
    "set_training": {"learning_rate": 1e-3, "batch_size": 2, "activation_checkpointing": True},
    "set_evaluate": {"strategy": "steps", "steps": 7, "delay": 2},
    "set_testing": {"batch_size": 3, "loss_only": True},
    "set_save": {"strategy": "epoch", "total_limit": 1},
    "set_logging": {"strategy": "epoch", "report_to": "all", "level": "error"},
    "set_push_to_hub": {"model_id": "me/it", "strategy": "end", "private_repo": True},
    "set_optimizer": {"name": "adafactor", "beta1": 0.8},
    "set_lr_scheduler": {"name": "cosine", "max_steps": 9, "warmup_steps": 2},
    "set_dataloader": {"train_batch_size": 5, "drop_last": True, "sampler_seed": 3},
}


@installed.todays_arguments
@pytest.mark.parametrize("name", SET)
@pytest.mark.parametrize("given", ["nothing but what is needed", "settings"])
def test_setters_set_what_transformers_set(name, given, tmp_path):
    settings = SET[name] if given == "settings" else {k: v for k, v in SET[name].items() if k == "model_id"}
    ours, theirs = (
        getattr(kind(str(tmp_path), use_cpu=True), name)(**settings)
        for kind in (TrainingArguments, transformers.TrainingArguments)
    )
    for field in fields(transformers.TrainingArguments):
        if field.name not in ("accelerator_config", *OTHER_DEFAULTS, "dataloader_pin_memory"):
            mine, wanted = getattr(ours, field.name), getattr(theirs, field.name)
            assert mine == wanted or not (mine or wanted), field.name
    assert set(SET) == {name for name in public(transformers.TrainingArguments) if name.startswith("set_")}


@installed.todays_arguments
def test_a_command_line_is_read_as_transformers_read_it():
    ours, theirs = (HfArgumentParser(k) for k in (TrainingArguments, transformers.TrainingArguments))
    wanted = {option: action for action in theirs._actions for option in action.option_strings}
    mine = {option: action for action in ours._actions for option in action.option_strings}
    for option, action in wanted.items():
        assert (mine[option].nargs, mine[option].const) == (action.nargs, action.const), option
    (args,) = ours.parse_args_into_dataclasses(["--output_dir", "x", "--gradient_checkpointing", "--do_train"])
    assert args.gradient_checkpointing is args.activation_checkpointing is args.do_train is True


@dataclass
class Theirs(transformers.TrainingArguments):
    extra: int = 7

    @property
    def twice(self):
        return 2 * self.extra


def test_transformers_own_arguments_stay_what_they_are(tmp_path):
    given = Theirs(str(tmp_path), learning_rate=1e-3, optim="sgd", use_cpu=True, eval_strategy="steps")
    args = adopt(given)
    assert args is given
    assert (args.learning_rate, args.optim, args.eval_strategy, args.twice) == (1e-3, "sgd", "steps", 14)
    assert (args.ema_decay, args.use_fused_loss, args.max_skipped_steps) == (None, True, 10)
    args.report_to, args.eval_steps = "tensorboard", None
    check(args)
    assert (args.report_to, args.eval_steps) == (["tensorboard"], 500)
    args.optim = "adamw_torh"
    with pytest.raises(ConfigError, match="Did you mean 'adamw_torch'"):
        check(args)
    with pytest.raises(ConfigError, match=r"args=3 is int; give TrainingArguments"):
        adopt(3)


@pytest.mark.parametrize("kind", [TrainingArguments, transformers.TrainingArguments])
def test_options_of_accelerate_are_honoured_or_refused(kind, tmp_path):
    def made(**options):
        args = kind(str(tmp_path), use_cpu=True, accelerator_config=options)
        return args if kind is TrainingArguments else adopt(args)

    assert made(gradient_accumulation_kwargs={"num_steps": 4}).gradient_accumulation_steps == 4
    assert made(split_batches=True, even_batches=False, dispatch_batches=True).gradient_accumulation_steps == 1
    with pytest.raises(ConfigError, match="use_seedable_sampler=False"):
        made(use_seedable_sampler=False)
    with pytest.raises(ConfigError, match="sync_each_batch=True"):
        made(gradient_accumulation_kwargs={"sync_each_batch": True})
    with pytest.raises(ConfigError, match="num_steps=4 and gradient_accumulation_steps=2 differ"):
        args = kind("x", use_cpu=True, gradient_accumulation_steps=2)
        args.accelerator_config = {"gradient_accumulation_kwargs": {"num_steps": 4}}
        check(args)
    with pytest.raises(ConfigError, match="no option 'split_batch'.*Did you mean 'split_batches'"):
        TrainingArguments("x", accelerator_config={"split_batch": True})


def test_options_of_accelerate_that_need_several_processes_are_refused_there(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("split_batches", "dispatch_batches"):
        with pytest.raises(ConfigError, match=f"{name}=True is not supported in several processes"):
            TrainingArguments("x", accelerator_config={name: True})


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_accelerates_launcher_asks_for_is_never_ignored(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=f"^ACCELERATE_USE_{name}=true asks for .* torchrun"):
        TrainingArguments("out")


def test_what_accelerates_launcher_says_of_precision_device_and_compiler(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    args = TrainingArguments("out")
    assert (args.bf16, args.use_cpu, args.torch_compile, args.torch_compile_backend) == (True, True, True, "eager")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("8h", 28800), ("30m", 1800), ("90s", 90), ("1d 12h", 129600), ("1.5h", 5400), ("3600", 3600), (2.5, 2.5)],
)
def test_lengths_of_time(written, meant):
    assert seconds(TrainingArguments("out", max_train_time=written).max_train_time) == meant


def test_derived_values():
    assert TrainingArguments("out", eval_strategy="steps", logging_steps=7).eval_steps == 7
    best = TrainingArguments("out", eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    assert (best.metric_for_best_model, best.greater_is_better) == ("loss", False)
    assert TrainingArguments("out", warmup_steps=0.25).get_warmup_steps(10) == 3
    assert TrainingArguments("out", lr_scheduler_kwargs='{"num_cycles": 2}').lr_scheduler_kwargs == {"num_cycles": 2}
    assert "<HUB_TOKEN>" in TrainingArguments("out", hub_token="secret").to_json_string()
    assert "secret" not in repr(TrainingArguments("out", hub_token="secret"))
