"""Models and tokenizers of transformers, as the section `model` of a file describes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from trainwright.config.schema import ModelParams
from trainwright.data.sources.reach import ask_at_once
from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.models.classes import has_another_head
from trainwright.models.inspect import ALIKE, base_model

_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float": torch.float32, "float16": torch.float16,
    "fp16": torch.float16, "half": torch.float16, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float64": torch.float64, "double": torch.float64,
}  # fmt: skip
NO_DROPOUT = "disable_dropout"
"""A name among `model_kwargs` that is Oumi's, and no setting of a model."""
# What transformers reads while it loads a tokenizer.
_LOADING = (
    "use_fast", "legacy", "from_slow", "tokenizer_type", "subfolder", "gguf_file", "tokenizer_file", "vocab_file",
    "merges_file", "cache_dir", "force_download", "local_files_only", "token", "revision", "add_prefix_space",
    "add_bos_token", "add_eos_token", "additional_special_tokens", "extra_special_tokens",
    "fix_mistral_regex",
)  # fmt: skip


def load_tokenizer(params: ModelParams) -> Any:
    """Return the tokenizer, with a padding token that it really has.

    Raises:
        ConfigError: there is none, or a token that it does not know is asked for.
    """
    from transformers import AutoTokenizer

    name = params.tokenizer_name or params.model_name
    missing = ask_at_once(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            trust_remote_code=params.trust_remote_code,
            revision=params.model_revision,
            **params.tokenizer_kwargs,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"model.{'tokenizer_name' if params.tokenizer_name else 'model_name'} '{name}' holds no tokenizer: "
            f"{missing or first_line(error)} Give model.tokenizer_name: a folder or hub name."
        ) from error
    check_tokenizer_settings(tokenizer, params.tokenizer_kwargs)
    tokenizer.add_tokens(params.new_special_tokens, special_tokens=True)
    if params.tokenizer_pad_token is not None:
        tokenizer.pad_token = known_token(tokenizer, params.tokenizer_pad_token, "model.tokenizer_pad_token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigError(
            f"The tokenizer '{name}' has neither a padding nor an end token; give model.tokenizer_pad_token."
        )
    return tokenizer


def check_tokenizer_settings(tokenizer: Any, given: dict[str, Any]) -> None:
    """Raise a ConfigError for a setting of a tokenizer that nothing reads: transformers keeps any name."""
    read = {name for kind in type(tokenizer).__mro__ for name in inspect.signature(kind).parameters}
    known = {*read, *_LOADING, *tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *vars(tokenizer)}
    for name in given:
        if name not in known and not hasattr(type(tokenizer), name):
            raise ConfigError(
                f"model.tokenizer_kwargs.{name}: nothing reads it of a {type(tokenizer).__name__}."
                f"{did_you_mean(name, [one for one in known if not one.startswith('_')])}"
            )


def grow(model: Any, tokenizer: Any, params: ModelParams) -> list[int]:
    """Let a model's embeddings grow by the new tokens of its file, and return their numbers; old rows stay as they are,
    new ones begin as transformers has it, near the mean of the old ones.

    Raises:
        DataError: the tokenizer has more tokens than the model, and not because the file asks for them.
    """
    known = model.get_input_embeddings().num_embeddings
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= known}
    if not beyond:
        return []
    given = [params.tokenizer_kwargs.get(name) or [] for name in ("extra_special_tokens", "additional_special_tokens")]
    asked = {str(token) for some in given for token in (some.values() if isinstance(some, dict) else some)}
    if not set(beyond) <= asked.union(params.new_special_tokens):
        raise DataError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model knows {known}. Give the model's own tokenizer "
            "(model.tokenizer_name), or name the tokens that are new (model.new_special_tokens)."
        )
    model.resize_token_embeddings(len(tokenizer))
    return sorted(beyond.values())


def known_token(tokenizer: Any, token: str, name: str) -> str:
    """Return a token that a tokenizer has.

    Raises:
        ConfigError: it does not have it.
    """
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        raise ConfigError(f"{name} '{token}' is not in the tokenizer's vocabulary.{did_you_mean(token, vocabulary)}")
    return token


@dataclass(frozen=True)
class Kind:
    """What is loaded.

    Attributes:
        name: of the class of transformers that loads it.
        settings: of its configuration, besides those of the file.
    """

    name: str = "AutoModelForCausalLM"
    settings: Mapping[str, Any] = field(default_factory=dict)


def load_model(
    params: ModelParams,
    tokenizer: Any,
    quantization: Any = None,
    kind: Kind = Kind(),  # noqa: B008
    key: str = "model.model_name",
) -> Any:
    """Return the model, by default a causal language model: its weights, or random ones for a configuration.

    Random weights come from torch's global stream; set the seed before.

    Args:
        params: the section of the file.
        tokenizer: whose tokens a configuration without weights has.
        quantization: settings of bitsandbytes, or None.
        kind: what is loaded.
        key: of the file, by which the model is named.

    Raises:
        ConfigError: it cannot be loaded.
    """
    import transformers

    loader = getattr(transformers, kind.name)
    if NO_DROPOUT in params.model_kwargs:
        rest = {name: value for name, value in params.model_kwargs.items() if name != NO_DROPOUT}
        model = load_model(replace(params, model_kwargs=rest), tokenizer, quantization, kind, key)
        return undropped(model) if params.model_kwargs[NO_DROPOUT] else model
    options: dict[str, Any] = {"trust_remote_code": params.trust_remote_code}
    if params.attn_implementation is not None:
        options["attn_implementation"] = params.attn_implementation
    dtype = number_format(params)
    missing = ask_at_once(params.model_name) if params.load_pretrained_weights else ""
    faults: tuple[type[Exception], ...] = (OSError, ValueError, ImportError)
    faults += _of_settings() if params.model_kwargs or kind.settings else ()
    try:
        if not params.load_pretrained_weights:
            config = model_config(params, tokenizer, kind.settings)
            return _fitting(loader.from_config(config, dtype=dtype, **options), params, kind)
        if quantization is not None:
            options["quantization_config"] = quantization
        if "id2label" in kind.settings and has_another_head(params, len(kind.settings["id2label"])):
            options["ignore_mismatched_sizes"] = True
        model, about = loader.from_pretrained(
            params.model_name,
            dtype="auto" if dtype is None else dtype,
            revision=params.model_revision,
            output_loading_info=True,
            **options,
            **{**kind.settings, **params.model_kwargs},
        )
        _mark_what_was_read(model, about)
        return _fitting(model, params, kind)
    except (torch.OutOfMemoryError, ConfigError):
        raise
    except faults as error:
        given = f" with model.model_kwargs {params.model_kwargs}" if params.model_kwargs else ""
        reason = f"{given}: {missing or first_line(error)}"
        raise ConfigError(f"{key} '{params.model_name}' cannot be loaded{reason}") from error


def beside(params: ModelParams, name: str) -> ModelParams:
    """Return the section for another model that is loaded beside the trained one: of its own revision, and whole."""
    return replace(params, model_name=name, model_revision=None, adapter_model=None, load_pretrained_weights=True)


def _mark_what_was_read(model: nn.Module, about: Mapping[str, Any]) -> None:
    """Mark the parameters that lie in the files, by what transformers tells of loading; others were drawn."""
    drawn = {*about["missing_keys"], *(name for name, *_ in about["mismatched_keys"])}
    for name, parameter in model.named_parameters():
        if name not in drawn:
            setattr(parameter, ALIKE, True)


def _fitting(model: Any, params: ModelParams, kind: Kind) -> Any:
    """Return a model of the kind that is wanted: of causal ones, tokens see those before them alone.

    Raises:
        ConfigError: it is an encoder, such as BERT, whose tokens see what they are to predict.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = model.config
    if kind.name != "AutoModelForCausalLM":
        return model
    encoders = (*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation")
    if config.model_type in encoders and getattr(config, "is_decoder", None) is False:
        raise ConfigError(
            f"model.model_name '{params.model_name}' is an encoder ({config.model_type}): its tokens see those that "
            "they are to predict. Write model.model_kwargs.is_decoder: true, or give a model that generates."
        )
    return model


def _of_settings() -> tuple[type[Exception], ...]:
    """Return what transformers raises where a setting of a model is unknown to it, of a wrong type, or does not fit."""
    from huggingface_hub import errors

    return (TypeError, RuntimeError, AttributeError, getattr(errors, "StrictDataclassError", TypeError))


def number_format(params: ModelParams) -> torch.dtype | None:
    """Return the weights' number format; None for `auto`: as they are saved, or float32 of random ones."""
    return None if params.torch_dtype_str == "auto" else _DTYPES[params.torch_dtype_str]


def model_config(params: ModelParams, tokenizer: Any, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the configuration of a model with random weights: that of a folder or hub name, or of a model type such
    as llama, with `model_kwargs` and the tokenizer's vocabulary."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    sizes = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **(settings or {}),
        **params.model_kwargs,
    }
    if params.model_name in CONFIG_MAPPING_NAMES:
        make = partial(AutoConfig.for_model, params.model_name)
    else:
        make = partial(
            AutoConfig.from_pretrained,
            params.model_name,
            trust_remote_code=params.trust_remote_code,
            revision=params.model_revision,
        )
    if params.model_kwargs:
        _check_settings(make, params.model_kwargs)
    return make(**sizes)


def _check_settings(make: Callable[..., Any], given: dict[str, Any]) -> None:
    """Raise a ConfigError for a setting of a model that nothing reads: transformers keeps any name, and makes others of
    some of the past."""
    usual = make()
    for name in given:
        alone = {} if hasattr(usual, name) else make(**{name: given[name]}).to_dict()
        if alone and {**alone, name: None} == {**usual.to_dict(), name: None}:
            raise ConfigError(
                f"model.model_kwargs.{name}: nothing reads it, for a {type(usual).__name__} has no such setting."
                f"{did_you_mean(name, [*usual.to_dict(), *usual.attribute_map])}"
            )


def freeze(model: nn.Module, layers: list[str]) -> None:
    """Stop modules from being trained, by the names that the model gives them.

    Raises:
        ConfigError: there is no module of a name.
    """
    named = dict(model.named_modules())
    for name in layers:
        if name not in named:
            raise ConfigError(f"model.freeze_layers: there is no module '{name}'.{did_you_mean(name, named)}")
        named[name].requires_grad_(False)


def without_dropout(model: nn.Module) -> nn.Module:
    """Return the model with all dropout set to 0, as preference optimisation wants it: that of layers, and shares that
    modules hand to functions (`dropout`, `hidden_dropout`, `layerdrop`)."""
    for part in model.modules():
        if isinstance(part, _DropoutNd):
            part.p = 0.0
        for name in _drops(vars(part)):
            setattr(part, name, 0.0)
    return model


def undropped(model: Any) -> Any:
    """Return the model without dropout, in its configuration too, with which it is saved."""
    for name, value in dropout_settings(model).items():
        setattr(model.config, name, value)
    return without_dropout(model)


def dropout_settings(model: Any) -> dict[str, float]:
    """Return the shares of dropout in a model's configuration, from which some read them in every step, all as 0."""
    config = getattr(base_model(model), "config", None)
    return dict.fromkeys(_drops(vars(config)) if config is not None else [], 0.0)


def _drops(values: dict[str, Any]) -> list[str]:
    return [name for name, value in values.items() if "drop" in name and isinstance(value, float) and value > 0]


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, as a sentence."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{said.rstrip('.')}."
