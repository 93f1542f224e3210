"""What a model's configuration says before it is loaded."""

from __future__ import annotations

from typing import Any

from trainwright.config.schema import ModelParams
from trainwright.data.sources.reach import ask_at_once

_TABLES = (
    "bart", "bert", "bert-generation", "big_bird", "biogpt", "blenderbot", "blenderbot-small", "distilbert", "albert",
    "electra", "ernie", "gpt2", "gpt_bigcode", "gpt_neo", "layoutlm", "marian", "mbart", "mobilebert", "openai-gpt",
    "opt", "pegasus", "squeezebert",
)  # fmt: skip
_AFTER_PADDING = ("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl")
"""Kinds of models that look a position up in a table, and so have no more than it holds; of the others the table begins
with the number of the padding token."""


def saved_config(params: ModelParams) -> Any:
    """Return the configuration of a folder or hub name, or of a kind of models; None where there is none, as is said
    where the model is loaded."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if params.model_name in CONFIG_MAPPING_NAMES:
        return AutoConfig.for_model(params.model_name)
    ask_at_once(params.model_name)
    try:
        return AutoConfig.from_pretrained(
            params.model_name, trust_remote_code=params.trust_remote_code, revision=params.model_revision
        )
    except (OSError, ValueError):
        return None


def most_tokens(params: ModelParams) -> int | None:
    """Return how many tokens a model can read at most; None where it has no end, or none is known."""
    config = saved_config(params)
    kind = getattr(config, "model_type", None)
    if kind not in (*_TABLES, *_AFTER_PADDING):
        return None
    names = ("max_position_embeddings", "n_positions")
    given = next((params.model_kwargs[name] for name in names if name in params.model_kwargs), None)
    held = getattr(config, "max_position_embeddings", None) if given is None else given
    if not isinstance(held, int):
        return None
    return held - (config.pad_token_id or 0) - 1 if kind in _AFTER_PADDING else held
