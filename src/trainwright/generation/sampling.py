"""How the next token is chosen, in the names of transformers' `GenerationConfig`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trainwright.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """Settings of what is written.

    Attributes:
        max_new_tokens: tokens that are written at most, the end token among them.
        temperature: what logits are divided by; 0 always takes the likeliest token.
        top_k: so many of the likeliest tokens are chosen from; 0 for all.
        top_p: the likeliest tokens are chosen from that together have this probability; 1 for all.
        min_p: tokens are left out with less than this share of the likeliest one's probability; None for none.
        repetition_penalty: what makes tokens of the prompt and of what is written less likely, above 1 (Keskar et al.
            2019, arXiv:1909.05858); 1 for nothing.
        stop: texts that end what is written, and belong to it.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, wrong in self.faults():
            raise ConfigError(f"{name} {getattr(self, name)!r} {wrong}.")

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield (field, what is wrong) of every setting out of its range."""
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "is less than one token"
        if not 0 <= self.temperature < float("inf"):
            yield "temperature", "is not 0 (the likeliest token) or above"
        if self.top_k < 0:
            yield "top_k", "is negative; 0 chooses from all tokens"
        if not 0 < self.top_p <= 1:
            yield "top_p", "is not above 0 and at most 1"
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            yield "min_p", "is not from 0 to 1"
        if not self.repetition_penalty > 0:
            yield "repetition_penalty", "is not above 0; 1 is no penalty"
        if any(not text for text in self.stop):
            yield "stop", "has an empty text, which would end everything at once"

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0
