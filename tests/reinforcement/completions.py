"""Fixed completions, as TRL's trainers and ours take them."""

from __future__ import annotations

from typing import Any

import torch

from tests import tiny
from trainwright.reinforcement.generation import Generation

GROUP = 4


def generation(groups: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64) -> Generation:
    """Return completions of some prompts, with log-probabilities that differ from any policy's by a little."""
    draw = torch.Generator().manual_seed(seed)
    count = groups * GROUP

    def ids(least: int, most: int) -> torch.Tensor:
        length = int(torch.randint(least, most, (1,), generator=draw))
        return torch.randint(3, tiny.VOCABULARY, (length,), generator=draw)

    heads = [ids(2, 8) for _ in range(groups)]
    completions = [ids(3, 12) for _ in range(count)]
    finished = torch.rand(count, generator=draw) < 0.7
    for done, one in zip(finished, completions, strict=True):
        if done:
            one[-1] = 2

    def noise() -> list[torch.Tensor]:
        return [-4.1 + 0.4 * torch.randn(len(one), generator=draw, dtype=dtype) for one in completions]

    rewards = torch.randn(count, 2, generator=draw, dtype=torch.float64)
    return Generation(
        epoch=0, number=0, step=0, functions=["one", "two"], rows=list(range(groups)),
        prompts=[heads[n // GROUP] for n in range(count)], completions=completions, finished=finished,
        sampler=noise(), rewards=rewards, totals=rewards.sum(1),
        advantages=torch.randn(count, generator=draw, dtype=torch.float64), old=noise(), reference=noise(),
    )  # fmt: skip


def as_trl(made: Generation, chosen: list[int], masks_truncated: bool = False) -> dict[str, Any]:
    """Return some completions as the inputs of TRL's `_compute_loss`."""
    prompts, completions = [made.prompts[n] for n in chosen], [made.completions[n] for n in chosen]
    wide, long = max(map(len, prompts)), max(map(len, completions))

    def right(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.nn.functional.pad(one, (0, long - len(one))) for one in values]).float()

    mask = right([torch.ones(len(one)) for one in completions]).long()
    counts = made.counted(masks_truncated)
    whole = sum(int(length) for length, counted in zip(made.lengths, counts, strict=True) if counted)
    return {
        "prompt_ids": torch.stack([torch.nn.functional.pad(one, (wide - len(one), 0)) for one in prompts]),
        "prompt_mask": torch.stack(
            [torch.nn.functional.pad(torch.ones_like(one), (wide - len(one), 0)) for one in prompts]
        ),
        "completion_ids": right(completions).long(),
        "completion_mask": mask * counts[chosen][:, None],
        "advantages": made.advantages[chosen].float(),
        "num_items_in_batch": torch.tensor(whole),
        "old_per_token_logps": right([made.old[n] for n in chosen]),
        "ref_per_token_logps": right([made.reference[n] for n in chosen]),
        "sampling_per_token_logps": right([made.sampler[n] for n in chosen]),
    }
