"""Bringing a model into the form it is trained or evaluated in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainwright.errors import ConfigError
from trainwright.models.inspect import base_model, is_pretrained

if TYPE_CHECKING:
    from trainwright.engine.trainer import Trainer


def training_model(trainer: Trainer) -> nn.Module:
    """Return the module whose forward the loop calls: checkpointed, compiled and spread, as the arguments say."""
    args, model = trainer.args, trainer.model
    inner = base_model(model)
    if args.activation_checkpointing:
        checkpoint_activations(inner, args.activation_checkpointing_kwargs or {"use_reentrant": False})
    if is_pretrained(inner) and hasattr(inner.config, "use_cache"):
        inner.config.use_cache = args.use_cache
    if args.neftune_noise_alpha is not None:
        _add_noise(trainer, inner)
    wrapped = trainer.strategy.prepare(model)
    if args.torch_compile:
        wrapped = torch.compile(  # type: ignore[assignment]
            wrapped, backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode
        )
    return wrapped


def checkpoint_activations(model: nn.Module, settings: Any) -> None:
    """Let a model recompute its activations in the backward pass.

    Raises:
        ConfigError: the model cannot.
    """
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        enable = getattr(model, name, None)
        if enable is not None:
            enable(settings)
            return
    raise ConfigError(
        f"activation_checkpointing needs a model that supports it; {type(model).__name__} has no "
        "activation_checkpointing_enable. Use torch.utils.checkpoint in its forward instead."
    )


def _add_noise(trainer: Trainer, model: nn.Module) -> None:
    """Add uniform noise to embeddings in training, up to alpha / sqrt(length × width) (NEFTune, arXiv:2310.05914)."""
    alpha = trainer.args.neftune_noise_alpha
    if trainer.noise is not None:
        trainer.noise.remove()

    def noisy(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        bound = alpha / (output.size(1) * output.size(2)) ** 0.5
        return output + torch.zeros_like(output).uniform_(-bound, bound)

    trainer.noise = model.get_input_embeddings().register_forward_hook(noisy)  # type: ignore[operator]


def train_mode(trainer: Trainer, training: bool) -> None:
    """Switch model and optimizer between training and evaluation; some optimizers average weights for the latter."""
    for part in (trainer.model_wrapped, trainer.optimizer):
        switch = getattr(part, "train" if training else "eval", None)
        if switch is not None:
            switch()


def full_evaluation_type(args: Any) -> torch.dtype | None:
    """Return the number format that the whole model is cast to for evaluation outside of training, or None."""
    return torch.float16 if args.fp16_full_eval else torch.bfloat16 if args.bf16_full_eval else None
