"""TrainingArguments: transformers' fields and defaults, each honoured or refused; old names; parsers; subclasses."""

from __future__ import annotations

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
from trainwright.args.refusals import REFUSED
from trainwright.args.training import adopt

DOCS = Path(__file__).parent.parent / "docs" / "arguments.md"
OTHER_DEFAULTS = {"restore_callback_states_from_checkpoint": True}
OURS_ONLY = {
    "allow_batch_change", "allow_data_change", "ema_decay", "max_skipped_steps", "max_train_time", "spike_factor",
    "use_fused_loss",
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

    assert set(names.TRACKERS) == {*INTEGRATION_TO_CALLBACK, "trainwright"}  # and the job store


SET_TO = {"skip_memory_metrics": False, "average_tokens_across_devices": False, "fsdp_config": {"version": 2}}


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


def test_transformers_own_arguments_are_accepted(tmp_path):
    @dataclass
    class Theirs(transformers.TrainingArguments):
        extra: int = 7

    args = adopt(Theirs(str(tmp_path), learning_rate=1e-3, optim="sgd", use_cpu=True, eval_strategy="steps"))
    assert (args.learning_rate, args.optim, args.eval_strategy, args.extra) == (1e-3, "sgd", "steps", 7)
    assert args.eval_strategy == transformers.IntervalStrategy.STEPS


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
