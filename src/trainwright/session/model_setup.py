"""Bringing a model into the form it is trained or evaluated in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainwright.args import names
from trainwright.errors import ConfigError, did_you_mean
from trainwright.evaluation_mode import modes_of, put_back
from trainwright.models.activations import checkpoint_activations, memory_budget, within_budget
from trainwright.models.inspect import base_model, is_pretrained, layers_of, uncompiled
from trainwright.models.kernels.liger import use_liger_kernels
from trainwright.models.quantized import keep_backward
from trainwright.parallel.layouts.boxes import is_spread
from trainwright.session.session import Session


def take_model(session: Session, given: Any) -> None:
    """Train a model; one that `torch.compile` was given is known, saved and loaded as itself, and called compiled."""
    before, session.model = session.model, uncompiled(given)
    if isinstance(session.model, nn.Module):
        keep_backward(session.model)
    session.compiled = None if session.model is given else given
    session.model_wrapped = session.model
    if session.model is not before:
        session.own_configuration, session.before_training = {}, {}


def called(session: Session) -> nn.Module:
    """Return what is called for the model: itself, or what the user compiled of it."""
    compiled = session.compiled
    model: nn.Module = session.model if compiled is None or uncompiled(compiled) is not session.model else compiled
    return model


def training_model(session: Session) -> nn.Module:
    """Return the module whose forward the loop calls: checkpointed, compiled and spread, as the arguments say."""
    args = session.args
    inner = base_model(session.model)
    if session.precision.scales:
        check_scaled(session.model)
    if args.use_liger_kernel:
        use_liger_kernels(session.model, args.liger_kernel_config or {}, session.strategy.device)
    budget = memory_budget(args.activation_checkpointing_kwargs or {}) if args.activation_checkpointing else None
    if args.activation_checkpointing and budget is None:
        checkpoint_activations(inner, args.activation_checkpointing_kwargs or {})
    if is_pretrained(inner) and hasattr(inner.config, "use_cache"):
        session.before_training = change_configuration(session, use_cache=args.use_cache)
    if args.neftune_noise_alpha is not None:
        _add_noise(session, inner)
    align_special_tokens(session.model, session.processing_class)
    recomputes = (args.activation_checkpointing and budget is None) or any(
        getattr(part, "gradient_checkpointing", False) for part in inner.modules()
    )
    if budget is not None and not args.torch_compile:
        raise ConfigError(
            f"activation_checkpointing_kwargs: memory_budget={budget} is the share that compiled layers keep. Give "
            "torch_compile='layers' as well, or every=2 in its place."
        )
    if args.torch_compile == names.LAYERS:
        compile_layers(inner, **_compiler(args, budget))
    wrapped = prepared(session, recomputes)
    if args.torch_compile is True:
        wrapped = torch.compile(wrapped, **_compiler(args, budget))  # type: ignore[assignment]  # of a module, a module
    return wrapped


def check_scaled(model: nn.Module) -> None:
    """See whether the loss can be scaled: gradients of float16 would overflow with it.

    Raises:
        ConfigError: weights that are trained are of float16.
    """
    half = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.dtype == torch.float16]
    if half:
        raise ConfigError(
            f"fp16=True computes in float16 with weights in float32, and {len(half)} of those that are trained are in "
            f"float16 ({half[0]}). Load the model with dtype=torch.float32, or train it in bfloat16 with bf16=True."
        )


def compile_layers(model: nn.Module, **options: Any) -> None:
    """Compile the layers that a model repeats, in place: one graph for all of them, and the rest as it is.

    Raises:
        ConfigError: it repeats none.
    """
    layers = layers_of(model)
    if len(layers) < 2:
        raise ConfigError(
            f"torch_compile='{names.LAYERS}': {type(model).__name__} has no layers that it repeats, in a list of "
            "modules or named by the model. Use torch_compile=True, which compiles the whole model."
        )
    for layer in layers:
        if layer._compiled_call_impl is None:  # else the user has
            layer.compile(**options)


def _compiler(args: Any, budget: float | None) -> dict[str, Any]:
    """Return what torch.compile is told; `budget` is the share of activations that is kept.

    Raises:
        ConfigError: there is no such backend, or a mode, which says what is computed again, beside the share.
    """
    backend = args.torch_compile_backend or "inductor"
    known = torch._dynamo.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"torch_compile_backend='{backend}' is not known.{did_you_mean(backend, known)}")
    if budget is None:
        return {"backend": backend, "mode": args.torch_compile_mode}
    if args.torch_compile_mode is not None:
        raise ConfigError(
            f"torch_compile_mode='{args.torch_compile_mode}' and activation_checkpointing_kwargs with a memory_budget "
            "are two ways to compile. Leave one of them out."
        )
    return {"backend": within_budget(backend, budget)}


def placed(session: Session) -> None:
    """Bring the model to where it is trained.

    Raises:
        ConfigError: the strategy gives another one, which nobody would train.
    """
    strategy, model = session.strategy, session.model
    before = dict(model.named_parameters()) if session.optimizer is not None else {}
    if strategy.place(model) is not model:
        raise ConfigError(
            f"{type(strategy).__name__}.place returned another module; it must bring the model that it is given to its "
            "device, in place, and return that. What is called in its stead is made by prepare."
        )
    now = dict(model.named_parameters()) if before else {}
    other = {before[name]: now[name] for name in before if now[name] is not before[name]}
    for group in session.optimizer.param_groups if other else ():  # which the user made for the whole parameters
        group["params"] = [other.get(parameter, parameter) for parameter in group["params"]]


def prepared(session: Session, recomputes: bool) -> nn.Module:
    """Return what the strategy calls in a step.

    Raises:
        ConfigError: it holds a part of the model and does not say so.
    """
    strategy = session.strategy
    wrapped = strategy.prepare(called(session), recomputes)
    if session.args.save_strategy != "no" and not strategy.shards_state and any(map(is_spread, wrapped.parameters())):
        raise ConfigError(
            f"{type(strategy).__name__} shards the model's parameters and does not say so: set its attribute "
            "shards_state = True, so that every process saves its part, or save_strategy='no'."
        )
    return wrapped


def change_configuration(session: Session, **values: Any) -> dict[str, Any]:
    """Change the model's configuration as training needs it; return what is changed, as it was.

    What is saved of it is the user's own: `users_configuration`.
    """
    config = base_model(session.model).config
    before = {name: getattr(config, name) for name, value in values.items() if getattr(config, name) != value}
    session.own_configuration = {**before, **session.own_configuration}
    for name in before:
        setattr(config, name, values[name])
    return before


def restore_configuration(session: Session) -> None:
    """Give the model the configuration that it had before training."""
    before, session.before_training = session.before_training, {}
    for name, value in before.items():
        setattr(base_model(session.model).config, name, value)
        if session.own_configuration[name] == value:
            del session.own_configuration[name]


@contextmanager
def users_configuration(session: Session) -> Iterator[None]:
    """Have the model's configuration as the user gave it, while it is saved."""
    config = getattr(base_model(session.model), "config", None)
    ours = {name: getattr(config, name) for name in session.own_configuration}
    for name, value in session.own_configuration.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in ours.items():
            setattr(config, name, value)


def align_special_tokens(model: Any, processing_class: Any) -> None:
    """Carry the begin, end and padding tokens of a tokenizer into a model's configurations, as transformers does: so
    a trained model stops where its data ended."""
    if processing_class is None or not is_pretrained(base_model(model)):
        return
    from transformers import PreTrainedTokenizerBase, ProcessorMixin
    from transformers.trainer_utils import align_special_tokens as align

    if isinstance(processing_class, PreTrainedTokenizerBase | ProcessorMixin):
        align(model, processing_class)


def _add_noise(session: Session, model: nn.Module) -> None:
    """Add uniform noise to embeddings in training, up to alpha / sqrt(length × width) (NEFTune, arXiv:2310.05914)."""
    alpha = session.args.neftune_noise_alpha

    def noisy(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        bound = alpha / (output.size(1) * output.size(2)) ** 0.5
        return output + torch.zeros_like(output).uniform_(-bound, bound)

    session.noise = model.get_input_embeddings().register_forward_hook(noisy)  # type: ignore[operator]  # a PreTrainedModel


def remove_noise(session: Session) -> None:
    """Take the noise away again, where there is some."""
    if session.noise is not None:
        session.noise.remove()
        session.noise = None


def train_mode(session: Session, training: bool) -> None:
    """Switch model and optimizer between training and evaluation; some optimizers average weights for the latter."""
    session.model_wrapped.train(training)
    optimizer_mode(session.optimizer, training)


def optimizer_mode(optimizer: Any, training: bool) -> None:
    """Switch the optimizer between training and evaluation, where it has two."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Put the numbers and the modes of a model back after the body; the numbers wait in the host's memory."""
    places = [(part._buffers, name, now) for part in model.modules() for name, now in part._buffers.items()]
    tensors = [*model.parameters(), *(now for _, _, now in places if now is not None)]
    held = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]
    modes = modes_of(model)
    try:
        yield
    finally:
        for buffers, name, now in places:
            buffers[name] = now
        with torch.no_grad():
            for tensor, numbers in held:
                tensor.copy_(numbers)
        put_back(modes)


def full_evaluation_type(args: Any) -> torch.dtype | None:
    """Return the number format that the whole model is cast to for evaluation outside of training, or None."""
    return torch.float16 if args.fp16_full_eval else torch.bfloat16 if args.bf16_full_eval else None


@contextmanager
def in_format(model: nn.Module, kind: torch.dtype | None) -> Iterator[None]:
    """Have a whole model in a number format, and its own tensors again afterwards.

    Those wait in the host's memory meanwhile, so that the device needs no more than for the smaller model.
    """
    if kind is None:
        yield
        return
    parameters = [(p, p.data.cpu()) for p in model.parameters() if p.is_floating_point()]
    places = [(part._buffers, name) for part in model.modules() for name in part._buffers]
    buffers = [
        (held, name, b.cpu()) for held, name in places if (b := held[name]) is not None and b.is_floating_point()
    ]
    model.to(kind)
    try:
        yield
    finally:
        for parameter, own in parameters:
            parameter.data = own.to(parameter.device)
        for held, name, own in buffers:
            now = held[name]
            held[name] = own if now is None else own.to(now.device)
