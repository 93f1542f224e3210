"""Numbers of different sizes made alike: computed from the data, kept with the weights, undone at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.imitation.episodes import Episode

KINDS = ("mean_std", "min_max", "percentile", "identity")
ACTION = "action"
_LEAST = 1e-4  # a dimension that does not change is not stretched


class Normalizer(nn.Module):
    """Shift and scale of every observation and of the actions, as buffers: saved and loaded with the policy.

    mean_std gives mean 0 and deviation 1; min_max brings to [-1, 1]; percentile brings the 1st and 99th to -1 and 1,
    without clipping; identity leaves as it is. Images are brought to [0, 1] and are no part of it.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        for name, size in sizes.items():
            self.register_buffer(f"{name}_shift", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    def forward(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return values of shape (..., size), normalised."""
        return (values - self.get_buffer(f"{name}_shift")) / self.get_buffer(f"{name}_scale")

    def inverse(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return normalised values of shape (..., size) as they were."""
        return values * self.get_buffer(f"{name}_scale") + self.get_buffer(f"{name}_shift")

    @torch.no_grad()
    def fit(
        self, episodes: Sequence[Episode], kinds: Mapping[str, str], masks: Mapping[str, Sequence[bool]] | None = None
    ) -> None:
        """Compute shift and scale from episodes.

        Args:
            kinds: by name; `default` for those that are not named.
            masks: by name, True for the dimensions that are normalised.

        Raises:
            ConfigError: a kind that is not known, or a mask of another size.
        """
        for name in _names(self):
            values = np.concatenate([e.actions if name == ACTION else e.observations[name] for e in episodes])
            shift, scale = statistics(values.astype(np.float64), kinds.get(name, kinds.get("default", "mean_std")))
            given = (masks or {}).get(name)
            kept = np.ones(len(shift), dtype=bool) if given is None else np.asarray(given, dtype=bool)
            if kept.shape != shift.shape:
                raise ConfigError(f"normalization_masks.{name} has {kept.size} values; '{name}' has {shift.size}.")
            self.get_buffer(f"{name}_shift").copy_(torch.from_numpy(np.where(kept, shift, 0.0)))
            self.get_buffer(f"{name}_scale").copy_(torch.from_numpy(np.where(kept, scale, 1.0)))


def _names(normalizer: nn.Module) -> list[str]:
    return [name.removesuffix("_shift") for name, _ in normalizer.named_buffers() if name.endswith("_shift")]


def statistics(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (shift, scale) of values of shape (rows, size).

    Raises:
        ConfigError: a kind that is not known.
    """
    if kind == "identity":
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    if kind == "mean_std":
        shift, scale = values.mean(axis=0), values.std(axis=0)
    elif kind in ("min_max", "percentile"):
        low, high = (values.min(axis=0), values.max(axis=0)) if kind == "min_max" else np.percentile(values, [1, 99], 0)
        shift, scale = (low + high) / 2, (high - low) / 2
    else:
        raise ConfigError(f"normalization '{kind}' is not known.{did_you_mean(kind, KINDS)} Known: {', '.join(KINDS)}.")
    return shift, np.where(scale < _LEAST, 1.0, scale)


def sizes_of(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return what a normaliser is made for: the numbers of the observations, not their images, and the actions."""
    first = episodes[0]
    plain = {name: values.shape[1] for name, values in first.observations.items() if values.ndim == 2}
    return {**plain, ACTION: first.actions.shape[1]}
