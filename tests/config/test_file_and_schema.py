"""A file is read back as the run that it was written for, holds every thing under one name, and is marked by editors
where it is wrong and nowhere else."""

from __future__ import annotations

import random
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import pytest
import yaml

from tests import tiny_language as tiny
from tests.config import json_schema
from trainwright import ConfigError
from trainwright.config import TrainerType, TrainingConfig, TrainingParams, methods
from trainwright.config.keys import fates
from trainwright.config.keys.json_schema import schema
from trainwright.config.keys.lines import Fate
from trainwright.config.options import DPOOptions, SFTOptions
from trainwright.config.params import ARGUMENTS
from trainwright.config.reading.aliases import ALIASES, ELSEWHERE
from trainwright.config.reading.convert import hints
from trainwright.config.reading.read import check, load, load_checked
from trainwright.config.reading.translate import argument_values
from trainwright.config.reading.writing import keep
from trainwright.config.schema import DatasetParams

HEAD = "model: {model_name: llama}\ndata: {train: {datasets: [{dataset_name: rows.jsonl}]}}\n"
TEXTS = (
    "1e-5",
    "no",
    "007",
    "a: b",
    "${m.content}",
    "two\nlines",
    "é 😀",
    "null",
    "~",
    "2024-01-01",
    " x ",
    "#3",
    "0x1",
    "'",
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows_of("text", 3))
    return tmp_path


def value_of(hint, rng):
    """A value of a type, as a file holds it."""
    if is_dataclass(hint):
        return {name: value_of(kind, rng) for name, kind in hints(hint).items() if rng.random() < 0.5}
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return [value_of(options[0], rng) for _ in range(2)]
    if dict in (origin, hint):
        return {"x": rng.choice(TEXTS), "y": {"z": [1, 2.5, "1e-5", None, False]}}
    if options:
        return value_of(rng.choice(options), rng)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return rng.choice(list(hint)).name
    return {
        int: rng.randrange(1, 99),
        float: rng.choice((0.5, 1e-5, 3.0)),
        bool: rng.random() < 0.5,
        type(None): None,
    }.get(hint, rng.choice(TEXTS))


def without_twins(training, rng):
    for one, other in ALIASES:
        if one in training and other in training:
            del training[rng.choice((one, other))]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_reads_back_as_the_same_run(place, seed):
    rng = random.Random(seed)
    whole = {name: value_of(kind, rng) for name, kind in hints(TrainingConfig).items()}
    training = whole["training"]
    training["trainer_type"] = ("SFT", "TRL_DPO", None, "HF")[seed % 4]
    kind = DPOOptions if seed % 4 == 1 else SFTOptions
    training["trainer_kwargs"] = {name: value_of(hint, rng) for name, hint in hints(kind).items() if rng.random() < 0.3}
    training["trainer_kwargs"] |= {"learning_rate": 0.25} if "learning_rate" not in training else {}
    without_twins(training, rng)
    whole["data"]["train"] = {"datasets": [{"dataset_name": "rows.jsonl", "seed": 3}, {"dataset_name": "${x}"}]}
    one = load(tiny.write_yaml(place / "a.yaml", whole)).config
    keep(one, place / "run")
    other = load(place / "run" / "run.yaml").config
    one.training.hub_token = None  # which is not written
    one.data.train.datasets[0].dataset_name = str(place / "rows.jsonl")  # it is there, and reads back from anywhere
    assert other == one
    assert argument_values(other.training) == argument_values(one.training)


@pytest.mark.parametrize("name", sorted({name for pair in ALIASES for name in pair}))
def test_a_thing_with_two_names_reads_back_by_each(place, name):
    value = {"mixed_precision_dtype": "FP16", "report_to": "wandb", "optimizer": "sgd", "optim": "sgd",
             "save_strategy": "epoch", "warmup_ratio": 0.1, "enable_tensorboard": False,
             "include_num_input_tokens_seen": "all"}  # fmt: skip
    kinds = hints(TrainingParams)
    given = value.get(name, True if "bool" in str(kinds[name]) else {"x": 1} if "dict" in str(kinds[name]) else 3)
    one = load(tiny.write_yaml(place / "a.yaml", {"training": {name: given}})).config
    keep(one, place)
    other = load(place / "run.yaml").config
    assert other == one != TrainingConfig()
    assert argument_values(other.training) == argument_values(one.training)


def test_arguments_under_trainer_kwargs_are_those_under_training(place):
    one = load(tiny.write_yaml(place / "a.yaml", {"training": {"trainer_kwargs": {"save_strategy": "no", "seed": 9}}}))
    assert (one.config.training.save_strategy, one.config.training.seed) == ("no", 9)
    assert one.config.training.trainer_kwargs == {}
    assert TrainingParams(trainer_kwargs={"seed": 9, "beta": 0.2}) == TrainingParams(
        seed=9, trainer_kwargs={"beta": 0.2}
    )
    with pytest.raises(ConfigError, match=r"training.seed and training.trainer_kwargs.seed are two names of one thing"):
        TrainingParams(seed=3, trainer_kwargs={"seed": 9})
    names = {f.name for kind in (SFTOptions, DPOOptions) for f in fields(kind)}
    assert not names & set(ARGUMENTS)


TWICE = [
    *((f"training.{one}", f"training.{other}") for one, other in ALIASES),
    ("training.learning_rate", "training.trainer_kwargs.learning_rate"),
    ("training.optimizer", "training.trainer_kwargs.optim"),
    ("training.seed", "training.trainer_kwargs.seed"),
    ("training.save_strategy", "training.trainer_kwargs.save_strategy"), *ELSEWHERE,
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), TWICE, ids="+".join)
def test_two_names_of_one_thing_are_one_error_with_both_lines(place, one, other):
    def put(name, value):
        section = content
        for part in name.split(".")[:-1]:
            section = section.setdefault(part, {})
        section[name.split(".")[-1]] = value

    content = yaml.safe_load(HEAD)
    put(one, 7)
    put(other, 8)
    file = tiny.write_yaml(place / "a.yaml", content)
    with pytest.raises(ConfigError) as caught:
        load_checked(file)
    lines = file.read_text().splitlines()
    at = [
        number
        for number, line in enumerate(lines, 1)
        if line.strip() in (f"{one.split('.')[-1]}: 7", f"{other.split('.')[-1]}: 8")
    ]
    said = [text for text in str(caught.value).split("\n\n") if "two names of one thing" in text]
    assert len(said) == 1, caught.value
    assert f"{one} (line " in said[0]
    assert f" and {other} are" in said[0]
    assert len(at) == 2
    assert all(f"line {number})" in said[0] or f"a.yaml:{number}:" in said[0] for number in at)


def test_python_has_one_name_for_a_thing_too(place):
    config = TrainingConfig(training=TrainingParams(optimizer="sgd", optim="adafactor", trainer_kwargs={"betaa": 1}))
    config.data.train.datasets.append(DatasetParams(dataset_name="rows.jsonl"))
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert "training.optimizer and training.optim are two names of one thing" in str(caught.value)
    assert "unknown key training.trainer_kwargs.betaa (Did you mean 'beta'?)" in str(caught.value)


SCHEMA = schema()
# What editors may see, and whether the loader or check refuse it for what stands there.
MARKED = {
    "training: {trainer_kwargs: }\n": True, "data: {train: {datasets: }}\n": True, "training: {optim: 3}\n": False,
    "training:\n": False, "training: {trainer_kwargs: {betaa: 1}}\n": True, "training: {run_name: 7}\n": False,
    "training: {seed: '${training.data_seed}'}\n": False, "training: {max_steps: 1e3}\n": False, "peft:\n": False,
    "training: {use_mps_device: true}\n": False, "training: {evaluation_strategy: 'no'}\n": False,
    "training: {trainer_type: Trl_Sft}\n": False, "training: {learning_rate: 1e-5}\n": False, "data:\n": False,
    "training: {save_strategy: no}\n": False, "training: {eval_steps: }\n": False, "model: {torch_dtype_str: }\n": True,
    "training: {trainer_kwargs: {max_seq_length: 5}}\n": False, "deepspeed: {zero_stage: 2}\n": False,
    "deepspeed: {zero_stage: '2'}\n": False, "deepspeed: {zero_stage: 7}\n": True, "training: {use_peft: yes}\n": False,
    "training: {max_grad_norm: .inf}\n": False, "training: {learning_rat: 1}\n": True,
    "training: {max_steps: 1.5}\n": True, "training: {max_steps: 'ten'}\n": True, "traning: {}\n": True,
    "training: {use_peft: maybe}\n": True, "peft: 3\n": True,
    "training: {trainer_type: sftt}\n": True, "peft: {lora_r: '${training.seed}'}\n": False, "data: {train:}\n": False,
    "training: {trainer_type: SFT, trainer_kwargs: {beta: 0.2}}\n": True,
    "training: {trainer_type: DPO, trainer_kwargs: {packing: true}}\n": True,
    "training: {trainer_type: dpo, trainer_kwargs: {beta: 0.2, learning_rate: 1, loss_type: [ipo]}}\n": False,
    "training: {trainer_kwargs: {beta: 0.2, packing: false}}\n": False, "peft: {lora_modules_to_save: q}\n": True,
    "peft: {lora_target_modules: 'q|k'}\n": False,
    "training: {trainer_type: OUMI, trainer_kwargs: {loss_type: ipo}}\n": False,
    "training: {trainer_type: TRL_SFT, ema_decay: 0.9}\n": True,
    "training: {trainer_type: SFT, ema_decay: 0.9}\n": False,
    "training: {trainer_type: hf, max_skipped_steps: 10}\n": False, "model: {compile: true}\n": True,
    "training: {trainer_type: TRL_DPO, label_smoothing_factor: 0.1}\n": True, "model: {compile: false}\n": False,
    "training: {trainer_type: SFT, grpo: {num_generations: 3}}\n": True, "model: {device_map: }\n": False,
    "training: {trainer_type: SFT, profiler: {enable_cpu_profiling: false}}\n": False,
    "data: {train: {datasets: [{dataset_name: x, trust_remote_code: true, sample_count: 1.5}]}}\n": True,
    "data: {train: {datasets: [{dataset_name: x, seed: 3}]}}\n": False, "model: {model_name: 007}\n": False,
    "training: {trainer_type: TRL_GRPO, grpo: {num_generations: 3}, trainer_kwargs: {theirs: 1}}\n": True,
    "training: {trainer_type: TRL_GRPO, grpo: {num_generations: 3}, trainer_kwargs: {num_iterations: 2}}\n": False,
    "training: {trainer_type: VERL_GRPO, trainer_kwargs: {theirs: 1}}\n": False,
    "training: {trainer_type: TRL_SFT}\ndata: {validation: {stream: true}}\n": True,
    "training: {trainer_type: SFT}\ndata: {validation: {stream: true}}\n": False,
}  # fmt: skip


def is_refused(path):
    """Whether the loader refuses a file, or the table a key of it, whatever else there is."""
    try:
        found = fates.findings(load(path).config)
    except ConfigError:
        return True
    return any(line.fate is Fate.REFUSED and line.used_if is None for _, line in found)


@pytest.mark.parametrize("text", MARKED)
def test_editors_mark_errors_and_nothing_else(place, text):
    """Against the loader, and for what the table refuses against it."""
    (place / "a.yaml").write_text(text)
    refused = is_refused(place / "a.yaml")
    marked = list(json_schema.faults(json_schema.read(text), SCHEMA))
    assert (bool(marked), refused) == (MARKED[text], MARKED[text]), marked


@pytest.mark.parametrize("seed", range(6))
def test_editors_mark_nothing_that_loads(place, seed):
    rng = random.Random(seed)
    whole = {name: value_of(kind, rng) for name, kind in hints(TrainingConfig).items()}
    whole["training"]["trainer_type"], whole["training"]["trainer_kwargs"] = "VERL_GRPO", {"theirs": 1}
    without_twins(whole["training"], rng)
    file = tiny.write_yaml(place / "a.yaml", whole)
    load(file)
    assert list(json_schema.faults(json_schema.read(file.read_text()), SCHEMA)) == []


FILES = sorted(Path(__file__).parent.glob("recipes/*.yaml")) + sorted(
    Path(__file__).parent.parent.parent.glob("examples/[123]_*.yaml")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_editors_mark_of_a_recipe_what_is_refused(path):
    marked = list(json_schema.faults(json_schema.read(path.read_text()), SCHEMA))
    assert bool(marked) == is_refused(path), marked


def test_a_trainer_type_has_a_column_or_is_refused():
    columns = {*methods.METHODS, "OUMI"}
    for kind in TrainerType:
        config = TrainingConfig(training=TrainingParams(trainer_type=kind))
        assert bool(fates.trainers_of(config)) == (kind in columns)
