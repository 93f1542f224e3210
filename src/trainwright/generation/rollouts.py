"""What writes completions, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Completion:
    """What was written after a prompt.

    Attributes:
        ids: the tokens, the end token among them; int64, shape (tokens,), on the host.
        log_probs: of every token when it was chosen, at the temperature and before top_k, top_p and min_p; float32,
            shape (tokens,), on the host.
        finished: whether it ended by an end token or a stop text, and not because there was no more room.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    finished: bool


class Rollouts(Protocol):
    """Whatever writes completions: a model in this process, or a server."""

    def complete(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], count: int = 1
    ) -> list[list[Completion]]:
        """Return `count` completions of every prompt.

        Args:
            prompts: token numbers.
            keys: of every prompt, the numbers that its random numbers follow from, such as (seed, step, row);
                completion k draws from (*key, k). So what is drawn is the same in whatever order and company they come.
            count: completions of each.
        """
