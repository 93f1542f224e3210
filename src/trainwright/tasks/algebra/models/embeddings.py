"""What makes vectors of tokens: a table, or a module of the user's that is registered by a name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainwright.errors import ConfigError, did_you_mean

_TABLES = ("token", "default", "learned")
_registered: dict[str, Callable[..., nn.Module]] = {}


def register_input_embedding(name: str, factory: Callable[..., nn.Module]) -> None:
    """Let `model.input_embedding_type` name a module of the user's.

    Args:
        name: as the section says it, in any case.
        factory: `f(vocab_size=, d_model=)` returns a module that makes (rows, tokens, d_model) of ids (rows, tokens).
    """
    _registered[name.lower()] = factory


def check_input_embedding(name: str) -> None:
    """Raise a ConfigError for a name that nothing is registered by."""
    known = (*_TABLES, *_registered)
    if name.lower() not in known:
        raise ConfigError(
            f"model.input_embedding_type '{name}' is not known.{did_you_mean(name.lower(), known)} Known: "
            f"{', '.join(known)}; register_input_embedding(name, factory) adds one, before the model is built."
        )


def input_embedding(name: str, vocab_size: int, d_model: int) -> nn.Module:
    """Return the module of a name."""
    check_input_embedding(name)
    if name.lower() in _TABLES:
        return nn.Embedding(vocab_size, d_model)
    return _registered[name.lower()](vocab_size=vocab_size, d_model=d_model)
