"""Every key of a run's file, for every trainer: a value other than its default arrives in the object that uses it, or
is refused, or is said to have no effect, as the table of `config/keys/uses.py` has it."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path

import pytest
import torch

from tests import ROOT, installed
from tests import tiny_language as tiny
from trainwright import ConfigError
from trainwright.config import DatasetParams, ModelParams, TrainerType, TrainingConfig, TrainingParams, methods
from trainwright.config.composition import build, starting_point
from trainwright.config.keys import fates, table, uses
from trainwright.config.keys.lines import Fate
from trainwright.config.options import DIVERGING, DPOOptions, GOLDOptions, KTOOptions, SFTOptions
from trainwright.config.params import MixedPrecisionDtype
from trainwright.config.policy_options import RLOOOptions, TrlGRPOOptions
from trainwright.config.reading.read import check, options_of
from trainwright.config.schema import DatasetSplitParams, MixtureStrategy, PeftParams, PeftSaveMode, TrainTarget
from trainwright.data import mixture
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.text.text_collators import FlatBatch
from trainwright.data.text.text_stream import BlockStream
from trainwright.models.adapters import lora_config, quantization
from trainwright.tasks.language.build import arguments
from trainwright.tasks.language.text import processes_of

KWARGS = "training.trainer_kwargs"
EVERYONE = tuple(methods.METHODS)
OWN_TESTS = (
    "CLASSIFY",
    "SEQ2SEQ",
    "REWARD",
    "DISTILL",
    "GRPO",
    "RLOO",
    "TRL_KTO",
    "TRL_REWARD",
    "TRL_GRPO",
    "TRL_GKD",
    "TRL_GOLD",
)
WRITERS = [one for one in EVERYONE if one not in OWN_TESTS]
OURS = [one.name for one in methods.everyone() if not one.library]
PAIRS = [one.name for one in methods.everyone() if one.options is DPOOptions]
JUDGED = [one.name for one in methods.everyone() if one.options is KTOOptions]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    place = tiny.make_place(tmp_path_factory.mktemp("keys"))
    tiny.new_tokenizer().save_pretrained(place / "tokenizer")
    (place / "template.jinja").write_text(TEMPLATE)
    return place


@pytest.fixture
def environment():
    """The variables of the environment and the levels of logs as they were; transformers' arguments set some."""
    before, loggers = (
        dict(os.environ),
        [logging.getLogger(name) for name in ("trainwright", "transformers", "datasets", "peft")],
    )
    levels = [one.level for one in loggers]
    yield
    os.environ.clear()
    os.environ.update(before)
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


def chats_for(trainer):
    """Conversations that a trainer learns from."""
    return "chat_preference" if trainer in PAIRS else "chat_judged" if trainer in JUDGED else "chat"


def config_of(place, trainer, data=None):
    """A configuration that is right, for a trainer."""
    kind = chats_for(trainer)
    config = TrainingConfig(
        model=ModelParams(model_name=str(place / "model")),
        training=TrainingParams(
            trainer_type=TrainerType[trainer], output_dir="out", use_cpu=True, save_final_model=False, report_to="none"
        ),
    )
    config.data.train.datasets.append(DatasetParams(dataset_name=str(place / f"{data or kind}.jsonl")))
    return config


def put(config, key, value):
    """Set a key of a configuration."""
    way, name = key.split(".")[:-1], key.split(".")[-1]
    section = config
    for part in way:
        if isinstance(section, list):
            section = section[0]
        elif part == "trainer_kwargs":
            section = section.trainer_kwargs
        else:
            section = getattr(section, part)
    if isinstance(section, dict):
        section[name] = value
    else:
        setattr(section[0] if isinstance(section, list) else section, name, value)


def refused(key, trainer):
    """Whether a trainer does not use a key, whatever the rest."""
    return any(line.used_if is None for line in fates.lines_of(key, trainer))


def other(value):
    """A value of the same type that is not this one."""
    if isinstance(value, Enum):
        return next(one for one in type(value) if one is not value)
    if is_dataclass(value):
        first = next(f.name for f in fields(value) if not is_dataclass(getattr(value, f.name)))
        return replace(value, **{first: other(getattr(value, first))})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {list: ["x"], dict: {"x": 1}}.get(type(value), "x")


# Values that the types alone do not tell: what is refused of them is another thing.
VALUES = {
    "data.train.collator_name": "text_completions_only_with_padding",
    "data.validation.collator_name": "text_completions_only_with_padding",
    "data.train.train_target": TrainTarget.FINAL_ASSISTANT_TURN,
    "data.validation.train_target": TrainTarget.FINAL_ASSISTANT_TURN,
    "data.train.pack": True, "data.validation.pack": True,
    "training.max_train_time": "1h", "training.ema_decay": 0.5, "training.spike_factor": 3.0,
    "training.label_smoothing_factor": 0.1, "training.sgd_momentum": 0.9, "training.warmup_ratio": 0.1,
    "training.warmup_steps": 3, "training.dataloader_main_process_only": True, "training.label_ignore_index": 3,
    "training.eval_accumulation_steps": 3, "training.include_for_metrics": ["loss"], "training.hub_strategy": "end",
    "training.length_column_name": "len", "training.reward_functions": ["x"], "training.remove_unused_columns": True,
    "training.gradient_checkpointing_kwargs": {"use_reentrant": False}, "training.hub_private_repo": True,
    "training.activation_checkpointing_kwargs": {"use_reentrant": False},
    "training.per_device_train_batch_size": 1,
    f"{KWARGS}.packing": True, f"{KWARGS}.sampler_correction_min": 0.5, f"{KWARGS}.teacher_model_init_kwargs": {"x": 1},
    f"{KWARGS}.router_aux_loss_coef": 0.1, f"{KWARGS}.completion_only_loss": True, f"{KWARGS}.eval_packing": True,
    f"{KWARGS}.packing_strategy": "wrapped", f"{KWARGS}.f_alpha_divergence_coef": 0.7,
    f"{KWARGS}.f_divergence_type": "forward_kl", "peft.lora_dropout": 0.25,
    f"{KWARGS}.dataset_num_proc": 2, f"{KWARGS}.temperature_eval": 0.5,
    f"{KWARGS}.precompute_ref_batch_size": 3, f"{KWARGS}.loss_type": "dft", f"{KWARGS}.model_init_kwargs": {"x": 1},
    f"{KWARGS}.assistant_only_loss": True, f"{KWARGS}.label_smoothing": 0.1, "training.greater_is_better": True,
    "training.dataloader_persistent_workers": True,
    f"{KWARGS}.dataset_kwargs": {"x": 1}, "model.adapter_model": "adapters", "peft.bnb_4bit_quant_type": "nf4",
    "peft.bnb_4bit_quant_storage": "bfloat16", "peft.bnb_4bit_compute_dtype": "bfloat16", "peft.lora_bias": "all",
    "peft.lora_init_weights": "gaussian", "peft.lora_task_type": "TaskType.CAUSAL_LM", "peft.q_lora_bits": 8,
    "data.test": DatasetSplitParams(stream=True), f"{KWARGS}.pad_to_multiple_of": 16, f"{KWARGS}.padding_free": True,
}  # fmt: skip
# What has to be so that a condition is not fulfilled, where it is by default.
UNMET = {
    "an lr_scheduler_type that warms up, such as constant_with_warmup (not constant, reduce_lr_on_plateau, greedy)": {
        "training.lr_scheduler_type": "constant"
    },
    "a reference that is a model (no training.use_peft, no precompute_ref_log_probs)": {"training.use_peft": True},
    "a reference (beta above 0)": {f"{KWARGS}.beta": 0.0},
    f"a loss_type that reads it ({', '.join(DIVERGING)})": {f"{KWARGS}.loss_type": "nca_pair"},
    "another loss_type than sft": {f"{KWARGS}.loss_type": "sft"},
    "an Adam optimizer, or Lion": {"training.optimizer": "sgd"},
    "an Adam optimizer": {"training.optimizer": "lion_32bit"},
    "rows that are padded (no packing, no padding_free)": {f"{KWARGS}.padding_free": True},
    "a table (no stream: true), which is tokenised before": {
        "data.train.stream": True,
        "data.validation.stream": True,
        "training.max_steps": 5,
    },
    "logging_strategy: steps": {"training.logging_strategy": "no"},
    "adapters that are new (no model.adapter_model)": {"training.use_peft": True, "model.adapter_model": "adapters"},
    "save_strategy: steps": {"training.save_strategy": "epoch"},
    "loss_type: nll": {f"{KWARGS}.loss_type": "dft"},
    "lmbda 0": {f"{KWARGS}.lmbda": 0.5},
    "q_lora_bits: 4": {"training.use_peft": True, "peft.q_lora": True, "peft.q_lora_bits": 8},
}
CELLS = [
    (key, trainer, line)
    for trainer in EVERYONE
    for key in fates.every_key()
    for line in fates.lines_of(key, trainer)
    if not line.is_told
]


@pytest.mark.slow  # a check of a file for every cell of the table
def test_what_the_table_refuses_is_refused_and_what_has_no_effect_is_said(place, monkeypatch, capsys):
    monkeypatch.setattr("trainwright.config.reading.packages.missing", lambda *given: iter(()))  # bitsandbytes
    wrong, told = [], set()
    for key, trainer, line in CELLS:
        config = config_of(place, trainer)
        config.data.validation.datasets.append(DatasetParams(dataset_name=str(place / "chat.jsonl")))
        for name, value in UNMET.get(line.why if line.used_if else "", {}).items():
            put(config, name, value)
        value = VALUES.get(key) or other(fates.every_key()[key])
        put(config, key, value)
        lines = [one for one in fates.lines_of(key, trainer) if value not in one.fine]
        if line is not next(one for one in lines if not (one.used_if and one.used_if(config))):
            continue  # another reason goes before
        told.add(line)
        said = ""
        try:
            check(config)
        except ConfigError as error:
            said = str(error)
        warned = capsys.readouterr().err
        path = key.replace("*", "0")
        where = said if line.fate is Fate.REFUSED else warned
        if path not in where or line.why not in where:
            wrong.append((key, trainer, line.why, said, warned))
    assert not wrong, "\n".join(map(str, wrong[:9]))
    assert told == {line for _, _, line in CELLS}


def test_every_line_is_about_keys_that_there_are():
    known = fates.every_key()
    lines = [*uses.LINES, *(line for one in methods.everyone() for line in one.lines)]
    assert [key for line in lines for key in line.keys if key not in known] == []
    assert [key for key in uses.READ_BY_OWN if key not in known] == []


def test_the_page_shows_the_table():
    assert (ROOT / "docs" / "keys.md").read_text() == table.page(), (
        "python -m trainwright.config.keys.table > docs/keys.md"
    )


# Arguments: the value under `training`, and where it is another, that of the argument.
STEPS = {"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "steps", "save_steps": 10}
ARGUMENTS = {
    "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 2.5, "max_steps": 7,
    "max_train_time": "1h", "allow_batch_change": True, "allow_data_change": True, "learning_rate": 0.5,
    "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}, "warmup_steps": 3, "optim": "sgd",
    "optim_args": "momentum=0.5", "optim_target_modules": ["q_proj"], "weight_decay": 0.1, "adam_beta1": 0.8,
    "adam_beta2": 0.9, "adam_epsilon": 1e-6, "max_grad_norm": 2.0, "ema_decay": 0.9, "max_skipped_steps": 3,
    "spike_factor": 3.0, "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "bf16": True, "fp16": True,
    "bf16_full_eval": True, "fp16_full_eval": True, "tf32": False, "activation_checkpointing": True,
    "gradient_checkpointing": True, "torch_compile": True, "torch_compile_backend": "eager",
    "torch_compile_mode": "default", "use_fused_loss": False, "use_cache": True, "torch_empty_cache_steps": 4,
    "auto_find_batch_size": True, "logging_strategy": "epoch", "logging_steps": 7, "logging_first_step": True,
    "log_on_each_node": False, "logging_nan_inf_filter": False, "include_num_input_tokens_seen": "all",
    "log_level": "debug", "log_level_replica": "error", "disable_tqdm": True, "run_name": "r", "project": "p",
    "trackio_space_id": "s", "trackio_bucket_id": "b", "trackio_static_space_id": "t", "eval_strategy": "steps",
    "eval_delay": 2, "eval_on_start": True, "per_device_eval_batch_size": 3, "prediction_loss_only": True,
    "eval_do_concat_batches": False, "eval_use_gather_object": True, "eval_accumulation_steps": 2,
    "metric_for_best_model": "x", "greater_is_better": True, "save_strategy": "epoch", "save_steps": 9,
    "save_total_limit": 2, "save_only_model": True, "save_on_each_node": True, "enable_jit_checkpoint": True,
    "checkpoint_mirror": "memory://m",
    "resume_from_checkpoint": "here", "ignore_data_skip": True, "restore_callback_states_from_checkpoint": False,
    "push_to_hub": True, "hub_token": "t", "hub_private_repo": True, "hub_model_id": "a/b", "hub_strategy": "end",
    "hub_always_push": True, "hub_revision": "x", "seed": 7, "data_seed": 8, "full_determinism": True,
    "accelerator_config": {"non_blocking": True}, "dataloader_drop_last": True, "dataloader_num_workers": 2,
    "dataloader_pin_memory": False, "dataloader_persistent_workers": True,
    "dataloader_multiprocessing_context": "spawn", "dataloader_in_order": False, "remove_unused_columns": False,
    "label_names": ["x"], "output_dir": "other", "train_sampling_strategy": "sequential",
    "length_column_name": "len", "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 5, "ddp_broadcast_buffers": True, "ddp_static_graph": True, "ddp_backend": "gloo",
    "ddp_timeout": 60, "debug": ["underflow_overflow"], "report_to": ["mlflow"],
}  # fmt: skip
# Those with another one beside them, or that become another: (values, argument, value).
DERIVED = {
    "eval_steps": ({"eval_strategy": "steps", "eval_steps": 9}, "eval_steps", 9),
    "load_best_model_at_end": ({**STEPS, "load_best_model_at_end": True}, "load_best_model_at_end", True),
    "dataloader_prefetch_factor": (
        {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 3}, "dataloader_prefetch_factor", 3,
    ),
    "gradient_checkpointing_kwargs": (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        "gradient_checkpointing_kwargs", {"use_reentrant": False},
    ),
    "activation_checkpointing_kwargs": (
        {"gradient_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
        "gradient_checkpointing_kwargs", {"use_reentrant": False},
    ),
    "use_cpu": ({"use_cpu": True}, "use_cpu", True),
    "optimizer": ({"optimizer": "sgd"}, "optim", "sgd"),
    "sgd_momentum": ({"optimizer": "sgd", "sgd_momentum": 0.9}, "optim_args", "momentum=0.9"),
    "warmup_ratio": ({"warmup_ratio": 0.1}, "warmup_steps", 0.1),
    "mixed_precision_dtype": ({"mixed_precision_dtype": MixedPrecisionDtype.BF16}, "bf16", True),
    "compile": ({"compile": True}, "torch_compile", True),
    "enable_gradient_checkpointing": ({"enable_gradient_checkpointing": True}, "gradient_checkpointing", True),
    "empty_device_cache_steps": ({"empty_device_cache_steps": 4}, "torch_empty_cache_steps", 4),
    "save_epoch": ({"save_epoch": True}, "save_strategy", "epoch"),
    "enable_wandb": ({"enable_wandb": True, "enable_tensorboard": False}, "report_to", ["wandb"]),
    "enable_mlflow": ({"enable_mlflow": True, "enable_tensorboard": False}, "report_to", ["mlflow"]),
    "enable_tensorboard": ({"enable_tensorboard": False}, "report_to", []),
    "use_deterministic": ({"use_deterministic": True}, "full_determinism", True),
    "nccl_default_timeout_minutes": ({"nccl_default_timeout_minutes": 2}, "ddp_timeout", 120),
    "include_performance_metrics": (
        {"include_performance_metrics": True}, "include_num_input_tokens_seen", "non_padding",
    ),
}  # fmt: skip
GIVEN = {**{name: ({name: value}, name, value) for name, value in ARGUMENTS.items()}, **DERIVED}


def arguments_of(trainer, params):
    """The object of arguments that a trainer gets."""
    if trainer in OURS:
        return arguments(params)
    import transformers
    import trl

    from trainwright.upstream.build import foreign_arguments

    kind = {"HF": transformers.TrainingArguments, "TRL_SFT": trl.SFTConfig, "TRL_DPO": trl.DPOConfig}[trainer]
    return foreign_arguments(TrainingConfig(training=params), kind, {})


@installed.todays_arguments
@pytest.mark.parametrize("trainer", ["SFT", "HF", "TRL_SFT", "TRL_DPO"])
def test_arguments_arrive(trainer, environment, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("trl", reason="trl is not installed")
    wrong = []
    for name, (values, argument, expected) in GIVEN.items():
        if refused(f"training.{name}", trainer) or (trainer != "SFT" and name == "ddp_backend"):
            continue  # or accelerate would begin a group of processes
        base = {} if "use_cpu" in values else {"use_cpu": True}
        usual = arguments_of(trainer, TrainingParams(output_dir="out", **base))
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)
        args = arguments_of(trainer, TrainingParams(**{"output_dir": "out", **base, **values}))
        for variable in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"):
            os.environ.pop(variable, None)
        found = value_of(args, argument)
        if name == "enable_tensorboard":
            usual = None if importlib.util.find_spec("tensorboard") is None else usual
        if name == "dataloader_pin_memory":  # which transformers leaves out on a CPU
            usual = None
        if found != expected or (usual is not None and value_of(usual, argument) == expected):
            wrong.append((name, found, expected, usual and value_of(usual, argument)))
    assert not wrong, "\n".join(map(str, wrong))


def value_of(args, name):
    """An argument as plain values; one that an older transformers calls otherwise by that name."""
    found = getattr(args, name) if hasattr(args, name) else getattr(args, name.replace("activation", "gradient"))
    if name == "accelerator_config" and found is not None:
        found = found if isinstance(found, dict) else found.to_dict()
        return {"non_blocking": found["non_blocking"]}
    if name == "debug":
        return [getattr(one, "value", one) for one in found]
    return getattr(found, "value", found)


# The rest is seen in what is built. The template holds a variable and marks of the assistant's turns.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
    "<|im_end|>\n{% endgeneration %}{% else %}{{ mark }}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Seen:
    """What was built of a configuration: the holder and its trainer, and what models and tokenizers were asked for."""

    def __init__(self, config, monkeypatch):
        import transformers

        self.config, self.asked = config, {}
        for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
            monkeypatch.setattr(kind, "from_pretrained", self._noting(kind.from_pretrained))
        self.holder = build(config)
        self.trainer, self.args = self.holder.trainer, self.holder.trainer.args
        self.model, self.tokenizer = self.trainer.model, self.trainer.processing_class
        self.ours = config.training.trainer_type in OURS
        self.method = methods.find(config.training.trainer_type)
        self.trl = config.training.trainer_type.startswith("TRL")

    def _noting(self, function):
        def call(*args, **kwargs):
            self.asked |= kwargs
            return function(*args, **kwargs)

        return call

    def row(self, number=0, evaluation=False):
        rows = self.trainer.eval_dataset if evaluation else self.trainer.train_dataset
        return rows[number]

    @property
    def text(self):
        row = self.row()
        ids = row["input_ids"] if "input_ids" in row else row["prompt_ids"]
        return self.tokenizer.decode(ids)

    @property
    def longest(self):
        if self.trl:
            return self.args.max_length
        rows = [self.row(number) for number in range(len(self.trainer.train_dataset))]
        return max(len(self.method.parts(row)[0].ids) for row in rows)

    def option(self, name):
        """A setting of the kind of training, where the trainer has it."""
        return getattr(self.args if self.trl else self.trainer.objective.options, name)


def lora(name):
    return lambda seen: getattr(seen.model.peft_config["default"], name)


def plain_set(found):
    return sorted(found) if isinstance(found, set | list) else found


# Keys that are given together: {key: (value, what is seen, what it must be)}.
WHOLE = {
    "model.model_name": (None, lambda s: Path(s.model.config._name_or_path).name, "model"),
    "model.tokenizer_name": ("{place}/tokenizer", lambda s: Path(s.tokenizer.name_or_path).name, "tokenizer"),
    "model.new_special_tokens": (["<x>"], lambda s: (len(s.tokenizer), s.model.config.vocab_size), (321, 321)),
    "model.tokenizer_pad_token": ("<x>", lambda s: s.tokenizer.pad_token, "<x>"),
    "model.tokenizer_kwargs": ({"model_max_length": 77}, lambda s: s.tokenizer.model_max_length, 77),
    "model.model_max_length": (45, lambda s: s.longest, 45),
    "model.trust_remote_code": (True, lambda s: s.asked["trust_remote_code"], True),
    "model.model_revision": ("main", lambda s: s.asked["revision"], "main"),
    "model.torch_dtype_str": ("bfloat16", lambda s: s.model.dtype, torch.bfloat16),
    "model.attn_implementation": ("eager", lambda s: s.model.config._attn_implementation, "eager"),
    "model.model_kwargs": ({"rms_norm_eps": 0.25}, lambda s: s.model.config.rms_norm_eps, 0.25),
    "model.freeze_layers": (
        ["model.norm"], lambda s: {n for n, p in s.model.named_parameters() if not p.requires_grad},
        {"model.norm.weight"},
    ),
    "model.chat_template": ("{place}/template.jinja", lambda s: s.tokenizer.chat_template, TEMPLATE),
    "model.chat_template_kwargs": ({"mark": "dog"}, lambda s: s.text[:3], "dog"),
    "data.train.datasets.*.split": ("train[:40]", lambda s: None, None),
    "data.train.datasets.*.sample_count": (12, lambda s: len(s.trainer.train_dataset), 12),
    "data.validation.datasets": ("chat", lambda s: len(s.trainer.eval_dataset), 80),
    "training.trainer_type": (None, lambda s: s.config.training.trainer_type, "{trainer}"),
    "training.output_dir": ("there", lambda s: s.args.output_dir, "there"),
    "training.save_final_model": (True, lambda s: s.holder.config.training.save_final_model, True),
    "training.logging_dir": ("logs", lambda s: os.environ["TENSORBOARD_LOGGING_DIR"], "logs"),
    "training.dep_log_level": ("critical", lambda s: logging.getLogger("datasets").level, logging.CRITICAL),
    "training.resume_from_checkpoint": ("{place}", lambda s: bool(starting_point(s.config.training)), True),
}  # fmt: skip
ADAPTERS = {
    "training.use_peft": (True, lambda s: hasattr(s.model, "peft_config"), True),
    "peft.lora_r": (3, lora("r"), 3),
    "peft.lora_alpha": (5, lora("lora_alpha"), 5),
    "peft.lora_dropout": (0.25, lora("lora_dropout"), 0.25),
    "peft.lora_target_modules": (
        ["q_proj", "v_proj"], lambda s: plain_set(lora("target_modules")(s)), ["q_proj", "v_proj"],
    ),
    "peft.lora_exclude_modules": (
        ["model.layers.0.self_attn.q_proj"], lambda s: plain_set(lora("exclude_modules")(s)),
        ["model.layers.0.self_attn.q_proj"],
    ),
    "peft.lora_modules_to_save": (["lm_head"], lambda s: list(lora("modules_to_save")(s)), ["lm_head"]),
    "peft.lora_bias": ("all", lora("bias"), "all"),
    "peft.lora_init_weights": ("gaussian", lora("init_lora_weights"), "gaussian"),
    "peft.use_rslora": (True, lora("use_rslora"), True),
    "peft.use_dora": (True, lora("use_dora"), True),
    "peft.rank_pattern": ({"q_proj": 2}, lora("rank_pattern"), {"q_proj": 2}),
    "peft.alpha_pattern": ({"v_proj": 4.5}, lora("alpha_pattern"), {"v_proj": 4.5}),
    "peft.lora_task_type": ("TaskType.CAUSAL_LM", lambda s: str(lora("task_type")(s)).rpartition(".")[2], "CAUSAL_LM"),
    "peft.peft_save_mode": (PeftSaveMode.MERGED, lambda s: s.holder.config.peft.peft_save_mode, PeftSaveMode.MERGED),
}  # fmt: skip
TOGETHER = {"whole": WHOLE, "adapters": ADAPTERS}


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("trainer", WRITERS)
def test_keys_of_model_data_and_adapters_arrive(place, tmp_path, trainer, together, environment, monkeypatch):
    if trainer not in OURS:
        pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.chdir(tmp_path)
    config = config_of(place, trainer)
    if together == "adapters":
        config.model.chat_template = TEMPLATE
        drops = any(f.name == "disable_dropout" for f in fields(methods.find(trainer).options))
        config.training.trainer_kwargs = {"disable_dropout": False} if drops else {}
    keys = {key: one for key, one in TOGETHER[together].items() if not refused(key, trainer)}
    for key, (value, _, _) in keys.items():
        value = value.replace("{place}", str(place)) if isinstance(value, str) else value
        if key == "data.validation.datasets":
            name = chats_for(trainer)
            value = [DatasetParams(dataset_name=str(place / f"{name}.jsonl"))]
        if value is not None:
            put(config, key, value)
    assert [path for path, _ in fates.findings(config)] == []
    seen = Seen(config, monkeypatch)
    wrong = {}
    for key, (_, look, expected) in keys.items():
        expected = trainer if expected == "{trainer}" else expected
        if (found := look(seen)) != expected:
            wrong[key] = (found, expected)
    assert not wrong


# Keys of which each has a training of its own: (data, changes beside it, value, what is seen, what it must be).
SUPERVISED = ("SFT", "PRETRAIN", "HF")
PACKED = {f"{KWARGS}.packing": True, f"{KWARGS}.max_length": 64}


def some_masked(seen):
    return bool((seen.row()["labels"] == -100).any())


ALONE = {
    f"{KWARGS}.max_length": ("chat", {}, 30, lambda s: s.longest, 30),
    f"{KWARGS}.padding_free": ("chat", {}, True, lambda s: type(s.trainer.data_collator), FlatBatch),
    f"{KWARGS}.pad_to_multiple_of": ("chat", {}, 16, lambda s: s.trainer.data_collator.multiple, 16),
    f"{KWARGS}.pad_token": ("chat", {}, "<|im_start|>", lambda s: s.tokenizer.pad_token, "<|im_start|>"),
    f"{KWARGS}.eos_token": ("chat", {}, "<|im_end|>", lambda s: s.tokenizer.eos_token, "<|im_end|>"),
    f"{KWARGS}.packing": (
        "chat", {f"{KWARGS}.max_length": 64}, True, lambda s: isinstance(s.trainer.train_dataset, PackedRows), True,
    ),
    f"{KWARGS}.packing_strategy": ("chat", PACKED, "wrapped", lambda s: s.trainer.train_dataset.apart, False),
    f"{KWARGS}.eval_packing": (
        "chat", {**PACKED, "data.validation.datasets": "chat"}, False,
        lambda s: isinstance(s.trainer.eval_dataset, PackedRows), False,
    ),
    f"{KWARGS}.completion_only_loss": ("completion", {}, False, some_masked, False),
    f"{KWARGS}.assistant_only_loss": ("chat", {}, True, some_masked, True),
    f"{KWARGS}.dataset_text_field": ("words", {}, "words", lambda s: len(s.trainer.train_dataset), 3),
    f"{KWARGS}.chat_template_path": ("chat", {"model.chat_template": None}, "{place}/template.jinja",
                                     lambda s: s.tokenizer.chat_template, TEMPLATE),
    "data.train.collator_name": ("chat", {}, "text_completions_only_with_padding", some_masked, True),
    "data.train.train_target": ("chat", {}, TrainTarget.FINAL_ASSISTANT_TURN, some_masked, True),
    "data.train.pack": (
        "chat", {f"{KWARGS}.max_length": 64}, True, lambda s: isinstance(s.trainer.train_dataset, PackedRows), True,
    ),
    "data.train.target_col": ("words", {}, "words", lambda s: len(s.trainer.train_dataset), 3),
    "model.load_pretrained_weights": (
        "chat", {"model.tokenizer_name": "{place}/model", "model.model_kwargs": {"num_hidden_layers": 1}}, False,
        lambda s: len(s.model.model.layers), 1,
    ),
    "data.train.stream": (
        "chat", {"training.max_steps": 2}, True, lambda s: isinstance(s.trainer.train_dataset, BlockStream), True,
    ),
    "data.validation.stream": (
        "chat", {"data.validation.datasets": "chat"}, True, lambda s: isinstance(s.trainer.eval_dataset, BlockStream),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", ALONE)
def test_settings_of_supervised_training_arrive(place, tmp_path, key, environment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(place / "words.jsonl", [{"words": "the cat"}] * 3)
    data, beside, value, look, expected = ALONE[key]
    for trainer in SUPERVISED:
        if refused(key, trainer):
            continue
        config = config_of(place, trainer, data)
        config.model.chat_template = "chatml"
        for name, one in {**beside, key: value}.items():
            one = one.replace("{place}", str(place)) if isinstance(one, str) else one
            if name == "data.validation.datasets":
                one = [DatasetParams(dataset_name=str(place / f"{one}.jsonl"))]
            put(config, name, one)
        assert look(Seen(config, monkeypatch)) == expected, trainer


@pytest.mark.parametrize("key", [f"{KWARGS}.dataset_num_proc", "data.train.datasets.*.transform_num_workers"])
def test_processes_that_tokenise_are_those_asked_for(place, key):
    config = config_of(place, "SFT")
    put(config, key, 3)
    assert processes_of(config, config.data.train, SFTOptions(**options_of(config, SFTOptions))) == 3


# Settings of preferences, by the objective's or TRL's own name.
PREFERENCE = {
    "beta": 0.3, "loss_type": ["robust", "discopop"], "loss_weights": [1.0, 2.0], "label_smoothing": 0.1,
    "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7, "ld_alpha": 0.5, "use_weighting": True,
    "discopop_tau": 0.1, "disable_dropout": False, "precompute_ref_log_probs": True, "precompute_ref_batch_size": 3,
    "max_length": 30, "pad_to_multiple_of": 16, "pad_token": "<|im_start|>", "dataset_num_proc": 1,
}  # fmt: skip
REFERENCE = ("precompute_ref_log_probs", "precompute_ref_batch_size")


def test_settings_of_preferences_arrive(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []
    judged = "trainwright.tasks.language.reference.with_reference"
    monkeypatch.setattr(judged, lambda trainer, objective, rows, size, what: asked.append(size) or rows)
    config = config_of(place, "DPO")
    config.model.chat_template = "chatml"
    config.training.trainer_kwargs = dict(PREFERENCE)
    seen = Seen(config, monkeypatch)
    assert {name: seen.option(name) for name in PREFERENCE} == PREFERENCE
    assert asked == [3]
    assert (seen.longest, seen.trainer.data_collator.multiple, seen.tokenizer.pad_token) == (30, 16, "<|im_start|>")
    config = config_of(place, "DPO")
    config.model.chat_template = "chatml"
    tiny.new_model(hidden_size=16).save_pretrained(tmp_path / "other")
    config.training.trainer_kwargs = {"ref_model": str(tmp_path / "other")}
    assert Seen(config, monkeypatch).trainer.objective.reference.config.hidden_size == 16


def test_what_is_shown_at_the_start(place, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    config = config_of(place, "SFT", "text")
    config.training.log_examples = config.training.log_model_summary = True
    with caplog.at_level("INFO", logger="trainwright"):
        Seen(config, monkeypatch)
    assert "row 0" in capsys.readouterr().out
    assert "LlamaForCausalLM(" in caplog.text


TRL_VALUES = {
    **PREFERENCE, "padding_free": True, "packing": True, "packing_strategy": "wrapped", "eval_packing": True,
    "completion_only_loss": True, "assistant_only_loss": True, "dataset_text_field": "words", "eos_token": "<|im_end|>",
    "shuffle_dataset": True, "dataset_kwargs": {"skip_prepare_dataset": True}, "router_aux_loss_coef": 0.1,
    "dataset_num_proc": 2, "sync_ref_model": True, "ref_model_mixup_alpha": 0.5, "ref_model_sync_steps": 3,
}  # fmt: skip
TRL_LOSSES = {"TRL_SFT": "dft", "TRL_DPO": PREFERENCE["loss_type"]}


@pytest.mark.parametrize("trainer", ["TRL_SFT", "TRL_DPO"])
def test_settings_arrive_at_trl(place, trainer, environment):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from trainwright.upstream.build import foreign_arguments, trl_options

    ours, theirs = (SFTOptions, trl.SFTConfig) if trainer == "TRL_SFT" else (DPOOptions, trl.DPOConfig)
    seen = set()
    for name in (f.name for f in fields(ours)):
        if refused(f"{KWARGS}.{name}", trainer) or name in ("chat_template_path", "pad_token"):
            continue  # or the tokenizer has it
        config = config_of(place, trainer)
        value = TRL_LOSSES[trainer] if name == "loss_type" else TRL_VALUES[name]
        config.training.trainer_kwargs = {name: value}
        if name == "loss_weights":
            config.training.trainer_kwargs["loss_type"] = PREFERENCE["loss_type"]
        args = foreign_arguments(config, theirs, trl_options(config, ours(**options_of(config, ours))))
        assert getattr(args, name) == value, name
        seen.add(f"{KWARGS}.{name}")
    for key, name, value, expected in (
        ("data.train.pack", "packing", True, True),
        ("data.train.target_col", "dataset_text_field", "words", "words"),
        ("data.train.collator_name", "assistant_only_loss", "text_completions_only_with_padding", True),
        ("data.train.train_target", "assistant_only_loss", TrainTarget.ALL_ASSISTANT_TURNS, True),
        ("data.train.datasets.*.transform_num_workers", "dataset_num_proc", 2, 2),
    ):
        config = config_of(place, trainer)
        put(config, key, value)
        if not [path for path, _ in fates.findings(config)]:
            args = foreign_arguments(config, theirs, trl_options(config, ours(**options_of(config, ours))))
            assert getattr(args, name) == expected, key


# How rows are read is the same for all trainers: (changes, key, value), by which other rows are read.
TWO = {"mixture_proportion": 0.5}
READ = {
    "dataset_name": ({}, "text"), "dataset_path": ({"dataset_name": "json"}, "text"), "split": ({}, "train[:40]"),
    "sample_count": ({}, 12), "shuffle": ({}, True), "seed": ({"shuffle": True}, 9), "dataset_kwargs": ({}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_keys_of_a_dataset_decide_which_rows_are_read(place, name):
    beside, value = READ[name]
    usual = {"dataset_name": str(place / "chat.jsonl"), **beside}
    if name in ("dataset_name", "dataset_path"):
        usual["dataset_path"] = str(place / "chat.jsonl")
        changed = {**usual, "dataset_path": str(place / f"{value}.jsonl")}
        if name == "dataset_name":
            changed = {"dataset_name": str(place / f"{value}.jsonl")}
    elif name == "dataset_kwargs":
        usual = {"dataset_name": "python_source", "dataset_kwargs": {"root": str(ROOT / "src/trainwright/optim")}}
        changed = {**usual, "dataset_kwargs": {"root": str(ROOT / "src/trainwright/parallel")}}
    else:
        changed = {**usual, name: value}
    one, other_one = (
        mixture.read(DatasetSplitParams(datasets=[DatasetParams(**some)]), 1).to_list() for some in (usual, changed)
    )
    assert one != other_one


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 9), ("mixture_strategy", MixtureStrategy.ALL_EXHAUSTED), ("mixture_proportion", 0.1)],
)
def test_keys_of_a_mixture_decide_which_rows_are_read(place, name, value):
    def rows(shares, **settings):
        parts = [
            DatasetParams(dataset_name=str(place / f"{kind}.jsonl"), split=split, mixture_proportion=share)
            for kind, split, share in (("text", "train[:50]", shares), ("text", "train[50:]", 1 - shares))
        ]
        return mixture.read(DatasetSplitParams(datasets=parts, **settings), 1).to_list()

    assert rows(0.5) != (rows(value) if name == "mixture_proportion" else rows(0.5, **{name: value}))


def test_settings_of_quantised_weights_arrive(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.BitsAndBytesConfig, "post_init", lambda self: None)  # bitsandbytes is not here
    found = quantization(
        PeftParams(
            q_lora=True, bnb_4bit_quant_type="nf4", use_bnb_nested_quant=True, bnb_4bit_quant_storage="bfloat16",
            bnb_4bit_compute_dtype="bfloat16", llm_int8_skip_modules=["lm_head"],
        )
    )  # fmt: skip
    assert (found.load_in_4bit, found.bnb_4bit_use_double_quant, found.bnb_4bit_quant_type) == (True, True, "nf4")
    assert found.bnb_4bit_quant_storage == found.bnb_4bit_compute_dtype == torch.bfloat16
    assert found.llm_int8_skip_modules == ["lm_head"]
    assert quantization(PeftParams(q_lora=True, q_lora_bits=8)).load_in_8bit
    assert lora_config(PeftParams(lora_target_parameters=["a.b"])).target_parameters == ["a.b"]


# Settings whose numbers test_kto.py, test_reward.py and test_distill.py compare, or that test_upstream.py sees at TRL.
COMPARED = (
    "desirable_weight", "undesirable_weight", "trl_compatible", "center_rewards_coefficient", "temperature", "lmbda",
    "teacher_model_name_or_path", "seq_kd", "max_new_tokens", "teacher_model_init_kwargs",
    *(f.name for f in fields(GOLDOptions)),
)  # fmt: skip
# Keys that other tests see arrive, by the trainer's own parts.
ELSEWHERE = {
    "data.train.datasets": "data/test_mixing.py", "data.train.datasets.*.subset": "data/test_files.py",
    "data.train.datasets.*.shuffle_buffer_size": "data/test_mixing.py",
    "data.train.datasets.*.column_map": "data/test_datasets.py",
    "data.train.collator_kwargs": "data/test_messages.py",
    "training.try_resume_from_last_checkpoint": "tasks/language/test_train.py",
    "model.adapter_model": "tasks/language/test_train.py", "model.enable_liger_kernel": "config/test_settled.py",
    "training.use_liger_kernel": "models/kernels/test_liger.py",
    "training.liger_kernel_config": "models/kernels/test_liger.py",
}  # fmt: skip


def test_no_key_is_left_out():
    """Every key that a trainer uses is seen to arrive by one of the tests here, or by one that is named."""
    seen = {
        "data.train.datasets.*.transform_num_workers",
        "training.log_examples",
        "training.log_model_summary",
        *WHOLE,
        *ADAPTERS,
        *ALONE,
        *ELSEWHERE,
        *(f"training.{name}" for name in GIVEN),
    }
    seen |= {f"{KWARGS}.{name}" for name in (*PREFERENCE, *TRL_VALUES, "ref_model", "chat_template_path")}
    seen |= {
        f"{KWARGS}.{name}"
        for name in ("class_names", "class_weights", "metrics", "num_beams", "max_target_length", "source_prefix")
    }
    seen |= {"training.grpo", "training.reward_functions", "training.reward_function_kwargs"}
    seen |= {"training.gkd", "training.gold", *(f"{KWARGS}.{name}" for name in COMPARED)}
    seen |= {
        f"{KWARGS}.{one.name}" for kind in (TrlGRPOOptions, RLOOOptions) for one in fields(kind)
    }  # tests/reinforcement
    seen |= {f"data.train.datasets.*.{name}" for name in (*READ, "mixture_proportion")}
    seen |= {"training.fsdp", "training.fsdp_config", "training.parallelism_config"}  # tests/parallel/test_sharding.py
    seen |= {"data.train.seed", "data.train.mixture_strategy", "peft.lora_target_parameters"}
    seen |= {f"peft.{name}" for name in ("q_lora", "q_lora_bits", "llm_int8_skip_modules", *uses.QUANTISED.split())}
    left = [
        key for key in fates.every_key()
        if key.replace("data.validation", "data.train") not in seen and key not in seen
        and any(not lines or lines[0].used_if for lines in (fates.lines_of(key, one) for one in EVERYONE))
        and not key.startswith(("fsdp.", "deepspeed."))
    ]  # fmt: skip
    assert left == []
    for key, file in ELSEWHERE.items():
        assert key.rpartition(".")[2] in (ROOT / "tests" / file).read_text(), key
