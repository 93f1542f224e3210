"""The choice of the next token, by one random number that is the completion's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from trainwright.generation.sampling import Sampling

_BLOCK = 256  # classes whose sum is looked at first, so that most of a large vocabulary is only summed up
_BELOW_ONE = 1 - 2**-40

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def uniforms(keys: Sequence[tuple[int, ...]], count: int, tokens: int) -> torch.Tensor:
    """Return the random numbers of completions, from 0 to below 1; float64, shape (keys · count, tokens).

    Those of completion k of a key come from a generator seeded by the two alone. They are made on the host, so they are
    the same for every device.
    """
    generator = torch.Generator()
    drawn = torch.empty(len(keys) * count, tokens, dtype=torch.float64)
    for row, numbers in enumerate((*key, k) for key in keys for k in range(count)):
        digest = hashlib.blake2b(repr(tuple(map(int, numbers))).encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        torch.rand(tokens, dtype=torch.float64, generator=generator, out=drawn[row])
    return drawn.clamp_(max=_BELOW_ONE)


class Choice:
    """Chooses tokens as settings say; what changes the logits is transformers' own."""

    def __init__(self, settings: Sampling) -> None:
        from transformers.generation import logits_process as changes

        self.settings = settings
        self._before: list[Any] = []
        self._after: list[Any] = []
        if settings.repetition_penalty != 1:
            self._before.append(changes.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if settings.top_k and not settings.greedy:
            self._after.append(changes.TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1 and not settings.greedy:
            self._after.append(changes.TopPLogitsWarper(settings.top_p))
        if settings.min_p is not None and not settings.greedy:
            self._after.append(changes.MinPLogitsWarper(settings.min_p))

    @property
    def looks_back(self) -> bool:
        """Whether the tokens so far matter."""
        return bool(self._before)

    def take(
        self, logits: torch.Tensor, seen: torch.Tensor | None, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (tokens, their log-probabilities), both of shape (rows,).

        Args:
            logits: shape (rows, classes).
            seen: the tokens so far, shape (rows, tokens), where `looks_back`.
            drawn: a random number from 0 to below 1 for every row, float64, shape (rows,).
        """
        logits = logits.float()
        for change in self._before:
            logits = change(seen, logits)
        if self.settings.greedy:
            tokens = logits.argmax(-1, keepdim=True)
            return tokens.squeeze(1), (logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)).squeeze(1)
        if self.settings.temperature != 1:
            logits = logits / self.settings.temperature
        kept = logits
        for change in self._after:
            kept = change(seen, kept)
        highest = logits.amax(-1, keepdim=True)  # which is kept, whatever is left out
        tokens, total = picked((kept - highest).exp_(), drawn)
        if kept is not logits:
            total = (logits - highest).exp_().sum(-1, keepdim=True)
        log_probs = logits.gather(1, tokens[:, None]) - highest - total.log().to(logits.dtype)
        return tokens, log_probs.squeeze(1)


def picked(shares: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (the class in which a random number falls when the shares are laid end to end, shape (rows,); the sum of
    the shares, float64, shape (rows, 1)).

    Args:
        shares: not negative; shape (rows, classes).
        drawn: from 0 to below 1, of the whole length; float64, shape (rows,).
    """
    blocks = functional.pad(shares, (0, -shares.shape[1] % _BLOCK)).unflatten(1, (-1, _BLOCK))
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    place = drawn[:, None] * ends[:, -1:]
    block = _first_above(ends, place)
    before = functional.pad(ends, (1, 0)).gather(1, block)
    inner = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK)).squeeze(1).double().cumsum(-1)
    return (block * _BLOCK + _first_above(inner, place - before)).squeeze(1), ends[:, -1:]


def _first_above(ends: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Return the first of some rising numbers above a place, shape (rows, 1); the last that rises where none is."""
    last = torch.nextafter(ends[:, -1:], torch.zeros_like(place))
    return torch.searchsorted(ends, torch.minimum(place, last), right=True)
