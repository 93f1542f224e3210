"""A method of somebody else's, whole: unlikelihood training (Welleck et al., arXiv:1908.04319) on completions of which
each is good or bad. Besides this file it needs one line, in the table of `config/methods.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright import DataError, Loss, Objective
from trainwright.config.keys.uses import KWARGS
from trainwright.config.methods import Fault
from trainwright.config.options import TextOptions
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.data.text.encode import Steps
from trainwright.data.text.text_collators import PaddedBatch
from trainwright.data.text.tokenize import TextRules
from trainwright.tasks.language.method import LanguageMethod, Part, Text

EXAMPLE = """# Unlikelihood training: rows with prompt, completion and label, which is true for good ones.
model:
  model_name: ./model
data:
  train:
    datasets:
      - dataset_name: ./judged.jsonl
training:
  trainer_type: UNLIKELIHOOD
  max_steps: 1
  per_device_train_batch_size: 3
  gradient_accumulation_steps: 2
  logging_steps: 1
  enable_tensorboard: false
  save_final_model: false
  use_cpu: true
  trainer_kwargs:
    alpha: 0.5                       # how much a bad completion weighs
"""


@dataclass
class UnlikelihoodOptions(TextOptions):
    """Settings: what a bad completion weighs."""

    alpha: float = 1.0


@dataclass(frozen=True)
class JudgedRules(TextRules):
    """A prompt and its completion as ever, and whether it is good."""

    COLUMNS = ("input_ids", "labels", "good")

    def encode(self, row: dict[str, Any]) -> Steps[dict[str, Any]]:
        if not isinstance(row["label"], bool):
            raise DataError(f"'label' is {row['label']!r}; true or false is expected.")
        return {**(yield from super().encode(row)), "good": [int(row["label"])]}


@dataclass(frozen=True)
class JudgedBatch(PaddedBatch):
    """Padded rows, and `good` of shape (rows, 1)."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {**super().__call__(rows), "good": torch.stack([row["good"] for row in rows])}


@dataclass
class UnlikelihoodLoss(Objective):
    """The mean over all targets of -log p in good completions, and of -alpha log(1 - p) in bad ones."""

    alpha: float

    def count(self, batch: Any) -> int:
        return int((batch["labels"][:, 1:] != -100).sum())

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        targets = batch["labels"][:, 1:]
        chances = outputs.logits[:, :-1].float().log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
        wrong = -self.alpha * torch.log1p(-chances.exp().clamp(max=1 - 1e-6))
        learned = targets != -100
        losses = torch.where(batch["good"].bool(), -chances, wrong) * learned
        bad = ((batch["good"] == 0) & learned).sum() / learned.sum()
        return Loss(losses.sum() / (num_items or self.count(batch)), outputs, terms={"bad": bad})


class Unlikelihood(LanguageMethod):
    """The method: everything but this class's own words is the default."""

    title = "unlikelihood training"
    options = UnlikelihoodOptions
    accepts = (Format.COMPLETION,)
    learns_from = "'prompt', 'completion' and 'label'"

    def example(self) -> str:
        return EXAMPLE

    def faults(self, options: UnlikelihoodOptions) -> Iterator[Fault]:
        if options.alpha < 0:
            yield f"{KWARGS}.alpha", f"alpha {options.alpha} is negative", "0 or more"
        yield from super().faults(options)

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        if "label" not in columns:
            raise DataError(f"There is no column 'label' beside {', '.join(columns)}: whether a completion is good.")
        return super().format_of(columns, text_column)

    def rules(self, config: TrainingConfig, options: Any, tokenizer: Any, found: Format) -> JudgedRules:
        return JudgedRules(tokenizer, found, max_length=options.max_length)

    def collator(self, text: Text) -> JudgedBatch:
        return JudgedBatch(text.tokenizer.pad_token_id, text.multiple)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        (part,) = super().parts(row)
        return [Part("good" if row["good"].item() else "bad", part.ids, part.learned)]

    def objective(self, model: Any, args: Any, text: Text) -> UnlikelihoodLoss:
        return UnlikelihoodLoss(text.options.alpha)
