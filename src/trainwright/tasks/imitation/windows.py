"""What a policy learns from: what was seen up to a moment, and what was done from there on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from trainwright.tasks.imitation.episodes import Episode


class Windows(Dataset[Any]):
    """Every moment of some episodes.

    A row holds `observation`, by name, of shape (history, ...), the oldest first, the first moment repeated where the
    episode had not begun; `action` of shape (chunk, size); and `action_is_pad` of shape (chunk,), True after the end of
    the episode, where the last action is repeated.

    Attributes:
        history: moments seen.
        chunk: actions from the moment on.
    """

    def __init__(self, episodes: Sequence[Episode], history: int = 1, chunk: int = 1) -> None:
        self.episodes = list(episodes)
        self.history = history
        self.chunk = chunk
        lengths = np.array([len(one) for one in episodes])
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        episode, moment = self.episodes[number], index - int(self.starts[number])
        past = np.clip(np.arange(moment - self.history + 1, moment + 1), 0, None)
        future = np.arange(moment, moment + self.chunk)
        last = len(episode) - 1
        return {
            "observation": {name: torch.from_numpy(values[past]) for name, values in episode.observations.items()},
            "action": torch.from_numpy(episode.actions[future.clip(max=last)]),
            "action_is_pad": torch.from_numpy(future > last),
        }


def _stacked(seen: list[torch.Tensor]) -> torch.Tensor:
    """Return observations of some rows as one tensor; images of bytes beside ones from 0 to 1 are brought to those."""
    if len({one.dtype for one in seen}) > 1:
        seen = [one if one.is_floating_point() else one.float().div(255) for one in seen]
    return torch.stack(seen)


@dataclass(frozen=True)
class Together:
    """Rows as a batch: every tensor with a first dimension more; `shift` moves images at random, where it is not 0.

    The shift is that of DrQ (Yarats et al. 2021, section 3.1): pad by `shift` pixels, crop at random.
    """

    shift: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of some rows."""
        names = rows[0]["observation"]
        observation = {name: _stacked([row["observation"][name] for row in rows]) for name in names}
        if self.shift:
            observation = {name: self._moved(value) for name, value in observation.items()}
        return {"observation": observation, "action": torch.stack([row["action"] for row in rows]),
                "action_is_pad": torch.stack([row["action_is_pad"] for row in rows])}  # fmt: skip

    def _moved(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim < 5:
            return images  # numbers
        by, (high, wide) = self.shift, images.shape[2:4]
        padded = torch.nn.functional.pad(images.flatten(0, 1).permute(0, 3, 1, 2).float(), [by] * 4, mode="replicate")
        padded = padded.to(images.dtype).permute(0, 2, 3, 1).unflatten(0, images.shape[:2])
        places = torch.randint(0, 2 * by + 1, (len(images), 2)).tolist()
        return torch.stack([one[:, y : y + high, x : x + wide] for one, (y, x) in zip(padded, places, strict=True)])
