"""What the completions of a generation are worth, from their rewards. Pure functions of whole generations.

Groups lie one after another. A reward that is NaN is none: its completion has the advantage 0 and counts in no mean.
"""

from __future__ import annotations

import torch

_TINY = 1e-4  # TRL's, below the standard deviations


def weighted(rewards: torch.Tensor, weights: list[float] | None) -> torch.Tensor:
    """Return the reward of every completion: the weighted sum of those that there are; NaN where there is none.

    Args:
        rewards: of each function, shape (completions, functions).
        weights: of the functions; None for 1 each.
    """
    factors = rewards.new_ones(rewards.shape[1]) if weights is None else rewards.new_tensor(weights)
    total = (rewards * factors).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def of_groups(rewards: torch.Tensor, group: int, scale: str) -> torch.Tensor:
    """Return rewards less the mean of their group, shape (completions,) (Shao et al. 2024, arXiv:2402.03300).

    Args:
        rewards: shape (completions,).
        group: completions of a prompt.
        scale: `group`, `batch` or `none`: whose standard deviation they are divided by (Liu et al. 2025,
            arXiv:2503.20783, divide by none).
    """
    groups = rewards.unflatten(0, (-1, group))
    off = groups - groups.nanmean(dim=1, keepdim=True)
    if scale == "group":
        off = off / (_deviation(groups) + _TINY)
    elif scale == "batch":
        off = off / (_deviation(rewards[None]) + _TINY)
    found: torch.Tensor = off.flatten().nan_to_num(nan=0.0)
    return found


def of_the_others(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Return rewards less the mean of the others of their group (Ahmadian et al. 2024, arXiv:2402.14740); 0 for one
    that is alone. Shapes as of `of_groups`."""
    groups = rewards.unflatten(0, (-1, group))
    others = (~groups.isnan()).sum(dim=1, keepdim=True) - 1
    baseline = (groups.nansum(dim=1, keepdim=True) - groups) / others
    return torch.where(others > 0, groups - baseline, torch.nan).flatten().nan_to_num(nan=0.0)


def standardized(values: torch.Tensor) -> torch.Tensor:
    """Return values of mean 0 and standard deviation 1, shape (completions,)."""
    return (values - values.mean()) / (values.std() + _TINY)


def _deviation(groups: torch.Tensor) -> torch.Tensor:
    """Return the unbiased standard deviation of what is no NaN in every row, shape (rows, 1); NaN for a single one."""
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    squares = (groups - groups.nanmean(dim=1, keepdim=True)).square().nansum(dim=1, keepdim=True)
    return (squares / (count - 1)).sqrt()
