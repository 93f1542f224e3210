"""How long rows may be for a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainwright.config.reading.read import options_of
from trainwright.config.schema import TrainingConfig
from trainwright.models.saved_config import most_tokens

_LENGTHS = ("max_length", "max_target_length")


def within_positions(config: TrainingConfig, options: Any) -> tuple[Any, list[str]]:
    """Return the settings of text with lengths that a model's table of positions has room for, and what to say of those
    that were asked for."""
    most = most_tokens(config.model)
    given = options_of(config, type(options))
    said = []
    for name in _LENGTHS:
        length = getattr(options, name, None)
        if most is None or length is None or length <= most:
            continue
        options = replace(options, **{name: most})
        if given.get(name) is not None:
            said.append(f"{name} is {most} and not {length}: the model has no more positions.")
    return options, said
