"""The section `training`: Oumi's keys with Oumi's defaults, and besides them every name of TrainingArguments."""

# mypy: disable-error-code="assignment"
# Fields are redeclared here that may hold more than those of TrainingArguments: None, until it is decided.

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any

from trainwright.args.training import ArgumentFields
from trainwright.config.unsupported import GkdParams, GoldParams, GrpoParams, ProfilerParams, TelemetryParams
from trainwright.errors import ConfigError

ARGUMENTS = tuple(f.name for f in fields(ArgumentFields))


class TrainerType(StrEnum):
    """Names of `trainer_type` for Python. `config/methods.py` has all of them: a name may also be given as a text."""

    SFT = "SFT"
    DPO = "DPO"
    PRETRAIN = "PRETRAIN"
    KTO = "KTO"
    REWARD = "REWARD"
    DISTILL = "DISTILL"
    CLASSIFY = "CLASSIFY"
    SEQ2SEQ = "SEQ2SEQ"
    GRPO = "GRPO"
    RLOO = "RLOO"
    OUMI = "OUMI"
    HF = "HF"
    TRL_SFT = "TRL_SFT"
    TRL_DPO = "TRL_DPO"
    TRL_KTO = "TRL_KTO"
    TRL_REWARD = "TRL_REWARD"
    TRL_GRPO = "TRL_GRPO"
    TRL_GKD = "TRL_GKD"
    TRL_GOLD = "TRL_GOLD"
    VERL_GRPO = "VERL_GRPO"


class MixedPrecisionDtype(Enum):
    """The number format of autocast."""

    NONE = "none"
    FP16 = "fp16"
    BF16 = "bf16"


@dataclass(repr=False)
class TrainingParams(ArgumentFields):
    """`training`. A field that is None here and has a second name is decided by that one.

    Attributes:
        trainer_type: the method, by its name in `config/methods.py`, in capitals or not; None is decided by the data.
        trainer_kwargs: settings of the method, see `config/options.py`; names of arguments among them are
            moved to the fields of these names.
    """

    trainer_type: str | None = None
    use_peft: bool = False
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)

    # Oumi's defaults, where they are not transformers'
    output_dir: str | None = None
    logging_steps: float = 50
    eval_steps: float | None = 500
    data_seed: int | None = 42
    log_level: str = "info"
    max_grad_norm: float | None = 1.0
    dataloader_num_workers: int | str = 0

    # None is decided by the kind of training
    include_num_input_tokens_seen: str | bool | None = None
    remove_unused_columns: bool | None = None

    # Oumi's names; the TrainingArguments name of the same thing is None until it is given
    optimizer: str = "adamw_torch"
    optim: str | None = None
    warmup_ratio: float | None = None
    warmup_steps: float | None = None
    sgd_momentum: float = 0.0
    mixed_precision_dtype: MixedPrecisionDtype = MixedPrecisionDtype.NONE
    bf16: bool | None = None
    fp16: bool | None = None
    compile: bool = False
    enable_gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = None
    empty_device_cache_steps: int | None = None
    save_epoch: bool = False
    save_strategy: str | None = None
    save_final_model: bool = True
    try_resume_from_last_checkpoint: bool = False
    enable_wandb: bool = False
    enable_mlflow: bool = False
    enable_tensorboard: bool = True
    report_to: None | str | list[str] = None
    logging_dir: str | None = None
    dep_log_level: str = "warning"
    log_examples: bool = False
    log_model_summary: bool = False
    include_performance_metrics: bool = False
    include_alternative_mfu_metrics: bool = False
    use_deterministic: bool = False
    nccl_default_timeout_minutes: float | None = None
    dataloader_main_process_only: bool | None = None
    label_ignore_index: int | None = None
    metrics_function: str | None = None
    reward_functions: list[str] | None = None
    reward_function_kwargs: dict[str, Any] = field(default_factory=dict)
    verl_config_overrides: dict[str, Any] = field(default_factory=dict)
    grpo: GrpoParams = field(default_factory=GrpoParams)
    gkd: GkdParams = field(default_factory=GkdParams)
    gold: GoldParams = field(default_factory=GoldParams)
    profiler: ProfilerParams = field(default_factory=ProfilerParams)
    telemetry: TelemetryParams = field(default_factory=TelemetryParams)

    def __post_init__(self) -> None:
        if self.trainer_type is not None:
            self.trainer_type = str(self.trainer_type).upper()
        arguments = {name: value for name, value in self.trainer_kwargs.items() if name in ARGUMENTS}
        if not arguments:
            return
        usual = TrainingParams()
        for name, value in arguments.items():
            if getattr(self, name) != getattr(usual, name):
                raise ConfigError(
                    f"training.{name} and training.trainer_kwargs.{name} are two names of one thing; give only one."
                )
            setattr(self, name, value)
        self.trainer_kwargs = {name: value for name, value in self.trainer_kwargs.items() if name not in arguments}
