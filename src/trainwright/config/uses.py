"""What becomes of every key of a run's file, by who trains: this table decides.

`check` and the loader refuse what it refuses and say what has no effect, the schema for editors marks it, docs/keys.md
shows it, and a test sees a value of every other key arrive where it is used. A key without a line is used by all.

Refused is what would change a number, a file or a device and does not; what would change none of these is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from trainwright.args.names import METRIC_SCHEDULERS
from trainwright.args.refusals import REFUSED as REFUSED_ARGUMENTS
from trainwright.args.training import ArgumentFields
from trainwright.config.elsewhere import DeepSpeedParams, FSDPParams
from trainwright.config.options import DIVERGING, DPOOptions, SFTOptions
from trainwright.config.schema import TrainingConfig, TrainTarget

OWN_MODELS = ("ngram_llama",)  # a model with a Trainer and data of its own
OURS, PAIRS = ("SFT", "PRETRAIN", "DPO"), ("DPO", "TRL_DPO")
THEIRS = ("HF", "TRL_SFT", "TRL_DPO")
ALL = (*OURS, *THEIRS)
TRAINERS = (*ALL, *OWN_MODELS)
_OURS_HF, _NOT_TRL = (*OURS, "HF"), ("SFT", "PRETRAIN", "HF")
_SUPERVISED = (*_NOT_TRL, "TRL_SFT")
_WITHOUT_SETTINGS = (
    "adamw_torch_fused", "adamw_bnb", "adamw_8bit", "paged_adamw", "lion", "paged_lion", "adafactor",
)  # fmt: skip
_SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # losses of preferences with label_smoothing
_NO_WARMUP = ("constant", *METRIC_SCHEDULERS)
# Sections that are one key here: what they are for is not done.
WHOLE = ("data.test", *(f"training.{name}" for name in ("grpo", "gkd", "gold", "profiler", "telemetry")))
_KWARGS = "training.trainer_kwargs"
_TABLE = "a table (no stream: true), which is tokenised before"


class Fate(Enum):
    """What becomes of a key that is given."""

    USED = "used"
    NO_EFFECT = "no effect"
    REFUSED = "refused"


@dataclass(frozen=True, eq=False)
class Line:
    """What some trainers do with some keys, in place of using them.

    Attributes:
        keys: dotted names; a dataset's are `data.train.datasets.*.name`.
        trainers: who does so.
        fate: REFUSED or NO_EFFECT.
        why: the reason; where there is `used_if`, the condition under which the keys are used.
        instead: what to do.
        used_if: whether a configuration, or a section of a task's file, fulfils the condition.
        switch: the key that the condition is about; where a file gives it, nothing is said.
        fine: values that are what is done anyway, besides the default.
        is_told: another check tells it; the table only shows it.
    """

    keys: tuple[str, ...]
    trainers: tuple[str, ...]
    fate: Fate
    why: str
    instead: str = ""
    used_if: Callable[[Any], Any] | None = None
    switch: str = ""
    fine: tuple[Any, ...] = ()
    is_told: bool = False

    @property
    def allows(self) -> str:
        """The values that are taken for all that, and mean something."""
        return ", ".join(str(getattr(one, "name", one)) for one in self.fine if one and not isinstance(one, dict))

    @property
    def text(self) -> str:
        """What stands in a table."""
        if self.used_if is not None:
            return f"used with {self.why}, else {self.fate.value}"
        what = f"{self.why}; {self.instead}" if self.instead else self.why
        return f"{self.fate.value}{f', but for {self.allows}' if self.allows else ''}: {what}"


def _of(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


def _refused(section: str, names: str, trainers: tuple[str, ...], why: str, instead: str = "", **more: Any) -> Line:
    return Line(_of(section, names), trainers, Fate.REFUSED, why, instead, **more)


def _no_effect(section: str, names: str, trainers: tuple[str, ...], why: str, **more: Any) -> Line:
    return Line(_of(section, names), trainers, Fate.NO_EFFECT, why, **more)


def _kwarg(name: str) -> Callable[[TrainingConfig], bool]:
    return lambda config: bool(config.training.trainer_kwargs.get(name))


def _losses(config: TrainingConfig) -> list[str]:
    given = config.training.trainer_kwargs.get("loss_type") or "sigmoid"
    return [given] if isinstance(given, str) else list(given)


def _all_diverge(config: TrainingConfig) -> bool:
    measured = [name for name in _losses(config) if name != "sft"]
    return bool(measured) and all(name in DIVERGING for name in measured)


def _optimizer(config: TrainingConfig) -> str:
    return config.training.optim or config.training.optimizer


def _packs(config: TrainingConfig) -> bool:
    return bool(config.training.trainer_kwargs.get("packing") or config.data.train.pack)


def _has_proportions(config: TrainingConfig) -> bool:
    splits = (config.data.train, config.data.validation)
    return any(one.mixture_proportion is not None for split in splits for one in split.datasets)


def _streams(config: TrainingConfig) -> bool:
    return config.data.train.stream or config.data.validation.stream


def _is_table(split: str) -> Callable[[TrainingConfig], bool]:
    return lambda config: not getattr(config.data, split.removeprefix("data.")).stream


def _tokenises_before(config: TrainingConfig) -> bool:
    splits = (config.data.train, config.data.validation)
    return any(split.datasets and not split.stream for split in splits)


def _shuffles(config: TrainingConfig) -> bool:
    return any(one.shuffle for split in (config.data.train, config.data.validation) for one in split.datasets)


def _checkpoints(config: TrainingConfig) -> bool:
    one = config.training
    return bool(one.enable_gradient_checkpointing or one.gradient_checkpointing or one.activation_checkpointing)


def _smooths(config: TrainingConfig) -> bool:
    chosen = config.training.trainer_kwargs.get("loss_type")
    return any(one in _SMOOTHED for one in ([chosen] if isinstance(chosen, str) else chosen or ()))


def _as_in_training(name: str) -> Callable[[TrainingConfig], bool]:
    return lambda config: getattr(config.data.validation, name) == getattr(config.data.train, name)


def _names(kind: Any, without: str = "") -> str:
    return " ".join(f.name for f in fields(kind) if f.name not in without.split())


_MODEL = (
    _refused("model", "processor_kwargs", ALL, "models of images and sound are not supported from a file",
             "leave it out"),
    _refused("model", "compile", ALL, "the model is compiled by training.compile", "write training.compile: true"),
    _refused("model", "enable_liger_kernel", ALL, "Liger's kernels are not supported",
             "leave it out: the loss is fused anyway"),
    _refused("model", "device_map", ALL, "every process has one device, and the whole model on it",
             "leave it out; training.use_cpu: true trains on the CPU", fine=(None,)),
    _refused("model", "adapter_model", ALL, "training.use_peft: true", used_if=lambda c: c.training.use_peft),
    _no_effect("model", "shard_for_eval tool_call_parser", ALL, "it is read by Oumi's evaluation and inference"),
)  # fmt: skip

_DATA = (
    Line(("data.test",), ALL, Fate.NO_EFFECT, "nothing is tested after training"),
    *(
        line
        for split in ("data.train", "data.validation")
        for line in (
            _refused(split, "collator_kwargs", ALL, "collator_kwargs are not read", "leave them out"),
            _refused(split, "collator_name", PAIRS, "of a pair both answers are learned", "leave it out",
                     fine=("text_with_padding",)),
            _refused(split, "train_target", PAIRS, "of a pair both answers are learned", "leave it out"),
            _refused(split, "collator_name", ("PRETRAIN",), "PRETRAIN learns every token", "use trainer_type SFT",
                     fine=("text_with_padding",)),
            _refused(split, "train_target", ("PRETRAIN",), "PRETRAIN learns every token", "use trainer_type SFT"),
            _refused(split, "train_target", ("TRL_SFT",), "TRL learns all of the assistant's turns",
                     "ALL_ASSISTANT_TURNS, or trainer_type SFT", fine=(TrainTarget.ALL_ASSISTANT_TURNS,)),
            _refused(split, "pack", PAIRS, "pairs are not packed", "leave it out", fine=(False,)),
            _refused(split, "target_col", PAIRS, "pairs stand in 'chosen' and 'rejected'", "leave it out"),
            _refused(split, "stream", (*THEIRS, "DPO"), "streams of texts are read by our own trainers only",
                     f"write {split}.stream: false"),
            _no_effect(split, "use_torchdata", ALL, "torch's own DataLoader reads"),
            _no_effect(split, "mixture_strategy seed", ALL, "mixture_proportion", used_if=_has_proportions),
            _no_effect(f"{split}.datasets.*", "trust_remote_code", ALL, "code that comes with data is not run"),
            _no_effect(f"{split}.datasets.*", "seed", ALL, "shuffle: true", used_if=_shuffles),
            _no_effect(f"{split}.datasets.*", "shuffle_buffer_size", ALL, "stream: true and shuffle: true",
                       used_if=lambda c: _streams(c) and _shuffles(c)),
            _no_effect(f"{split}.datasets.*", "transform_num_workers", ("SFT", "PRETRAIN"), _TABLE,
                       used_if=_is_table(split)),
        )
    ),
    *(
        _refused("data.validation", name, ALL, f"the same {name} in data.train",
                 used_if=_as_in_training(name))
        for name in ("collator_name", "train_target", "pack", "target_col")
    ),
)  # fmt: skip

_TRAINING = (
    _refused("training", "allow_batch_change allow_data_change ema_decay max_skipped_steps max_train_time spike_factor "
             "use_fused_loss", THEIRS, "our own trainers alone have it", "leave it out, or train with SFT or DPO"),
    _refused("training", "label_smoothing_factor", PAIRS, "pairs have no classes",
             "training.trainer_kwargs.label_smoothing is that of preferences"),
    _refused("training", "train_sampling_strategy", ("TRL_DPO",), "TRL's pairs have no lengths to group by",
             "random or sequential, or trainer_type DPO", fine=("random", "sequential")),
    _refused("training", "sgd_momentum", ALL, "optimizer: sgd", used_if=lambda c: _optimizer(c) == "sgd"),
    _refused("training", "optim_args", ALL, "an optimizer that has further settings (not AdamW, Lion or Adafactor)",
             used_if=lambda c: _optimizer(c) != "adamw_torch" and not _optimizer(c).startswith(_WITHOUT_SETTINGS)),
    _refused("training", "optim_target_modules", ALL, "optim: galore_* or apollo_*",
             used_if=lambda c: _optimizer(c).startswith(("galore", "apollo"))),
    _no_effect("training", "adam_epsilon", ALL, "an Adam optimizer",
               used_if=lambda c: "adam" in _optimizer(c) or "ademamix" in _optimizer(c)),
    _no_effect("training", "adam_beta1 adam_beta2", ALL, "an Adam optimizer, or Lion",
               used_if=lambda c: not _optimizer(c).startswith(("sgd", "adagrad", "rmsprop", "adafactor"))),
    _refused("training", "warmup_ratio warmup_steps", ALL,
             f"an lr_scheduler_type that warms up, such as constant_with_warmup (not {', '.join(_NO_WARMUP)})",
             used_if=lambda c: c.training.lr_scheduler_type not in _NO_WARMUP, fine=(0,)),
    _refused("training", "dataloader_main_process_only", ALL, "every process reads its own rows", "leave it out",
             fine=(False,)),
    _refused("training", "label_ignore_index", ALL, "the label that is no target is -100", "leave it out",
             fine=(-100,)),
    _refused("training", "metrics_function", ALL, "metrics_function is not supported", "leave it out"),
    _refused("training", "reward_functions reward_function_kwargs grpo", ALL, "it is of trainer_type TRL_GRPO",
             "leave it out"),
    _refused("training", "gkd", ALL, "it is of trainer_type TRL_GKD", "leave it out"),
    _refused("training", "gold", ALL, "it is of trainer_type TRL_GOLD", "leave it out"),
    _refused("training", "verl_config_overrides", ALL, "it is of trainer_type VERL_GRPO", "leave it out"),
    _refused("training", "profiler", ALL, "valid, but the profiler is not supported yet",
             "use torch.profiler in a callback"),
    _no_effect("training", "telemetry", ALL, "nothing is measured for it, and nothing is ever sent"),
    _no_effect("training", "include_alternative_mfu_metrics", ALL, "no such figure is made"),
    _no_effect("training", "include_performance_metrics", OURS, "tokens and speed are logged anyway"),
    _no_effect("training", "log_examples log_model_summary", THEIRS, "our own trainers show it"),
    _no_effect("training", "remove_unused_columns", _OURS_HF, "rows of tokens have the columns that are used",
               fine=(False,)),
    _no_effect("training", "length_column_name", _OURS_HF, "rows of tokens know their lengths"),
    _no_effect("training", "include_for_metrics batch_eval_metrics", ALL, "a file has no compute_metrics"),
    _no_effect("training", "do_train do_eval do_predict local_rank", ALL, "scripts read it"),
    _no_effect("training", "eval_steps", ALL, "eval_strategy: steps",
               used_if=lambda c: c.training.eval_strategy == "steps"),
    _no_effect("training", "eval_delay metric_for_best_model greater_is_better", ALL,
               "eval_strategy: steps or epoch",
               used_if=lambda c: c.training.eval_strategy != "no" or c.training.eval_on_start),
    _no_effect("training", "save_steps", ALL, "save_strategy: steps",
               used_if=lambda c: c.training.save_strategy in (None, "steps") and not c.training.save_epoch),
    _no_effect("training", "bf16_full_eval fp16_full_eval", ALL,
               "it is for evaluations outside of training, which a file has not"),
    _no_effect("training", "dataloader_multiprocessing_context dataloader_in_order", ALL, "dataloader_num_workers",
               used_if=lambda c: c.training.dataloader_num_workers != 0),
    _refused("training", "dataloader_persistent_workers", ALL, "dataloader_num_workers above 0",
             used_if=lambda c: c.training.dataloader_num_workers != 0),
    _no_effect("training", "logging_steps", ALL, "logging_strategy: steps",
               used_if=lambda c: c.training.logging_strategy == "steps"),
    _no_effect("training", "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision", ALL,
               "push_to_hub: true", used_if=lambda c: c.training.push_to_hub, switch="training.push_to_hub"),
    _no_effect("training", "trackio_space_id trackio_bucket_id trackio_static_space_id", ALL, "report_to: trackio",
               used_if=lambda c: "trackio" in (c.training.report_to or ())),
    _no_effect("training", "gradient_checkpointing_kwargs activation_checkpointing_kwargs", ALL,
               "enable_gradient_checkpointing: true", used_if=_checkpoints,
               switch="training.enable_gradient_checkpointing"),
    *(
        _no_effect("training", f.name, OURS, f.metadata["help"].removeprefix("Without effect: ").rstrip("."))
        for f in fields(ArgumentFields)
        if f.metadata["help"].startswith("Without effect: ")
    ),
    *(_refused("training", name, ALL, advice, is_told=True) for name, (_, advice) in REFUSED_ARGUMENTS.items()),
)  # fmt: skip

_OPTIONS = (
    _refused(_KWARGS, "model_init_kwargs", ALL, "model_init_kwargs are not read",
             "write them under model.model_kwargs"),
    _refused(_KWARGS, "trust_remote_code", ALL, "trust_remote_code is not read here",
             "write model.trust_remote_code: true"),
    _refused(_KWARGS, "truncation_mode", ALL, "rows are cut at their end", "keep_start"),
    _refused(_KWARGS, "activation_offloading", ALL, "activation_offloading is not supported",
             "use gradient checkpointing"),
    _refused(_KWARGS, "router_aux_loss_coef", _OURS_HF, "router_aux_loss_coef is not supported", "leave it out"),
    _refused(_KWARGS, "loss_type", _SUPERVISED, "nll is the only loss", "leave it out"),
    _refused(_KWARGS, "completion_only_loss assistant_only_loss", ("PRETRAIN",), "PRETRAIN learns every token",
             "use trainer_type SFT", fine=(False,)),
    _no_effect(_KWARGS, "dataset_num_proc", ("SFT", "PRETRAIN"), _TABLE, used_if=_tokenises_before),
    _refused(_KWARGS, "shuffle_dataset", _NOT_TRL, "every pass is shuffled anew already",
             "data.train.datasets[].shuffle"),
    _refused(_KWARGS, "dataset_kwargs", _NOT_TRL, "dataset_kwargs are not read", "rows of tokens are taken as they are",
             fine=({"skip_prepare_dataset": True}, {"skip_prepare_dataset": False})),
    _refused(_KWARGS, "eval_packing", _NOT_TRL, "packing: true", used_if=_packs, fine=(False,)),
    _no_effect(_KWARGS, "packing_strategy", _SUPERVISED, "packing: true", used_if=_packs),
    _no_effect(_KWARGS, "pad_to_multiple_of", _NOT_TRL, "rows that are padded (no packing, no padding_free)",
               used_if=lambda c: not _packs(c) and not c.training.trainer_kwargs.get("padding_free")),
    _no_effect(_KWARGS, "padding_free", ("DPO",), "pairs are flattened where that is quicker"),
    _refused(_KWARGS, "sync_ref_model ref_model_mixup_alpha ref_model_sync_steps", PAIRS,
             "sync_ref_model is not supported", "leave it out"),
    _refused(_KWARGS, "ref_model", ("TRL_DPO",), "the reference is the start of the run", "use trainer_type DPO"),
    _refused(_KWARGS, "f_divergence_type", PAIRS, f"a loss_type that reads it ({', '.join(DIVERGING)})",
             used_if=_all_diverge),
    _refused(_KWARGS, "beta", PAIRS, "another loss_type than sft", used_if=lambda c: set(_losses(c)) != {"sft"}),
    _no_effect(_KWARGS, "f_alpha_divergence_coef", PAIRS, "f_divergence_type: alpha_divergence",
               used_if=lambda c: c.training.trainer_kwargs.get("f_divergence_type") == "alpha_divergence"),
    _refused(_KWARGS, "label_smoothing", PAIRS, f"loss_type: {' or '.join(_SMOOTHED)}", used_if=_smooths),
    _no_effect(_KWARGS, "discopop_tau", PAIRS, "loss_type: discopop",
               used_if=lambda c: "discopop" in c.training.trainer_kwargs.get("loss_type", ())),
    _no_effect(_KWARGS, "precompute_ref_batch_size", PAIRS, "precompute_ref_log_probs: true",
               used_if=_kwarg("precompute_ref_log_probs"), switch=f"{_KWARGS}.precompute_ref_log_probs"),
    *(
        _refused(_KWARGS, " ".join(f.name for f in fields(kind) if f.name not in {o.name for o in fields(other)}),
                 trainers, f"it is a setting of {what}", is_told=True)
        for kind, other, trainers, what in (
            (DPOOptions, SFTOptions, _SUPERVISED, "preference optimisation"),
            (SFTOptions, DPOOptions, PAIRS, "supervised fine-tuning"),
        )
    ),
)  # fmt: skip

QUANTISED = "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage bnb_4bit_compute_dtype"
_LORA = (
    "lora_r lora_alpha lora_dropout lora_target_modules lora_exclude_modules lora_target_parameters "
    "lora_modules_to_save lora_bias lora_init_weights lora_task_type use_rslora use_dora rank_pattern alpha_pattern"
)
_REST = (
    _refused("peft", _LORA, ALL, "adapters that are new (no model.adapter_model)",
             used_if=lambda c: c.model.adapter_model is None),
    _refused("peft", "lora_bias", ("TRL_DPO",),
             "TRL's reference is a second adapter, beside which none may have biases", "none"),
    _refused("peft", "q_lora", ALL, "training.use_peft: true, and weights that are loaded",
             used_if=lambda c: c.training.use_peft and c.model.load_pretrained_weights),
    _no_effect("peft", "lora_dropout", PAIRS, "training.trainer_kwargs.disable_dropout: false",
               used_if=lambda c: c.training.trainer_kwargs.get("disable_dropout") is False),
    _no_effect("peft", f"{_LORA} peft_save_mode", ALL, "training.use_peft: true",
               used_if=lambda c: c.training.use_peft, switch="training.use_peft"),
    _no_effect("peft", f"q_lora_bits llm_int8_skip_modules {QUANTISED}", ALL, "q_lora: true",
               used_if=lambda c: c.peft.q_lora, switch="peft.q_lora"),
    _no_effect("peft", QUANTISED, ALL, "q_lora_bits: 4", used_if=lambda c: c.peft.q_lora_bits == 4),
    _no_effect("fsdp", _names(FSDPParams, "enable_fsdp"), ALL, "enable_fsdp: true",
               used_if=lambda c: c.fsdp.enable_fsdp, switch="fsdp.enable_fsdp"),
    _no_effect("deepspeed", _names(DeepSpeedParams, "enable_deepspeed"), ALL, "enable_deepspeed: true",
               used_if=lambda c: c.deepspeed.enable_deepspeed, switch="deepspeed.enable_deepspeed"),
    _refused("fsdp", "enable_fsdp", ALL, "valid, but fsdp is not supported yet", "start it under torchrun (DDP)"),
    _refused("deepspeed", "enable_deepspeed", ALL, "valid, but deepspeed is not supported yet",
             "start it under torchrun (DDP)"),
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
