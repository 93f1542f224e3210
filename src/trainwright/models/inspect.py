"""What the engine needs to know of a model. transformers is consulted only when the model already comes from it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainwright.batch import IGNORED, MeanOver

ALIKE = "_alike_on_all_processes"
"""The attribute of a parameter that every process has read from the same file, so that none has to send it."""
_CAUSAL_LOSS = "ForCausalLM"
_CACHES = ("past_key_values", "cache")
_STATES = ("state", "mems", "past_buckets_states")  # of RWKV, XLNet and Reformer
_NAMED_LOSS = "loss_function("
_SHIFTED = re.compile(r"shift_labels|labels\[(\.\.\.|:), ?1:\]|logits\[(\.\.\.|:), ?:-1")


def is_pretrained(model: Any) -> bool:
    """Whether a model is one of transformers' (or of a user's built on them)."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


def is_adapter(model: Any) -> bool:
    """Whether a model is wrapped by PEFT, so that its adapters are what is trained and saved."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel)


def holds_adapters(model: Any) -> bool:
    """Whether a model's files are adapters: wrapped by PEFT, or one of transformers' with adapters added to it.

    Models of mixed adapters have no files in PEFT, and are saved whole.
    """
    peft = sys.modules.get("peft")
    if peft is None:
        return False
    return isinstance(model, peft.PeftModel) or bool(getattr(model, "_hf_peft_config_loaded", False))


@contextmanager
def own_classes(model: nn.Module) -> Iterator[None]:
    """Let the modules of a model have the classes that they had before it was sharded: transformers goes by their
    names."""
    sharding = sys.modules.get("torch.distributed.fsdp")
    kinds = [(part, type(part)) for part in model.modules() if sharding and isinstance(part, sharding.FSDPModule)]
    for part, kind in kinds:
        part.__class__ = kind.__bases__[1]  # as `fully_shard` derives it: class FSDPLinear(FSDPModule, Linear)
    try:
        yield
    finally:
        for part, kind in kinds:
            part.__class__ = kind


def loads_itself(model: nn.Module) -> bool:
    """Whether a model, or a part of it, has a way of its own to load what was saved: it may take other shapes."""
    return type(model).load_state_dict is not nn.Module.load_state_dict or any(
        part._load_state_dict_pre_hooks or _loads_own_state(type(part)) for part in model.modules()
    )


def _loads_own_state(kind: type[nn.Module]) -> bool:
    owner = next(one for one in kind.__mro__ if "_load_from_state_dict" in vars(one))
    return not owner.__module__.startswith("torch.")


def uncompiled(model: Any) -> Any:
    """Return the model that `torch.compile` was given, with the same parameters, or the model itself."""
    return getattr(model, "_orig_mod", model)


def unwrapped(model: Any) -> Any:
    """Return the model that `torch.compile` and torch's data parallel wrappers were given, or the model itself."""
    inside = model.module if isinstance(model, nn.DataParallel | DistributedDataParallel) else uncompiled(model)
    return model if inside is model else unwrapped(inside)


def base_model(model: nn.Module) -> nn.Module:
    """Return the model inside PEFT's wrapper, or the model itself."""
    if not is_adapter(model):
        return model
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap else model.base_model.model  # type: ignore[union-attr, return-value]  # PEFT's wrapper


def forward_columns(model: nn.Module) -> list[str] | None:
    """Return the names of the inputs that `forward` takes; None when it takes anything."""
    parameters = inspect.signature(base_model(model).forward).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_any and not named else named


def label_names(model: nn.Module) -> list[str]:
    """Return the inputs that are labels: arguments of `forward` with label in their name, or the two of question
    answering models; `labels` where there are none."""
    inner = base_model(model)
    names = list(inspect.signature(inner.forward).parameters)
    answers = ("start_positions", "end_positions")
    wanted = [name for name in names if "label" in name]
    if "QuestionAnswering" in type(inner).__name__:
        wanted += [name for name in names if name in answers]
    return wanted or ["labels"]


def can_return_loss(model: nn.Module) -> bool:
    """Whether `forward` has an argument `return_loss` that is true by default."""
    parameter = inspect.signature(base_model(model).forward).parameters.get("return_loss")
    return parameter is not None and parameter.default is True


def shifts_labels(model: nn.Module) -> bool:
    """Whether the model's own loss predicts each label from the positions before it.

    What its `forward` does decides: transformers' classes named `...ForCausalLM` do not all do it (BART's decoder), and
    some that name no loss do, since they fall back to the causal one (GPT-2, BertGenerationDecoder).
    """
    inner = base_model(model)
    if not is_pretrained(inner) or getattr(inner.config, "is_encoder_decoder", False):
        return False
    from transformers.loss.loss_utils import LOSS_MAPPING

    kind = getattr(inner, "loss_type", None)
    causal = LOSS_MAPPING.get(kind) is LOSS_MAPPING[_CAUSAL_LOSS]
    source = _source_of_loss(type(inner))
    if source is None:
        return causal
    return _SHIFTED.search(source) is not None or (_NAMED_LOSS in source and (causal or kind not in LOSS_MAPPING))


def loss_unit(model: nn.Module) -> tuple[MeanOver, int]:
    """Return what the model's own loss is a mean over, and the label that is no target.

    That of CTC is one number for a row's whole sequence (Graves et al. 2006), and a sum of them where the
    configuration says so; segmentation has a label of its own that is no target, and of one class is a mean over all.
    """
    inner: Any = base_model(model)
    config: Any = getattr(inner, "config", None)
    try:
        source = inspect.getsource(type(inner).forward)
    except (OSError, TypeError):
        return MeanOver.TARGETS, IGNORED
    if "ctc_loss" in source:
        summed = "ctc_loss_reduction" in source and getattr(config, "ctc_loss_reduction", None) == "sum"
        return MeanOver.NOTHING if summed else MeanOver.ROWS, IGNORED
    if is_pretrained(inner) and hasattr(config, "semantic_loss_ignore_index") and "ForSemantic" in type(inner).__name__:
        one = getattr(config, "num_labels", 2) == 1
        return MeanOver.ROWS if one else MeanOver.TARGETS, config.semantic_loss_ignore_index
    return MeanOver.TARGETS, IGNORED


def _source_of_loss(kind: type) -> str | None:
    """Return the source of the `forward` that computes a class's loss; None where none is seen to."""
    for one in kind.__mro__:
        try:
            source = inspect.getsource(vars(one)["forward"]) if "forward" in vars(one) else ""
        except (OSError, TypeError):
            return None
        if _NAMED_LOSS in source or "CrossEntropyLoss" in source or "cross_entropy(" in source:
            return source
    return None


def cache_names(model: nn.Module) -> tuple[str, ...]:
    """Return the outputs in which a model keeps what it has read, for the next token: they are no predictions.

    Most caches are objects, which are recognised as such; these are the names of those that are plain tensors.
    """
    of_transformers = type(base_model(model)).__module__.startswith("transformers.")
    return _CACHES + _STATES if of_transformers else _CACHES


def limits(model: nn.Module) -> dict[str, int]:
    """Return what the model's configuration says of sizes: vocabulary, positions, labels; what it does not say is
    left out, as what it says is unlimited (XLNet's -1 positions)."""
    return limits_of(getattr(base_model(model), "config", None))


def limits_of(config: Any) -> dict[str, int]:
    """Return what a configuration says of sizes; see `limits`."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = {}
    for limit, names in {
        "vocabulary": ("vocab_size",),
        "positions": ("max_position_embeddings", "n_positions"),
        "labels": ("num_labels",),
    }.items():
        value = next((getattr(text, name) for name in names if isinstance(getattr(text, name, None), int)), None)
        if value is not None and value > 0:
            found[limit] = value
    return found


def has_table_of(model: nn.Module, size: int) -> bool:
    """Whether a model has an embedding of that many positions, or a few more: others compute any number of them."""
    sizes = [part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding)]
    return any(size <= one <= size + 2 for one in sizes)  # BART and OPT have 2 more


def parameter_count(model: nn.Module, trainable_only: bool = False) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers that a model repeats: of the classes that models of transformers name as the ones to keep
    together, else the items of its outermost lists of modules."""
    named: set[str] = set()
    for part in model.modules():
        named |= set(getattr(part, "_no_split_modules", None) or ())
    found = [part for part in model.modules() if type(part).__name__ in named and part is not model]
    return found or list(_items(model))


def _items(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _items(child)
