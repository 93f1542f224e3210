"""What a policy sees, of one form wherever it comes from: files, recordings, environments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainwright.errors import DataError

STATE = "state"


def named(observation: Any) -> dict[str, np.ndarray]:
    """Return an environment's observation by name; one without names is the `state`."""
    if isinstance(observation, Mapping):
        return {name: np.asarray(value) for name, value in observation.items()}
    return {STATE: np.asarray(observation)}


def plain(name: str, values: Any) -> np.ndarray:
    """Return observations of some moments as the network takes them.

    Args:
        name: of the observation, for messages.
        values: shape (moments, ...).

    Returns:
        Numbers as float32 (moments, size): of any shape, flattened. Images as (moments, height, width, channels), uint8
        as they are and floats from 0 to 1; four dimensions are images, and so are three of uint8, which are grey.

    Raises:
        DataError: no numbers, or an image of another shape or range.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise DataError(
            f"The observation '{name}' holds {values.dtype}, which is no number; leave it out of the demonstrations."
        )
    if values.ndim > 4:
        raise DataError(
            f"The observation '{name}' has the shape {values.shape[1:]}; a moment is numbers of up to two dimensions, "
            "or an image (height, width, channels). Give several images as several observations."
        )
    if values.ndim == 3 and values.dtype == np.uint8:
        images: np.ndarray = values[..., None]
        return images
    if values.ndim == 4:
        return _intensities(name, _channels_last(name, values))
    numbers: np.ndarray = values.astype(np.float32)
    return numbers.reshape(len(values), math.prod(values.shape[1:]))


def _channels_last(name: str, values: np.ndarray) -> np.ndarray:
    """Return images whose channels, fewer than rows and columns, stand last."""
    first, middle, last = values.shape[1:]
    if last < min(first, middle):
        return values
    if first < min(middle, last):
        return np.ascontiguousarray(np.moveaxis(values, 1, -1))
    raise DataError(
        f"The observation '{name}' has the shape {values.shape[1:]}, in which neither the first nor the last are an "
        "image's channels, fewer than its rows and columns; give (height, width, channels)."
    )


def _intensities(name: str, values: np.ndarray) -> np.ndarray:
    """Return images as uint8, or as floats from 0 to 1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.float32)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    whole = values.dtype.kind in "iu"
    if not (low >= 0 and high <= (255 if whole else 1)):  # not (NaN >= 0)
        wanted = "0 to 255" if whole else "0 to 1"
        raise DataError(
            f"The image '{name}' holds {values.dtype} from {low:g} to {high:g}; {wanted} is expected (uint8 from 0 to "
            "255, floats from 0 to 1)."
        )
    return values.astype(np.uint8 if whole else np.float32)


def check_alike(found: Sequence[Mapping[str, tuple[int, ...]]]) -> None:
    """Raise a DataError where an episode sees or does something else than the first one.

    Args:
        found: of every episode, the shape of a moment by name.
    """
    for number, one in enumerate(found):
        if one == found[0]:
            continue
        name = next(name for name in [*found[0], *one] if one.get(name) != found[0].get(name))
        mine, firsts = (f"the shape {have[name]}" if name in have else "none" for have in (one, found[0]))
        raise DataError(f"Episode {number} has '{name}' of {mine}, but episode 0 of {firsts}; all need the same.")


def as_learned(wanted: Mapping[str, tuple[int, ...]], observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a policy sees of an environment's observations, in the form in which it has learned it.

    Args:
        wanted: by name, the shape of a moment.
        observation: by name, shape (environments, ...).

    Raises:
        DataError: the environment does not show it, or in another shape.
    """
    seen = {}
    for name, shape in wanted.items():
        if name not in observation:
            raise DataError(
                f"The policy sees '{name}', but the environment shows {', '.join(observation)}. It needs the "
                "environment, and its settings, of the demonstrations."
            )
        seen[name] = plain(name, observation[name])
        if seen[name].shape[1:] != shape:
            raise DataError(
                f"The policy sees '{name}' of the shape {shape}, but the environment shows {seen[name].shape[1:]}."
            )
    return seen
