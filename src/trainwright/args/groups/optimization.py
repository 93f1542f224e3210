"""Arguments of the update itself: how long, how fast, by which optimizer, in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainwright.args.groups.option import flag, option


@dataclass
class Duration:
    """How much data is seen."""

    per_device_train_batch_size: int = option(8, "Rows of one micro-batch on one device.")
    gradient_accumulation_steps: int = option(1, "Micro-batches of one optimizer step on one device.")
    num_train_epochs: float = option(3.0, "Passes over the data, where max_steps does not say otherwise.")
    max_steps: int = option(-1, "Optimizer steps in all; overrides num_train_epochs when positive.")
    max_train_time: float | str | None = option(
        None, "Save and leave after this time, such as '8h', '30m' or seconds; a resumed run has it anew."
    )
    allow_batch_change: bool = option(
        False, "Let a resumed run go on with another batch size, seed or sampling than its checkpoint."
    )
    allow_data_change: bool = option(False, "Let a resumed run go on with other training data than its checkpoint.")


@dataclass
class LearningRate:
    """The learning rate and its course."""

    learning_rate: float = option(5e-5, "Peak learning rate.")
    lr_scheduler_type: str = option("linear", "Course of the learning rate, by transformers' names.")
    lr_scheduler_kwargs: dict[str, Any] | str | None = option(None, "Further settings of the scheduler.")
    warmup_steps: float = option(0, "Steps of linear warm-up; below 1, a share of all steps.")


@dataclass
class OptimizerChoice:
    """The optimizer."""

    optim: str = option("adamw_torch_fused", "Optimizer, by transformers' names; `adamw_bf16` and `muon` besides.")
    optim_args: str | None = option(None, "Further settings of the optimizer: 'key=value,key=value'.")
    optim_target_modules: None | str | list[str] = option(None, "Modules that GaLore and APOLLO optimize.")
    weight_decay: float = option(0.0, "Decoupled weight decay; never on biases and norms.")
    adam_beta1: float = option(0.9, "First beta of Adam optimizers.")
    adam_beta2: float = option(0.999, "Second beta of Adam optimizers.")
    adam_epsilon: float = option(1e-8, "Epsilon of Adam optimizers.")


@dataclass
class Stability:
    """Clipping and regularisation."""

    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm; 0 for no clipping.")
    ema_decay: float | None = option(
        None,
        "Keep a moving average of the weights with this decay; it is evaluated, saved and left in the model when "
        "training ends. A checkpoint's `ema.pt` holds the last step's weights, with which a resumed run goes on.",
    )
    max_skipped_steps: int = option(10, "Stop when so many steps in a row had no finite loss and gradient.")
    spike_factor: float | None = option(None, "Report the rows of a step whose loss is so many times the usual.")
    label_smoothing_factor: float = option(0.0, "Share of the target probability spread over all classes.")
    neftune_noise_alpha: float | None = option(None, "Scale of NEFTune's noise on the embeddings.")
    average_tokens_across_devices: bool = option(True, "Always true: the loss is one sum over one count.")


@dataclass
class Precision:
    """Number formats."""

    bf16: bool = option(False, "Compute in bfloat16 where it is safe (autocast).")
    fp16: bool = option(False, "Compute in float16 with a loss scaler; float32 on a CPU.")
    bf16_full_eval: bool = option(False, "Cast the model to bfloat16 for evaluation.")
    fp16_full_eval: bool = option(False, "Cast the model to float16 for evaluation.")
    tf32: bool | None = option(None, "Allow TensorFloat-32 matrix products on Ampere and later GPUs.")


@dataclass
class Compute:
    """Memory against time, and compilation."""

    activation_checkpointing: bool | None = flag(None, "Recompute activations in the backward pass.")
    activation_checkpointing_kwargs: dict[str, Any] | str | None = option(
        None,
        "Settings of the recomputation, such as use_reentrant; `every`: of so many layers one recomputes; `offload`: "
        "its inputs wait in host memory; `memory_budget`: the share of activations that compiled layers keep, 0 to 1.",
    )
    gradient_checkpointing: bool | None = flag(None, "The older name of activation_checkpointing.")
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = option(
        None, "The older name of activation_checkpointing_kwargs."
    )
    torch_compile: bool | str = option(
        False, "Compile the model with torch.compile; `layers`: its layers one by one, as one graph."
    )
    torch_compile_backend: str | None = option(None, "Backend of torch.compile; switches it on.")
    torch_compile_mode: str | None = option(None, "Mode of torch.compile; switches it on.")
    use_fused_loss: bool = option(True, "Compute a causal model's loss at labelled positions, without the logits.")
    use_liger_kernel: bool = option(False, "Compute norms, rotary positions and gated products by Liger, on a GPU.")
    liger_kernel_config: dict[str, bool] | None = option(
        None,
        "Which of Liger's kernels, by its names; those of the loss are left out, for ours builds no logits either.",
    )
    use_cache: bool = option(False, "Let the model keep a key-value cache in training.")
    torch_empty_cache_steps: int | None = option(None, "Empty the device's memory cache every so many steps.")
    auto_find_batch_size: bool = option(False, "Compute micro-batches in smaller pieces when memory runs out.")
