"""What a reward function is told of completions, and what becomes of what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trainwright.data.sources.formats import is_chat
from trainwright.generation.rollouts import Completion
from trainwright.rewards.pool import Failure, Pool

_SHOWN = 3  # reasons that are told of a generation


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
        completions: of every prompt, as many of each.
        decode: tokens to text, without special tokens.
    """
    columns: dict[str, list[Any]] = {"prompts": [], "completions": [], "completion_ids": []}
    names = list(dict.fromkeys(name for row in rows for name in row if name != "prompt"))
    further: dict[str, list[Any]] = {name: [] for name in names}
    for row, some in zip(rows, completions, strict=True):
        chat = is_chat(row["prompt"])
        for one in some:
            text = decode(one.ids.tolist())
            columns["prompts"].append(row["prompt"])
            columns["completions"].append([{"role": "assistant", "content": text}] if chat else text)
            columns["completion_ids"].append(one.ids.tolist())
            for name in names:
                further[name].append(row.get(name))
    found, failures = pool.judge(further | columns, len(completions[0]))
    values = [[float("nan") if value is None else value for value in one] for one in found]
    return torch.tensor(values, dtype=torch.float64).reshape(len(found), -1).T.contiguous(), failures


def told(failures: Sequence[Failure], rows: Sequence[int]) -> list[str]:
    """Return sentences about rewards that failed, by function, reason and row of the data.

    Args:
        rows: that of each.
    """
    alike: dict[tuple[str, str], list[int]] = {}
    for one, row in zip(failures, rows, strict=True):
        alike.setdefault((one.reward, one.reason), []).append(row)
    found = []
    for (reward, reason), some in list(alike.items())[:_SHOWN]:
        which = "a completion" if len(some) == 1 else f"{len(some)} completions, the first"
        found.append(
            f"The reward '{reward}' failed for {which} of row {some[0]}, without a reward of it now: {reason}."
        )
    if (left := sum(map(len, list(alike.values())[_SHOWN:]))) > 0:
        found.append(f"It failed for {left} more, for other reasons.")
    return found
