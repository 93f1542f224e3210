"""A trained model that writes: its sampler, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainwright.errors import ConfigError
from trainwright.generation.rollouts import Completion
from trainwright.generation.sampler import Sampler
from trainwright.generation.sampling import Sampling
from trainwright.models.inspect import base_model, shifts_labels
from trainwright.trained.asking.prompts import Asker, Message, end_of_answers
from trainwright.trained.folders import Trained
from trainwright.trained.loading import load


@dataclass(frozen=True)
class Writer:
    """A model, its tokenizer, and how it is asked.

    Attributes:
        model: a causal language model, in evaluation mode.
        asker: makes tokens of prompts.
        sampler: writes.
        stop: texts that end an answer, and are no part of what is shown.
    """

    model: Any
    asker: Asker
    sampler: Sampler
    stop: tuple[str, ...]

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.asker.tokenizer

    def complete(
        self, prompts: Sequence[str | Sequence[Message]], keys: Sequence[tuple[int, ...]], count: int = 1
    ) -> list[list[Completion]]:
        """Return `count` completions of every prompt, whose random numbers follow from its key."""
        return self.sampler.complete([self.asker.ids(prompt) for prompt in prompts], keys, count)

    def text(self, ids: Sequence[int] | torch.Tensor) -> str:
        """Return what was written as text, without what ended it."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        for end in self.stop:
            text = text.partition(end)[0]
        return text


def writer(
    trained: Trained,
    settings: Sampling,
    *,
    system: str | None = None,
    as_chat: bool = False,
    batch_size: int = 16,
    dtype: str | None = None,
    device: torch.device | None = None,
) -> Writer:
    """Return a trained model that writes.

    Args:
        trained: the model.
        settings: how tokens are chosen; what ends an answer of the model's is added.
        system: the system prompt, or None.
        as_chat: whether prompts that are texts are what a user says.
        batch_size: completions at a time.
        dtype: the weights' number format; as they are saved when not given.
        device: where the model computes.

    Raises:
        ConfigError: it cannot be loaded, or does not write.
    """
    model, tokenizer = load(trained, dtype, device)
    if not shifts_labels(model):
        raise ConfigError(
            f"A {type(base_model(model)).__name__} does not go on with a text; give a causal language model."
        )
    ends, stop = end_of_answers(model, tokenizer)
    given = trained.config.model.chat_template_kwargs if trained.config is not None else None
    sampler = Sampler(
        model, replace(settings, stop=(*settings.stop, *stop)), ends, tokenizer=tokenizer, batch_size=batch_size,
    )  # fmt: skip
    return Writer(model, Asker(tokenizer, system, as_chat, given), sampler, (*settings.stop, *stop))
