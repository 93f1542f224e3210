"""What a run's YAML file may hold. The section and key names are Oumi's, and so are their defaults.

`TrainingConfig` is the whole file. Everything under `training` is in `config.params`, and what belongs to trainers
that are not ours in `config.elsewhere`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from trainwright.config.params import TrainingParams
from trainwright.config.unsupported import DeepSpeedParams, FSDPParams

SECTIONS = ["data", "model", "training", "peft", "fsdp", "deepspeed"]


@dataclass
class ModelParams:
    """Which model is trained, and how it is loaded.

    Attributes:
        model_name: a folder, a name on the hub, or with load_pretrained_weights false a model type of transformers.
        load_pretrained_weights: false starts from random weights, from the configuration and model_kwargs.
        chat_template: a file, the folder of a tokenizer, or a name of `data/text/named_templates.py`; auto.
        model_kwargs: for from_pretrained, or with random weights for the model's configuration.
        new_special_tokens: tokens that the tokenizer gets besides its own; the model's embeddings grow with them.
    """

    model_name: str | None = None
    adapter_model: str | None = None
    tokenizer_name: str | None = None
    tokenizer_pad_token: str | None = None
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    new_special_tokens: list[str] = field(default_factory=list)
    processor_kwargs: dict[str, Any] = field(default_factory=dict)
    model_max_length: int | None = None
    load_pretrained_weights: bool = True
    trust_remote_code: bool = False
    torch_dtype_str: str = "auto"
    compile: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    attn_implementation: str | None = None
    device_map: str | None = "auto"
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    enable_liger_kernel: bool = False
    shard_for_eval: bool = False
    freeze_layers: list[str] = field(default_factory=list)
    model_revision: str | None = None
    tool_call_parser: str | None = None


class MixtureStrategy(Enum):
    """When a mixture of datasets ends."""

    FIRST_EXHAUSTED = "first_exhausted"
    ALL_EXHAUSTED = "all_exhausted"


class TrainTarget(Enum):
    """Which turns of a conversation are learned."""

    ALL_ASSISTANT_TURNS = "all_assistant_turns"
    FINAL_ASSISTANT_TURN = "final_assistant_turn"


@dataclass
class DatasetParams:
    """One dataset.

    Attributes:
        dataset_name: a file, a folder, a name on the hub, a format (json, csv, parquet, ...) with dataset_path, a name
            of `data/sources/registered.py`, or python_source.
        column_map: what columns of the rows are called here, such as `{question: prompt, answer: completion}`.
        mixture_proportion: share of the rows drawn from this dataset; for all datasets of a split or none.
        shuffle_buffer_size: rows of a stream that are shuffled among each other.
    """

    dataset_name: str | None = None
    dataset_path: str | None = None
    subset: str | None = None
    split: str = "train"
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    column_map: dict[str, str] = field(default_factory=dict)
    sample_count: int | None = None
    mixture_proportion: float | None = None
    shuffle: bool = False
    seed: int | None = None
    shuffle_buffer_size: int = 1000
    trust_remote_code: bool = False
    transform_num_workers: str | int | None = None


@dataclass
class DatasetSplitParams:
    """The datasets of one split, and how they become rows of tokens."""

    datasets: list[DatasetParams] = field(default_factory=list)
    collator_name: str | None = None
    collator_kwargs: dict[str, Any] = field(default_factory=dict)
    train_target: TrainTarget | None = None
    pack: bool | None = None
    stream: bool = False
    target_col: str | None = None
    mixture_strategy: MixtureStrategy = MixtureStrategy.FIRST_EXHAUSTED
    seed: int | None = None
    use_torchdata: bool | None = None


@dataclass
class DataParams:
    """What is learned from, and what it is evaluated on."""

    train: DatasetSplitParams = field(default_factory=DatasetSplitParams)
    test: DatasetSplitParams = field(default_factory=DatasetSplitParams)
    validation: DatasetSplitParams = field(default_factory=DatasetSplitParams)


class PeftSaveMode(Enum):
    """What is saved at the end of a run with adapters."""

    ADAPTER_ONLY = "adapter_only"
    ADAPTER_AND_BASE_MODEL = "adapter_and_base_model"
    MERGED = "merged"


@dataclass
class PeftParams:
    """Low-rank adapters (LoRA), trained in place of the model's weights when training.use_peft is true."""

    lora_r: int = 8
    lora_alpha: int = 8
    lora_dropout: float = 0.0
    lora_target_modules: list[str] | str | None = None
    lora_exclude_modules: list[str] | str | None = None
    lora_target_parameters: list[str] | None = None
    lora_modules_to_save: list[str] | None = None
    lora_bias: str = "none"
    lora_init_weights: str | bool = "default"
    lora_task_type: str = "CAUSAL_LM"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    q_lora: bool = False
    q_lora_bits: int = 4
    bnb_4bit_quant_type: str = "fp4"
    llm_int8_skip_modules: list[str] | None = None
    use_bnb_nested_quant: bool = False
    bnb_4bit_quant_storage: str = "uint8"
    bnb_4bit_compute_dtype: str = "float32"
    peft_save_mode: PeftSaveMode = PeftSaveMode.ADAPTER_ONLY

    def __post_init__(self) -> None:
        if isinstance(self.lora_init_weights, str):  # Oumi's are names of an enumeration, in capitals
            self.lora_init_weights = self.lora_init_weights.lower()


@dataclass
class TrainingConfig:
    """A whole run: the six sections of a file."""

    data: DataParams = field(default_factory=DataParams)
    model: ModelParams = field(default_factory=ModelParams)
    training: TrainingParams = field(default_factory=TrainingParams)
    peft: PeftParams = field(default_factory=PeftParams)
    fsdp: FSDPParams = field(default_factory=FSDPParams)
    deepspeed: DeepSpeedParams = field(default_factory=DeepSpeedParams)
