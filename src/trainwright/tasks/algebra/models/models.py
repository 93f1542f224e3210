"""Models for problems and answers, from a section `model` with CALT's keys; transformers' `generate` decodes them all,
with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainwright.config.keys.task_uses import ALGEBRA, use
from trainwright.config.reading.ranges import check_values
from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.algebra.models.embeddings import check_input_embedding

GENERIC = ("generic", "transformer", "calt")
CLASSIFIERS = ("encoder_classifier", "encoder_only")
DECODERS = ("decoder_only", "decoder", "gpt2", "llama")
# the positions that a kind of model can have, its default first
POSITIONS = {
    **dict.fromkeys((*GENERIC, *CLASSIFIERS), ("learned", "sinusoidal", "rope", "none")),
    "bart": ("learned",),
    "decoder_only": ("learned", "rope"),
    "decoder": ("learned", "rope"),
    "gpt2": ("learned",),
    "llama": ("rope",),
}
_KINDS = {
    **dict.fromkeys(GENERIC, "generic"), **dict.fromkeys(CLASSIFIERS, "classifier"), "bart": "bart", "gpt2": "gpt2",
    "llama": "llama",
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(ALGEBRA["model"]),
    "model_type": "generic",
    "num_encoder_layers": 6,
    "num_encoder_heads": 8,
    "num_decoder_layers": 6,
    "num_decoder_heads": 8,
    "d_model": 512,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "max_sequence_length": 512,
    "dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "init_std": 0.02,
    "embedding_layer_norm": True,
    "input_embedding_type": "token",
}
_ACTIVATIONS = {
    "generic": "relu",
    "classifier": "relu",
    "bart": "gelu",
    "gpt2": "gelu_new",
    "llama": "silu",
}  # transformers' own
_MONOMIALS = (
    "model_type generic with data.dataset_load_preprocessor expanded_form learns the same polynomials, with a token "
    "for every coefficient and exponent"
)
_NOT_BUILT = dict.fromkeys(("monomial", "monomial_transformer"), _MONOMIALS)
_TWINS = (
    ("num_layers", "num_decoder_layers"), ("num_heads", "num_decoder_heads"), ("ffn_dim", "decoder_ffn_dim"),
)  # fmt: skip


def check_model(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the section with its defaults.

    Raises:
        ConfigError: a key or kind that is not known, or sizes that do not fit.
    """
    for name in config:
        if name not in _DEFAULTS:
            hint = did_you_mean(str(name), _DEFAULTS)
            raise ConfigError(f"{source}: unknown key model.{name}.{hint} Known: {', '.join(_DEFAULTS)}.")
    values = {**_DEFAULTS, **{name: value for name, value in config.items() if value is not None}}
    kind = values["model_type"]
    if kind in _NOT_BUILT:
        raise ConfigError(f"{source}: model.model_type '{kind}' is CALT's, and not built here: {_NOT_BUILT[kind]}.")
    if kind not in POSITIONS:
        raise ConfigError(f"{source}: model.model_type '{kind}' is not known.{did_you_mean(kind, POSITIONS)} "
                          f"Known: {', '.join(POSITIONS)}.")  # fmt: skip
    asked = values["use_positional_embedding"] or POSITIONS[kind][0]
    positions = values["use_positional_embedding"] = "learned" if asked == "generic" else asked  # CALT's other name
    if positions not in POSITIONS[kind]:
        raise ConfigError(
            f"{source}: model.use_positional_embedding '{positions}' is not there for model_type {kind}; possible: "
            f"{', '.join(POSITIONS[kind])}. All of learned, sinusoidal, rope and none are there for model_type generic."
        )
    made = _made(values)
    values["activation"] = values["activation"] or _ACTIVATIONS[made]
    if values["attention_dropout"] is None:  # CALT's encoder-decoder has one rate
        values["attention_dropout"] = values["dropout"] if made in ("generic", "classifier") else 0.0
    _check_used(config, made, values["activation"], source)
    check_input_embedding(values["input_embedding_type"])
    for heads in _heads(values):
        if values["d_model"] % heads:
            raise ConfigError(f"{source}: model.d_model {values['d_model']} is not a multiple of {heads} heads.")
        if positions == "rope" and values["d_model"] // heads % 2:
            raise ConfigError(
                f"{source}: rope turns pairs, and model.d_model {values['d_model']} over {heads} heads is odd."
            )
    return values


def _made(values: dict[str, Any]) -> str:
    """Return the kind of model that is made: generic, classifier, bart, gpt2 or llama."""
    kind, turned = values["model_type"], values["use_positional_embedding"] == "rope"
    return _KINDS.get(kind) or ("llama" if turned else "gpt2")


def _check_used(config: Mapping[str, Any], made: str, activation: str, source: str) -> None:
    """Raise a ConfigError for a key that this model refuses, a value of another type or out of its range, an activation
    that is not there, and two names of one thing."""
    from transformers.activations import ACT2FN

    list(use(config, "model", made))
    check_values(config, "cfg.model")
    if activation not in ACT2FN:
        raise ConfigError(f"{source}: model.activation '{activation}' is not known.{did_you_mean(activation, ACT2FN)}")
    for one, other in _TWINS:
        if config.get(one) is not None and config.get(other) is not None:
            raise ConfigError(f"{source}: '{one}' and '{other}' are two names of one thing; give only one.")


def _heads(values: dict[str, Any]) -> tuple[int, ...]:
    if values["model_type"] in DECODERS:
        return (values["num_heads"] or values["num_decoder_heads"],)
    if values["model_type"] in CLASSIFIERS:
        return (values["num_encoder_heads"],)
    return values["num_encoder_heads"], values["num_decoder_heads"]


def new_model(config: Mapping[str, Any], tokenizer: Any, source: str = "cfg.model") -> Any:
    """Return a model with random weights.

    With `model.seed` they come from a stream of its own; the global one is left as it was.

    Raises:
        ConfigError: a key or kind that is not known, or sizes that do not fit.
    """
    values = check_model(config, source)
    for sentence in use(config, "model", _made(values)):
        print(f"Note: {sentence}", flush=True)
    seed = values["seed"]
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        make = _decoder if values["model_type"] in DECODERS else _encoder_decoder
        model = make(values, tokenizer)
    generation = getattr(model, "generation_config", None)  # a classifier has none
    for place in (model.config, *([generation] if generation else [])):
        place.pad_token_id, place.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
        place.bos_token_id = tokenizer.bos_token_id
    if model.config.is_encoder_decoder and generation:
        model.config.decoder_start_token_id = generation.decoder_start_token_id = tokenizer.bos_token_id
        generation.forced_eos_token_id = None
        generation.num_beams = 1
    model.pipeline_config = dict(config)
    return model


def _encoder_decoder(values: dict[str, Any], tokenizer: Any) -> Any:
    names = ("d_model", "encoder_ffn_dim", "decoder_ffn_dim", "dropout", "attention_dropout", "activation_dropout",
             "init_std")  # fmt: skip
    sizes = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": values["max_sequence_length"],
        "encoder_layers": values["num_encoder_layers"],
        "decoder_layers": values["num_decoder_layers"],
        "encoder_attention_heads": values["num_encoder_heads"],
        "decoder_attention_heads": values["num_decoder_heads"],
        "activation_function": values["activation"],
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
        **{name: values[name] for name in names},
    }
    if values["model_type"] == "bart":
        from transformers import BartConfig, BartForConditionalGeneration

        drops = {name: values[name] for name in ("encoder_layerdrop", "decoder_layerdrop")}
        return BartForConditionalGeneration(BartConfig(forced_eos_token_id=None, **sizes, **drops))

    from trainwright.tasks.algebra.models.classifier import ProblemClassifier
    from trainwright.tasks.algebra.models.transformer import ProblemTransformer

    kind = ProblemClassifier if values["model_type"] in CLASSIFIERS else ProblemTransformer
    given = {name: values[name] for name in ("embedding_layer_norm", "input_embedding_type")}
    settings = {"positions": values["use_positional_embedding"], "embedding_dropout": 0.0, **given, **sizes}
    return kind(kind.config_class(**settings))


def _decoder(values: dict[str, Any], tokenizer: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    layers = values["num_layers"] or values["num_decoder_layers"]
    heads = values["num_heads"] or values["num_decoder_heads"]
    width = values["ffn_dim"] or values["decoder_ffn_dim"]
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id,
             "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    if values["use_positional_embedding"] == "rope":
        return LlamaForCausalLM(
            LlamaConfig(hidden_size=values["d_model"], intermediate_size=width, num_hidden_layers=layers,
                        num_attention_heads=heads, max_position_embeddings=values["max_sequence_length"],
                        attention_dropout=values["attention_dropout"], hidden_act=values["activation"],
                        initializer_range=values["init_std"], **sizes)
        )  # fmt: skip
    drop = values["dropout"]
    return GPT2LMHeadModel(
        GPT2Config(n_embd=values["d_model"], n_inner=width, n_layer=layers, n_head=heads,
                   n_positions=values["max_sequence_length"], resid_pdrop=drop, embd_pdrop=drop,
                   attn_pdrop=values["attention_dropout"], activation_function=values["activation"],
                   initializer_range=values["init_std"], **sizes)
    )  # fmt: skip
