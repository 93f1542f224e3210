"""What becomes of every key of a run's file, by who trains: this table decides.

`check` and the loader refuse what it refuses and say what has no effect, the schema for editors marks it, docs/keys.md
shows it, and a test sees a value of every other key arrive where it is used. A key without a line is used by all.

Refused is what would change a number, a file or a device and does not; what would change none of these is said.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from trainwright.args.names import METRIC_SCHEDULERS
from trainwright.args.training import ArgumentFields
from trainwright.args.unsupported import REFUSED as REFUSED_ARGUMENTS
from trainwright.config.keys.lines import EVERYONE, OUR_ROWS, OURS, THEIRS, Fate, Line
from trainwright.config.schema import TrainingConfig
from trainwright.config.unsupported import DeepSpeedParams, FSDPParams
from trainwright.world import current_world

OWN_MODELS = ("ngram_llama",)  # a model with a Trainer and data of its own
_WITHOUT_SETTINGS = (
    "adamw_torch_fused", "adamw_bnb", "adamw_8bit", "paged_adamw", "lion", "paged_lion", "adafactor",
)  # fmt: skip
_NO_WARMUP = ("constant", *METRIC_SCHEDULERS)
# Sections that are one key here: what they are for is not done.
WHOLE = ("data.test", *(f"training.{name}" for name in ("grpo", "gkd", "gold", "profiler", "telemetry")))
KWARGS = "training.trainer_kwargs"
_OF_THE_FIRST_FSDP = "backward_prefetch forward_prefetch use_orig_params state_dict_type sync_module_states"


def _of(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


def refused(section: str, names: str, why: str, instead: str = "", *, who: str = EVERYONE, **more: Any) -> Line:
    """Return a line about keys of a section that are refused."""
    return Line(_of(section, names), (who,), Fate.REFUSED, why, instead, **more)


def no_effect(section: str, names: str, why: str, *, who: str = EVERYONE, **more: Any) -> Line:
    """Return a line about keys of a section that have no effect."""
    return Line(_of(section, names), (who,), Fate.NO_EFFECT, why, **more)


def of_several_processes() -> bool:
    """Whether this process is one of several of a run, which torchrun has started."""
    return not current_world().is_alone


def no_streams(split: str, who: str = EVERYONE) -> Line:
    """Return the line of who does not read streams."""
    why = "streams of texts are read by our own trainers only"
    return refused(split, "stream", why, f"write {split}.stream: false", who=who)


def no_supervision(turns: str, packing: str, column: str) -> tuple[Line, ...]:
    """Return the lines of a method that has not the settings of supervised fine-tuning, with its reasons.

    Args:
        turns: why nobody chooses what of a conversation is learned.
        packing: why rows are not packed.
        column: where its texts stand.
    """
    return tuple(
        line
        for split in ("data.train", "data.validation")
        for line in (
            refused(split, "collator_name", turns, "leave it out", fine=("text_with_padding",)),
            refused(split, "train_target", turns, "leave it out"),
            refused(split, "pack", packing, "leave it out", fine=(False,)),
            refused(split, "target_col", column, "leave it out"),
        )
    )


def _optimizer(config: TrainingConfig) -> str:
    return config.training.optim or config.training.optimizer


def _has_proportions(config: TrainingConfig) -> bool:
    splits = (config.data.train, config.data.validation)
    return any(one.mixture_proportion is not None for split in splits for one in split.datasets)


def _streams(config: TrainingConfig) -> bool:
    return config.data.train.stream or config.data.validation.stream


def _shuffles(config: TrainingConfig) -> bool:
    return any(one.shuffle for split in (config.data.train, config.data.validation) for one in split.datasets)


def _names_turns(config: TrainingConfig) -> bool:
    known = {"response_template", "instruction_template"}
    return all(set(split.collator_kwargs) <= known for split in (config.data.train, config.data.validation))


def _checkpoints(config: TrainingConfig) -> bool:
    one = config.training
    return bool(one.enable_gradient_checkpointing or one.gradient_checkpointing or one.activation_checkpointing)


def _as_in_training(name: str) -> Callable[[TrainingConfig], bool]:
    return lambda config: getattr(config.data.validation, name) == getattr(config.data.train, name)


def has_package(name: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(name) is not None


def _names(kind: Any, without: str = "") -> str:
    return " ".join(f.name for f in fields(kind) if f.name not in without.split())


_MODEL = (
    refused("model", "processor_kwargs", "models of images and sound are not supported from a file",
            "leave it out"),
    refused("model", "compile", "the model is compiled by training.compile", "write training.compile: true"),
    no_effect("model", "enable_liger_kernel", "the package liger-kernel, which is not installed (pip install "
              "liger-kernel)", used_if=lambda c: has_package("liger_kernel")),
    refused("model", "device_map", "every process has one device, and the whole model on it",
            "leave it out; training.use_cpu: true trains on the CPU", fine=(None,)),
    refused("model", "adapter_model", "training.use_peft: true", used_if=lambda c: c.training.use_peft),
    no_effect("model", "shard_for_eval tool_call_parser", "it is read by Oumi's evaluation and inference"),
)  # fmt: skip

_DATA = (
    Line(("data.test",), (EVERYONE,), Fate.NO_EFFECT, "nothing is tested after training"),
    *(
        line
        for split in ("data.train", "data.validation")
        for line in (
            refused(split, "collator_kwargs", "response_template and instruction_template alone, which the chat "
                    "template says too", "leave them out", used_if=_names_turns),
            no_streams(split, who=THEIRS),
            no_effect(split, "use_torchdata", "torch's own DataLoader reads"),
            no_effect(split, "mixture_strategy seed", "mixture_proportion", used_if=_has_proportions),
            no_effect(f"{split}.datasets.*", "trust_remote_code", "code that comes with data is not run"),
            no_effect(f"{split}.datasets.*", "seed", "shuffle: true", used_if=_shuffles),
            no_effect(f"{split}.datasets.*", "shuffle_buffer_size", "stream: true and shuffle: true",
                     used_if=lambda c: _streams(c) and _shuffles(c)),
        )
    ),
    *(
        refused("data.validation", name, f"the same {name} in data.train", used_if=_as_in_training(name))
        for name in ("collator_name", "train_target", "pack", "target_col")
    ),
)  # fmt: skip

_TRAINING = (
    refused("training", "allow_batch_change allow_data_change checkpoint_mirror ema_decay max_skipped_steps "
            "max_train_time spike_factor use_fused_loss", "our own trainers alone have it",
            "leave it out, or train with SFT or DPO", who=THEIRS),
    refused("training", "sgd_momentum", "optimizer: sgd", used_if=lambda c: _optimizer(c) == "sgd"),
    refused("training", "optim_args", "an optimizer that has further settings (not AdamW, Lion or Adafactor)",
            used_if=lambda c: _optimizer(c) != "adamw_torch" and not _optimizer(c).startswith(_WITHOUT_SETTINGS)),
    refused("training", "optim_target_modules", "optim: galore_* or apollo_*",
            used_if=lambda c: _optimizer(c).startswith(("galore", "apollo"))),
    no_effect("training", "adam_epsilon", "an Adam optimizer",
              used_if=lambda c: "adam" in _optimizer(c) or "ademamix" in _optimizer(c)),
    no_effect("training", "adam_beta1 adam_beta2", "an Adam optimizer, or Lion",
              used_if=lambda c: not _optimizer(c).startswith(("sgd", "adagrad", "rmsprop", "adafactor"))),
    refused("training", "warmup_ratio warmup_steps",
            f"an lr_scheduler_type that warms up, such as constant_with_warmup (not {', '.join(_NO_WARMUP)})",
            used_if=lambda c: c.training.lr_scheduler_type not in _NO_WARMUP, fine=(0,)),
    no_effect("training", "dataloader_main_process_only", "every process reads its own rows", fine=(False,)),
    refused("training", "label_ignore_index", "the label that is no target is -100", "leave it out",
            fine=(-100,)),
    refused("training", "metrics_function", "metrics_function is not supported", "leave it out"),
    refused("training", "reward_functions reward_function_kwargs grpo", "it is of trainer_type TRL_GRPO",
            "leave it out"),
    refused("training", "gkd", "it is of trainer_type TRL_GKD", "leave it out"),
    refused("training", "gold", "it is of trainer_type TRL_GOLD", "leave it out"),
    refused("training", "verl_config_overrides", "it is of trainer_type VERL_GRPO", "leave it out"),
    refused("training", "profiler", "valid, but the profiler is not supported yet",
            "use torch.profiler in a callback"),
    no_effect("training", "telemetry", "nothing is measured for it, and nothing is ever sent"),
    no_effect("training", "include_alternative_mfu_metrics", "no such figure is made"),
    no_effect("training", "include_performance_metrics", "tokens and speed are logged anyway", who=OURS),
    no_effect("training", "log_examples log_model_summary", "our own trainers show it", who=THEIRS),
    no_effect("training", "remove_unused_columns", "rows of tokens have the columns that are used", who=OUR_ROWS,
             fine=(False,)),
    no_effect("training", "length_column_name", "rows of tokens know their lengths", who=OUR_ROWS),
    no_effect("training", "include_for_metrics batch_eval_metrics", "a file has no compute_metrics"),
    no_effect("training", "do_train do_eval do_predict local_rank", "scripts read it"),
    no_effect("training", "eval_steps", "eval_strategy: steps",
              used_if=lambda c: c.training.eval_strategy == "steps"),
    no_effect("training", "eval_delay metric_for_best_model greater_is_better",
            "eval_strategy: steps or epoch",
              used_if=lambda c: c.training.eval_strategy != "no" or c.training.eval_on_start),
    no_effect("training", "save_steps", "save_strategy: steps",
              used_if=lambda c: c.training.save_strategy in (None, "steps") and not c.training.save_epoch),
    no_effect("training", "bf16_full_eval fp16_full_eval",
            "it is for evaluations outside of training, which a file has not"),
    no_effect("training", "dataloader_multiprocessing_context dataloader_in_order dataloader_prefetch_factor",
              "dataloader_num_workers",
              used_if=lambda c: c.training.dataloader_num_workers != 0),
    refused("training", "dataloader_persistent_workers", "dataloader_num_workers above 0",
            used_if=lambda c: c.training.dataloader_num_workers != 0),
    no_effect("training", "logging_steps", "logging_strategy: steps",
              used_if=lambda c: c.training.logging_strategy == "steps"),
    no_effect("training", "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
            "push_to_hub: true", used_if=lambda c: c.training.push_to_hub, switch="training.push_to_hub"),
    no_effect("training", "trackio_space_id trackio_bucket_id trackio_static_space_id", "report_to: trackio",
              used_if=lambda c: "trackio" in (c.training.report_to or ())),
    no_effect("training", "gradient_checkpointing_kwargs activation_checkpointing_kwargs",
            "enable_gradient_checkpointing: true", used_if=_checkpoints,
              switch="training.enable_gradient_checkpointing"),
    *(
        no_effect("training", f.name, f.metadata["help"].removeprefix("Without effect: ").rstrip("."), who=OURS)
        for f in fields(ArgumentFields)
        if f.metadata["help"].startswith("Without effect: ")
    ),
    *(refused("training", name, advice, is_told=True) for name, (_, advice) in REFUSED_ARGUMENTS.items()),
)  # fmt: skip

_OPTIONS = (
    refused(KWARGS, "model_init_kwargs", "model_init_kwargs are not read", "write them under model.model_kwargs"),
    refused(KWARGS, "trust_remote_code", "trust_remote_code is not read here", "write model.trust_remote_code: true"),
    refused(KWARGS, "truncation_mode", "rows are cut at their end", "keep_start"),
    refused(KWARGS, "activation_offloading", "activation_offloading is not supported", "use gradient checkpointing"),
    refused(KWARGS, "router_aux_loss_coef", "router_aux_loss_coef is not supported", "leave it out", who=OUR_ROWS),
)  # fmt: skip

QUANTISED = "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage bnb_4bit_compute_dtype"
_LORA = (
    "lora_r lora_alpha lora_dropout lora_target_modules lora_exclude_modules lora_target_parameters "
    "lora_modules_to_save lora_bias lora_init_weights lora_task_type use_rslora use_dora rank_pattern alpha_pattern"
)
_REST = (
    refused("peft", _LORA, "adapters that are new (no model.adapter_model)",
            used_if=lambda c: c.model.adapter_model is None),
    refused("peft", "q_lora", "training.use_peft: true, and weights that are loaded",
            used_if=lambda c: c.training.use_peft and c.model.load_pretrained_weights),
    no_effect("peft", f"{_LORA} peft_save_mode", "training.use_peft: true",
              used_if=lambda c: c.training.use_peft, switch="training.use_peft"),
    no_effect("peft", f"q_lora_bits llm_int8_skip_modules {QUANTISED}", "q_lora: true",
              used_if=lambda c: c.peft.q_lora, switch="peft.q_lora"),
    no_effect("peft", QUANTISED, "q_lora_bits: 4", used_if=lambda c: c.peft.q_lora_bits == 4),
    refused("fsdp", "cpu_offload", "parameters stay on the device", "leave it out", is_told=True),
    no_effect("fsdp", _OF_THE_FIRST_FSDP, "FSDP2 gathers ahead by itself, all begin with the first process's weights, "
              "and each writes its own part"),
    refused("fsdp", "enable_fsdp", "several processes shard by training.fsdp", who=THEIRS, is_told=True),
    no_effect("fsdp", _names(FSDPParams, f"enable_fsdp cpu_offload {_OF_THE_FIRST_FSDP}"), "enable_fsdp: true",
              used_if=lambda c: c.fsdp.enable_fsdp, switch="fsdp.enable_fsdp"),
    no_effect("deepspeed", _names(DeepSpeedParams, "enable_deepspeed"), "enable_deepspeed: true",
              used_if=lambda c: c.deepspeed.enable_deepspeed, switch="deepspeed.enable_deepspeed"),
    no_effect("fsdp", "enable_fsdp", "several processes, which torchrun starts",
              used_if=lambda c: not current_world().is_alone),
    no_effect("deepspeed", "enable_deepspeed", "one process trains the whole model, and several are refused"),
)  # fmt: skip

LINES = (*_MODEL, *_DATA, *_TRAINING, *_OPTIONS, *_REST)

# A code model reads these keys (and its own Trainer decides as SFT does); every other one is refused.
READ_BY_OWN = (
    "model.model_name", "model.load_pretrained_weights", "model.model_kwargs", "data.train.datasets.*.dataset_name",
    "data.train.datasets.*.dataset_kwargs", "training.trainer_type", "training.output_dir", "training.optimizer",
    "training.warmup_ratio", "training.mixed_precision_dtype", "training.compile", "training.save_epoch",
    "training.enable_gradient_checkpointing", "training.empty_device_cache_steps", "training.save_final_model",
    "training.try_resume_from_last_checkpoint", "training.enable_wandb", "training.enable_mlflow",
    "training.enable_tensorboard", "training.use_deterministic", "training.nccl_default_timeout_minutes",
    "training.sgd_momentum", *_of("training", _names(ArgumentFields, "log_level")),
)  # fmt: skip
OWN = Line((), OWN_MODELS, Fate.REFUSED, "this model brings its own tokenizer, rows and weights", "leave it out")
