"""Numbers of different sizes made alike: computed from the data, kept with the weights, undone at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.tasks.imitation.episodes import Episode
from trainwright.tasks.imitation.observations import check_alike

KINDS = ("mean_std", "min_max", "percentile", "identity")
ACTION = "action"
# A dimension that changes by no more than float32's rounding of its numbers does not change, and is not stretched.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)
_LEAST = 1e-8  # of numbers that should be 0


class Normalizer(nn.Module):
    """Shift and scale of every observation and of the actions, as buffers: saved and loaded with the policy.

    mean_std gives mean 0 and deviation 1; min_max brings to [-1, 1]; percentile brings the 1st and 99th to -1 and 1,
    without clipping; identity leaves as it is. Images are brought to [0, 1] and are no part of it.

    `action_low` and `action_high` are the least and the greatest demonstrated actions, normalised: -1 and 1 by min_max,
    the actions' own where a mask leaves them as they are, and alike where an action does not change.
    """

    action_low: torch.Tensor
    action_high: torch.Tensor

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.names = list(sizes)
        for name, size in sizes.items():
            self.register_buffer(f"{key(name)}_shift", torch.zeros(size))
            self.register_buffer(f"{key(name)}_scale", torch.ones(size))
        self.register_buffer("action_low", torch.full((sizes[ACTION],), -1.0))
        self.register_buffer("action_high", torch.ones(sizes[ACTION]))

    def forward(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return values of shape (..., size), normalised."""
        return (values - self.get_buffer(f"{key(name)}_shift")) / self.get_buffer(f"{key(name)}_scale")

    def inverse(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return normalised values of shape (..., size) as they were."""
        return values * self.get_buffer(f"{key(name)}_scale") + self.get_buffer(f"{key(name)}_shift")

    @torch.no_grad()
    def fit(
        self, episodes: Sequence[Episode], kinds: Mapping[str, str], masks: Mapping[str, Sequence[bool]] | None = None
    ) -> None:
        """Compute shift and scale from episodes.

        Args:
            kinds: by name; `default` for those that are not named.
            masks: by name, True for the dimensions that are normalised.

        Raises:
            ConfigError: a kind that is not known, a mask of another size, or of what is not there.
            DataError: numbers that are not finite.
        """
        for name in masks or {}:
            if name not in self.names:
                raise ConfigError(f"normalization_masks: unknown name '{name}'; there are {', '.join(self.names)}.")
        for name in self.names:
            values = _numbers(episodes, name)
            shift, scale = statistics(values, kinds.get(name, kinds.get("default", "mean_std")))
            given = (masks or {}).get(name)
            kept = np.ones(len(shift), dtype=bool) if given is None else np.asarray(given, dtype=bool)
            if kept.shape != shift.shape:
                raise ConfigError(f"normalization_masks.{name} has {kept.size} values; '{name}' has {shift.size}.")
            self.get_buffer(f"{key(name)}_shift").copy_(torch.from_numpy(np.where(kept, shift, 0.0)))
            self.get_buffer(f"{key(name)}_scale").copy_(torch.from_numpy(np.where(kept, scale, 1.0)))
        for end, buffer in ((values.min(axis=0), self.action_low), (values.max(axis=0), self.action_high)):
            buffer.copy_(self(ACTION, torch.from_numpy(end)))


def key(name: str) -> str:
    """Return the name of an observation as parts of a network may have it: LeRobot's have dots."""
    return name.replace(".", "-")


def _numbers(episodes: Sequence[Episode], name: str) -> np.ndarray:
    """Return the values of all episodes, float64 (rows, size)."""
    parts = [one.actions if name == ACTION else np.asarray(one.observations[name]) for one in episodes]
    for number, part in enumerate(parts):
        if not np.isfinite(part).all():
            raise DataError(f"Episode {number} has '{name}' with numbers that are not finite (NaN or inf); repair it.")
    return np.concatenate(parts).astype(np.float64)


def statistics(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (shift, scale) of values of shape (rows, size); the scale of what does not change is 1.

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
    least = np.maximum(np.abs(values).max(axis=0) * _ROUNDING, _LEAST)
    return shift, np.where(scale <= least, 1.0, scale)


def sizes_of(episodes: Sequence[Episode]) -> dict[str, int]:
    """Return what a normaliser is made for: the numbers of the observations, not their images, and the actions.

    Raises:
        DataError: episodes that see or do something else than the first one, or an observation called `action`.
    """
    if any(ACTION in one.observations for one in episodes):
        raise DataError(
            f"The demonstrations have an observation '{ACTION}', which is what the actions are called; call it another "
            "name, such as 'last_action'."
        )
    found = [{name: values.shape[1:] for name, values in one.observations.items()} for one in episodes]
    check_alike([{**seen, ACTION: one.actions.shape[1:]} for seen, one in zip(found, episodes, strict=True)])
    first = episodes[0]
    plain = {name: values.shape[1] for name, values in first.observations.items() if values.ndim == 2}
    return {**plain, ACTION: first.actions.shape[1]}
