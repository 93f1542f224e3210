"""Sections of Oumi's files for what this engine does not do: read and typed, so that a file loads, and refused when it
is switched on. The defaults are Oumi's."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass
class GrpoParams:
    """`training.grpo`."""

    model_init_kwargs: dict[str, Any] = field(default_factory=dict)
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    num_generations: int | None = None
    temperature: float = 0.9
    remove_unused_columns: bool = False
    repetition_penalty: float | None = 1.0
    use_vllm: bool = False
    vllm_mode: str | None = None
    vllm_gpu_memory_utilization: float = 0.9
    epsilon: float = 0.2
    log_completions: bool = False
    rollout_function: str | None = None


@dataclass
class GkdParams:
    """`training.gkd`."""

    teacher_model_name_or_path: str | None = None
    teacher_model_init_kwargs: dict[str, Any] = field(default_factory=lambda: {"dtype": "auto"})
    temperature: float = 0.9
    lmbda: float = 0.5
    beta: float = 0.5
    max_new_tokens: int = 128
    disable_dropout: bool = True
    seq_kd: bool = False


@dataclass
class GoldParams:
    """`training.gold`."""

    teacher_model_name_or_path: str | None = None
    teacher_model_init_kwargs: dict[str, Any] = field(default_factory=lambda: {"torch_dtype": "auto"})
    teacher_tokenizer_name_or_path: str | None = None
    temperature: float = 0.9
    top_p: float = 0.95
    top_k: int = 0
    lmbda: float = 0.5
    beta: float = 0.5
    max_completion_length: int = 128
    disable_dropout: bool = True
    seq_kd: bool = False
    use_uld_loss: bool = False
    use_extended_uld: bool = True
    uld_use_hybrid_loss: bool = False
    uld_hybrid_matched_weight: float | None = None
    uld_hybrid_unmatched_weight: float | None = None
    uld_crossentropy_weight: float = 0.0
    uld_distillation_weight: float = 1.0
    uld_student_temperature: float = 1.0
    uld_teacher_temperature: float = 1.0
    uld_skip_student_eos: bool = True
    uld_skip_teacher_eos: bool = True
    use_transformers_paged: bool = False
    use_vllm: bool = False
    vllm_mode: str = "server"
    vllm_server_host: str = "0.0.0.0"
    vllm_server_port: int = 8001
    vllm_server_timeout: float = 240.0
    vllm_gpu_memory_utilization: float = 0.9
    vllm_tensor_parallel_size: int = 1
    vllm_guided_decoding_regex: str | None = None
    vllm_sync_frequency: int = 1
    vllm_enable_sleep_mode: bool = False


@dataclass
class ProfilerScheduleParams:
    """`training.profiler.schedule`."""

    enable_schedule: bool = False
    wait: int = 0
    warmup: int = 1
    active: int = 3
    repeat: int = 1
    skip_first: int = 1


@dataclass
class ProfilerParams:
    """`training.profiler`."""

    save_dir: str | None = None
    enable_cpu_profiling: bool = False
    enable_cuda_profiling: bool = False
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False
    with_flops: bool = False
    with_modules: bool = False
    row_limit: int = 50
    schedule: ProfilerScheduleParams = field(default_factory=ProfilerScheduleParams)


@dataclass
class TelemetryParams:
    """`training.telemetry`; nothing is ever sent anywhere."""

    telemetry_dir: str | None = "telemetry"
    collect_telemetry_for_all_ranks: bool = False
    track_gpu_temperature: bool = False


class ShardingStrategy(Enum):
    """`fsdp.sharding_strategy`."""

    FULL_SHARD = "FULL_SHARD"
    SHARD_GRAD_OP = "SHARD_GRAD_OP"
    HYBRID_SHARD = "HYBRID_SHARD"
    NO_SHARD = "NO_SHARD"
    HYBRID_SHARD_ZERO2 = "HYBRID_SHARD_ZERO2"


class StateDictType(Enum):
    """`fsdp.state_dict_type`."""

    FULL_STATE_DICT = "FULL_STATE_DICT"
    SHARDED_STATE_DICT = "SHARDED_STATE_DICT"
    LOCAL_STATE_DICT = "LOCAL_STATE_DICT"


class BackwardPrefetch(Enum):
    """`fsdp.backward_prefetch`."""

    BACKWARD_PRE = "BACKWARD_PRE"
    BACKWARD_POST = "BACKWARD_POST"
    NO_PREFETCH = "NO_PREFETCH"


class AutoWrapPolicy(Enum):
    """`fsdp.auto_wrap_policy`."""

    SIZE_BASED_WRAP = "SIZE_BASED_WRAP"
    TRANSFORMER_BASED_WRAP = "TRANSFORMER_BASED_WRAP"
    NO_WRAP = "NO_WRAP"


@dataclass
class FSDPParams:
    """`fsdp`: a model that several processes share (FSDP2).

    Attributes:
        mixed_precision: the format in which parameters are gathered and used, and gradients added up: bf16, fp32.
        shard: processes that share one copy of the model; all of them where neither this nor `replicate` is given.
        replicate: copies of the model.
        tensor: processes that compute each layer together, on the same rows.
        reduce_gradients: when gradients are added up over the processes: once a step, or in every micro_batch.
        reduce_dtype: the format in which they are added up, where it is not `mixed_precision`.
    """

    enable_fsdp: bool = False
    sharding_strategy: ShardingStrategy = ShardingStrategy.FULL_SHARD
    cpu_offload: bool = False
    mixed_precision: str | None = None
    backward_prefetch: BackwardPrefetch = BackwardPrefetch.BACKWARD_PRE
    forward_prefetch: bool = False
    use_orig_params: bool | None = None
    state_dict_type: StateDictType = StateDictType.FULL_STATE_DICT
    auto_wrap_policy: AutoWrapPolicy = AutoWrapPolicy.TRANSFORMER_BASED_WRAP
    min_num_params: int = 100_000
    transformer_layer_cls: str | None = None
    sync_module_states: bool = True
    shard: int | None = None
    replicate: int | None = None
    tensor: int | None = None
    reduce_gradients: str = "step"
    reduce_dtype: str | None = None


class ZeRORuntimeStage(Enum):
    """`deepspeed.zero_stage`."""

    ZERO_0 = "0"
    ZERO_1 = "1"
    ZERO_2 = "2"
    ZERO_3 = "3"


class DeepSpeedPrecision(Enum):
    """`deepspeed.precision`."""

    FP16 = "fp16"
    BF16 = "bf16"


class DeepSpeedOffloadDevice(Enum):
    """Where DeepSpeed puts what does not fit."""

    CPU = "cpu"
    NVME = "nvme"


@dataclass
class OffloadConfig:
    """`deepspeed.offload_optimizer`, `deepspeed.offload_param`."""

    device: DeepSpeedOffloadDevice = DeepSpeedOffloadDevice.CPU
    pin_memory: bool = True
    buffer_count: int = 4
    buffer_count_nvme: int = 2
    block_size: int = 1048576
    queue_depth: int = 8
    single_submit: bool = False
    overlap_events: bool = True
    thread_count: int = 1


@dataclass
class DeepSpeedParams:
    """`deepspeed`: not supported."""

    enable_deepspeed: bool = False
    deepspeed_config_path: str | None = None
    zero_stage: ZeRORuntimeStage = ZeRORuntimeStage.ZERO_0
    offload_optimizer: OffloadConfig | None = None
    offload_param: OffloadConfig | None = None
    precision: DeepSpeedPrecision | None = None
    overlap_comm: bool = False
    contiguous_gradients: bool = True
    reduce_bucket_size: int | str = 500_000_000
    allgather_bucket_size: int = 500_000_000
    allgather_partitions: bool = True
    reduce_scatter: bool = True
    round_robin_gradients: bool = False
    stage3_prefetch_bucket_size: int | str = 50_000_000
    stage3_param_persistence_threshold: int | str = 100_000
    stage3_max_live_parameters: int = 1_000_000_000
    stage3_max_reuse_distance: int = 1_000_000_000
    stage3_gather_16bit_weights_on_model_save: bool = False
    sub_group_size: int = 1_000_000_000
    train_batch_size: int | str = "auto"
    train_micro_batch_size_per_gpu: int | str = "auto"
    gradient_accumulation_steps: int | str = "auto"
    gradient_clipping: float | str = "auto"
    zero_allow_untested_optimizer: bool = True
    zero_force_ds_cpu_optimizer: bool = True
    activation_checkpointing: dict[str, Any] = field(default_factory=dict)
    memory_efficient_linear: bool = False
    steps_per_print: int = 10
    wall_clock_breakdown: bool = False
