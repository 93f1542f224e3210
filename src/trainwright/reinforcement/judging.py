"""What a reward function is told of completions, and what becomes of what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trainwright.data.sources.formats import is_chat
from trainwright.generation.rollouts import Completion
from trainwright.rewards.pool import Failure, Pool

_SHOWN = 3  # failures that are told of a generation


def judged(
    pool: Pool,
    rows: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[Completion]],
    decode: Callable[[list[int]], str],
) -> tuple[torch.Tensor, list[Failure]]:
    """Return (rewards of every function, shape (completions, functions), NaN for none, float64; what failed).

    Args:
        pool: calls the functions.
        rows: of the prompts, as they were read.
        completions: of every prompt.
        decode: tokens to text, without special tokens.
    """
    columns: dict[str, list[Any]] = {"prompts": [], "completions": [], "completion_ids": [], "texts": []}
    names = list(dict.fromkeys(name for row in rows for name in row if name != "prompt"))
    further: dict[str, list[Any]] = {name: [] for name in names}
    for row, some in zip(rows, completions, strict=True):
        chat = is_chat(row["prompt"])
        for one in some:
            text = decode(one.ids.tolist())
            columns["prompts"].append(row["prompt"])
            columns["completions"].append([{"role": "assistant", "content": text}] if chat else text)
            columns["completion_ids"].append(one.ids.tolist())
            columns["texts"].append(text)
            for name in names:
                further[name].append(row.get(name))
    found, failures = pool.judge(further | columns)
    values = [[float("nan") if value is None else value for value in one] for one in found]
    return torch.tensor(values, dtype=torch.float64).reshape(len(found), -1).T.contiguous(), failures


def told(failures: Sequence[Failure], rows: Sequence[int]) -> list[str]:
    """Return sentences about rewards that failed, by function and row of the data.

    Args:
        rows: that of each.
    """
    found = [
        f"The reward '{one.reward}' failed for a completion of row {row}, which has none of it: {one.reason}"
        for one, row in zip(failures[:_SHOWN], rows, strict=False)
    ]
    if len(failures) > _SHOWN:
        found.append(f"{len(failures) - _SHOWN} more rewards of this generation failed.")
    return found
