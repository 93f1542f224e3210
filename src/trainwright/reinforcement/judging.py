"""What a reward function is told of completions, what becomes of what it says, and what completions are worth by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from trainwright.config.policy_options import PolicyOptions, RLOOOptions
from trainwright.data.sources.formats import is_chat
from trainwright.generation.rollouts import Completion
from trainwright.objectives.policy import advantages
from trainwright.reinforcement.generation import Generation
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
        found.append(f"The reward '{reward}' failed for {which} of row {some[0]}, and is left out there: {reason}.")
    if (left := sum(map(len, list(alike.values())[_SHOWN:]))) > 0:
        found.append(f"{left} more rewards of this generation failed, for other reasons.")
    return found


def worth(generation: Generation, options: PolicyOptions) -> torch.Tensor:
    """Return the advantages of the completions, float64, shape (completions,)."""
    rewards, group = generation.totals, options.num_generations
    if not isinstance(options, RLOOOptions):
        return advantages.of_groups(rewards, group, getattr(options, "scale_rewards", "group"))
    if options.reward_clip_range is not None:
        rewards = rewards.clamp(*options.reward_clip_range)
    if generation.reference is not None:
        old = generation.old if generation.old is not None else generation.sampler
        distance = [(a - b).double().sum() for a, b in zip(old, generation.reference, strict=True)]
        rewards = rewards - options.beta * torch.stack(distance)
    found = advantages.of_the_others(rewards, group)
    return advantages.standardized(found) if options.normalize_advantages else found
