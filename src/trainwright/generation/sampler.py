"""Completions by a causal language model of transformers, many at a time.

Prompts of similar length are written after together, padded on the left with positions of their own; each is read once
for all of its completions; what is finished is taken out. Random numbers belong to a completion (`choosing.uniforms`),
so neither the company that a prompt is in nor the number of processes changes them. A logit may still differ in its
last bit with the number of rows that a matrix product has.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn

from trainwright.bars import counting
from trainwright.errors import ConfigError, DataError
from trainwright.evaluation_mode import evaluation_mode
from trainwright.generation.cache import Room, cache_name
from trainwright.generation.choosing import Choice, uniforms
from trainwright.generation.rollouts import Completion
from trainwright.generation.sampling import Sampling
from trainwright.models.inspect import base_model, limits


@dataclass(frozen=True)
class Written:
    """What has been written so far in a batch; tensors on the model's device.

    Attributes:
        ids: shape (completions, max_new_tokens); what lies behind a length means nothing.
        log_probs: float32, of the same shape.
        lengths: tokens of every completion, shape (completions,).
        finished: whether it ended by itself, shape (completions,).
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    lengths: torch.Tensor
    finished: torch.Tensor


class Sampler:
    """Writes completions with a model in this process; see `Rollouts`.

    Args:
        model: a causal language model; it is in evaluation mode while it writes.
        settings: how tokens are chosen.
        end_ids: tokens that end a completion.
        tokenizer: tells the texts of tokens, where `settings.stop` needs them.
        batch_size: completions at a time; None for all.
        quiet: whether no bar is drawn where it takes long.

    Raises:
        ConfigError: the model has no cache, or `stop` no tokenizer.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Sampling,
        end_ids: Collection[int] = (),
        *,
        tokenizer: Any = None,
        batch_size: int | None = None,
        quiet: bool = True,
    ) -> None:
        if settings.stop and tokenizer is None:
            raise ConfigError("Sampling.stop has texts, for which the Sampler needs the tokenizer.")
        inner: Any = base_model(model)
        taken = inspect.signature(inner.forward).parameters
        self.model = model
        self.settings = settings
        self.end_ids = tuple(sorted(end_ids))
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.quiet = quiet
        self._config = inner
        self._cache = cache_name(inner)
        self._takes = [name for name in ("position_ids", "logits_to_keep") if name in taken]
        self._takes_padding = Room(inner).takes_padding
        self._choice = Choice(settings)

    def complete(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], count: int = 1
    ) -> list[list[Completion]]:
        """Return `count` completions of every prompt; see `Rollouts.complete`.

        Raises:
            DataError: a prompt is empty, or leaves the model no position to write at.
        """
        for number, prompt in enumerate(prompts):
            self.check(prompt, number)
        found: list[list[Completion]] = [[] for _ in prompts]
        with counting(0 if self.quiet else len(prompts), "prompts written after") as tell:
            for some in self._batches([len(prompt) for prompt in prompts], count):
                batch = _Batch(self, [prompts[n] for n in some], [keys[n] for n in some], count)
                with torch.no_grad(), evaluation_mode(self.model):
                    while len(batch.rows):
                        batch.add_token()
                for number, completions in zip(some, _split(batch.written, count), strict=True):
                    found[number] = completions
                tell(len(some))
        return found

    def stream(self, prompt: Sequence[int], key: tuple[int, ...]) -> Iterator[int]:
        """Yield the tokens of one completion as they are written: those that `complete` gives for it alone. The
        model is in evaluation mode only while one is.

        Raises:
            DataError: the prompt is empty, or leaves the model no position to write at.
        """
        self.check(prompt, 0)
        batch, shown = _Batch(self, [prompt], [key], 1), 0
        while len(batch.rows):
            with torch.no_grad(), evaluation_mode(self.model):
                batch.add_token()
            length = int(batch.written.lengths[0])
            yield from batch.written.ids[0, shown:length].tolist()
            shown = length

    def _batches(self, lengths: list[int], count: int) -> Iterator[list[int]]:
        """Yield the numbers of prompts that are written after together, the shortest first."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        size = max(1, len(order) if self.batch_size is None else self.batch_size // count)
        groups = [order] if self._takes_padding else [list(some) for _, some in groupby(order, lengths.__getitem__)]
        for group in groups:
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def check(self, prompt: Sequence[int], number: int) -> None:
        """Raise a DataError where nothing can be written after a prompt, with its number."""
        if not len(prompt):
            raise DataError(f"Prompt {number} is empty; give at least one token, such as the tokenizer's begin token.")
        positions = limits(self._config).get("positions")
        if positions is not None and len(prompt) >= positions:
            raise DataError(
                f"Prompt {number} has {len(prompt)} tokens, and the model {positions} positions, so nothing can be "
                "written after it. Shorten the prompt."
            )

    def call(self, **inputs: Any) -> torch.Tensor:
        """Return the logits that predict the next token of every row, shape (rows, classes)."""
        inputs[self._cache] = inputs.pop("room").cache
        if "position_ids" not in self._takes:
            del inputs["position_ids"]
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = 1
        logits: torch.Tensor = self.model(**inputs, use_cache=True).logits
        return logits[:, -1]


class _Batch:
    """Prompts that are written after together, and how far they are.

    Attributes:
        rows: the completions that go on, shape (going on,): row i of the model's input is completion rows[i].
    """

    def __init__(
        self, sampler: Sampler, prompts: Sequence[Sequence[int]], keys: Sequence[tuple[int, ...]], count: int
    ) -> None:
        device = next(sampler.model.parameters()).device
        settings, total = sampler.settings, len(prompts) * count
        most, positions = settings.max_new_tokens, limits(sampler._config).get("positions")
        self.sampler, self.device, self.count, self.step = sampler, device, count, 0
        width, lengths = max(map(len, prompts)), torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.tensor([[prompt[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        self.prompts, self.lengths = ids.to(device), lengths.to(device)
        self.padded = bool((lengths < width).any())
        self.mask = (torch.arange(width) >= (width - lengths)[:, None]).long().to(device)
        self.room = Room(sampler._config)
        self.rows = torch.arange(total, device=device)
        self.drawn = torch.zeros(1, 1) if settings.greedy else uniforms(keys, count, most).to(device)
        self.most = torch.full((len(prompts),), most, device=device)
        if positions is not None:
            self.most = self.most.clamp(max=(positions - self.lengths))
        self.written = Written(
            ids=torch.zeros(total, most, dtype=torch.long, device=device),
            log_probs=torch.zeros(total, most, device=device),
            lengths=torch.zeros(total, dtype=torch.long, device=device),
            finished=torch.zeros(total, dtype=torch.bool, device=device),
        )

    def add_token(self) -> None:
        """Add a token to every completion that goes on."""
        logits = self._next() if self.step else self._first()
        choice, rows, step, written = self.sampler._choice, self.rows, self.step, self.written
        drawn = self.drawn[0, :1] if self.sampler.settings.greedy else self.drawn[rows, step]
        tokens, log_probs = choice.take(logits, self._seen() if choice.looks_back else None, drawn)
        written.ids[rows, step], written.log_probs[rows, step] = tokens, log_probs
        written.lengths[rows] = step + 1
        ended = self._ended(tokens)
        written.finished[rows] = ended
        self.step += 1
        self._take_out(ended | (self.most[rows // self.count] <= self.step))

    def _first(self) -> torch.Tensor:
        """Return the logits after the prompts, for every completion."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        logits = self.sampler.call(
            input_ids=self.prompts,
            attention_mask=self.mask if self.padded else None,
            position_ids=positions,
            room=self.room,
        )
        self.room.widen(self.count, self.written.ids.shape[1], len(self.prompts), self.device)
        if self.padded:
            more = self.mask.new_ones(len(self.rows), self.written.ids.shape[1])
            self.mask = torch.cat([self.mask.repeat_interleave(self.count, dim=0), more], dim=1)
        return logits.repeat_interleave(self.count, dim=0)

    def _next(self) -> torch.Tensor:
        """Return the logits after the last token of every completion that goes on."""
        past = self.prompts.shape[1] + self.step
        return self.sampler.call(
            input_ids=self.written.ids[self.rows, self.step - 1, None],
            attention_mask=self.mask[:, :past] if self.padded else None,
            position_ids=(self.lengths[self.rows // self.count] + self.step - 1)[:, None],
            room=self.room,
        )

    def _seen(self) -> torch.Tensor:
        """Return prompts and what was written, without padding: in its place stands the prompt's first token again."""
        return torch.cat([self.prompts[self.rows // self.count], self.written.ids[self.rows, : self.step]], dim=1)

    def _ended(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return which completions that go on have ended by themselves."""
        ended = torch.isin(tokens, torch.tensor(self.sampler.end_ids, dtype=tokens.dtype, device=self.device))
        stop, decode = self.sampler.settings.stop, getattr(self.sampler.tokenizer, "decode", None)
        if not stop or decode is None:
            return ended
        longest = max(len(one.encode()) for one in stop)  # no token but special ones is without a byte
        tails = self.written.ids[self.rows, max(0, self.step - longest) : self.step + 1].tolist()
        texts = map(decode, tails)
        return ended | torch.tensor([any(one in text for one in stop) for text in texts], device=self.device)

    def _take_out(self, over: torch.Tensor) -> None:
        """Go on without some rows: into the place of each comes one from the end that goes on."""
        if not bool(over.any()):
            return
        places = torch.arange(len(over), device=self.device)
        left = int((~over).sum())
        order = places[:left].clone()
        order[over[:left]] = places[left:][~over[left:]]
        if left:
            self.room.keep(order)
        if self.padded:
            self.mask = self.mask[order]
        self.rows = self.rows[order]


def _split(written: Written, count: int) -> Iterator[list[Completion]]:
    """Yield the completions of every prompt."""
    ids, log_probs = written.ids.cpu(), written.log_probs.cpu()
    ends = zip(written.lengths.tolist(), written.finished.tolist(), strict=True)
    each = [Completion(ids[n, :end].clone(), log_probs[n, :end].clone(), done) for n, (end, done) in enumerate(ends)]
    for start in range(0, len(each), count):
        yield each[start : start + count]
