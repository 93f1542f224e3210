"""What can be said of prompts before a model is loaded: are they such as completions can be written and judged of?"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainwright.config.policy_options import PolicyOptions
from trainwright.config.schema import ModelParams
from trainwright.errors import ConfigError, DataError
from trainwright.models.inspect import limits_of
from trainwright.models.saved_config import saved_config
from trainwright.rewards.functions import check_columns, of_names


def check_rewards(options: PolicyOptions, columns: Collection[str]) -> None:
    """Raise a ConfigError where a reward takes what no row has."""
    for reward in of_names(options.functions, options.reward_function_kwargs):
        check_columns(reward, columns)


def try_prompts(
    params: ModelParams,
    options: PolicyOptions,
    tokenizer: Any,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Raise a ConfigError or DataError where some prompts cannot be written after, or not be judged.

    Args:
        params: of the model.
        options: of the method.
        tokenizer: of the model.
        columns: of the rows as they were read.
        rows: with `prompt_ids`.
    """
    empty = next((number for number, row in enumerate(rows) if not len(row["prompt_ids"])), None)
    if empty is not None:
        raise DataError(f"The prompt of row {empty} is empty. Leave that row out.")
    check_rewards(options, columns)
    saved = saved_config(params)
    check_ends(tokenizer, _own_ends(params, saved), options.stop)
    if saved is not None:
        longest = max(len(row["prompt_ids"]) for row in rows)
        check_lengths(limits_of(saved).get("positions"), longest, options.max_completion_length)


def check_lengths(positions: int | None, longest: int, most: int) -> None:
    """Raise a ConfigError where the longest prompt and completion are longer than the model."""
    if positions is not None and longest + most > positions:
        raise ConfigError(
            f"The longest prompt has {longest} tokens and max_completion_length is {most}, but the model has "
            f"{positions} positions. Make either shorter."
        )


def check_ends(tokenizer: Any, own: Any, stop: Sequence[str]) -> set[int]:
    """Return the tokens that end a completion: the tokenizer's, and the model's own, a number or several.

    Raises:
        ConfigError: there are none, and no texts that stop.
    """
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
    if not ends and not stop:
        raise ConfigError(
            "Neither the tokenizer nor the model has an end token, so no completion would end. Give "
            "training.trainer_kwargs.stop, or a tokenizer with eos_token."
        )
    return ends


def _own_ends(params: ModelParams, saved: Any) -> Any:
    file = Path(params.model_name or "") / "generation_config.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return told.get("eos_token_id", getattr(saved, "eos_token_id", None))
