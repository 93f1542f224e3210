"""What is logged of a generation, by TRL's names."""

from __future__ import annotations

import torch

from trainwright.reinforcement.generation import Generation


def metrics(generation: Generation, group: int) -> dict[str, float]:
    """Return the numbers of a generation: rewards, lengths, and how many groups there is nothing to learn from."""
    lengths, finished = generation.lengths.double(), generation.finished
    found: dict[str, float] = {}
    for number, name in enumerate(generation.functions):
        values = generation.rewards[:, number]
        found |= {f"rewards/{name}/mean": _mean(values), f"rewards/{name}/std": _deviation(values)}
    groups = generation.totals.unflatten(0, (-1, group))
    same = [float(len(known := one[~one.isnan()]) < 2 or bool((known == known[0]).all())) for one in groups]
    found |= {
        "reward": _mean(generation.totals),
        "reward_std": _deviation(generation.totals),
        "frac_reward_zero_std": sum(same) / len(same),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float((~finished).double().mean()),
    }
    if bool(finished.any()):
        found["completions/mean_terminated_length"] = float(lengths[finished].mean())
    if generation.old is not None:
        off = (torch.cat(generation.old) - torch.cat(generation.sampler)).abs()
        found |= {"sampling/difference_mean": float(off.mean()), "sampling/difference_max": float(off.max())}
    return {name: value for name, value in found.items() if value == value}  # none of what nobody judged


def _mean(values: torch.Tensor) -> float:
    return float(values.nanmean())


def _deviation(values: torch.Tensor) -> float:
    known = values[~values.isnan()]
    return float(known.std()) if len(known) > 1 else 0.0
