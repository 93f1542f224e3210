"""A model measured on data: by the loss of every row; what is found is kept beside its run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainwright.data.text.chat import template_text
from trainwright.errors import DataError
from trainwright.trained.folders import Trained
from trainwright.trained.loading import load
from trainwright.trained.measuring import losses
from trainwright.trained.measuring.comparing import Scores
from trainwright.trained.measuring.results import Result, keep_result
from trainwright.trained.measuring.rows import Data, tokenised

BY_TOKENS = ("loss", "perplexity", "accuracy")


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a model.

    Attributes:
        trained: the model.
        scores: its metrics, by rows.
        rows: what is kept of every row, `row` its number.
        vocabulary: a key of its tokens: losses a token are compared where it is the same.
    """

    trained: Trained
    scores: list[Scores]
    rows: list[dict[str, Any]]
    vocabulary: int

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics over all rows."""
        return {one.name: one.value for one in self.scores}


def by_loss(
    trained: Trained,
    data: Data,
    dtype: str | None = None,
    device: torch.device | None = None,
    template: str | None = None,
) -> Evaluation:
    """Return how likely a model finds what the rows hold: loss, perplexity, accuracy of tokens, bits a byte.

    Args:
        trained: the model.
        data: the rows.
        dtype: the weights' number format; as they are saved when not given.
        device: where the model computes.
        template: of conversations, where the model has none of its own, as `model.chat_template` is given.

    Raises:
        ConfigError, DataError: the model cannot be loaded, or cannot be measured on such rows.
    """
    model, tokenizer = load(trained, dtype, device)
    if template is not None and not getattr(tokenizer, "chat_template", None):
        tokenizer.chat_template = template_text(template)
    found = losses.row_losses(model, tokenizer, tokenised(trained, tokenizer, data))
    return Evaluation(trained, scores_of(found), losses.as_rows(found), vocabulary_of(tokenizer))


def vocabulary_of(tokenizer: Any) -> int:
    """Return a key of a tokenizer's tokens."""
    return hash(frozenset(tokenizer.get_vocab().items()))


def scores_of(rows: Sequence[losses.RowLoss]) -> list[Scores]:
    """Return the metrics of rows whose losses were measured."""
    nll, tokens, right, size = (
        np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in ("nll", "tokens", "right", "size")
    )
    found = [
        Scores("loss", nll, tokens, less_is_better=True),
        Scores("perplexity", nll, tokens, less_is_better=True, exponential=True),
        Scores("accuracy", right, tokens),
    ]
    bits = nll / np.log(2)
    return [*found, Scores("bits per byte", bits, size, less_is_better=True)] if size.all() else found


def on_the_same_rows(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return evaluations with the rows that could be measured of all models.

    Raises:
        DataError: there is none.
    """
    numbers = [[row["row"] for row in one.rows] for one in evaluations]
    shared = set(numbers[0]).intersection(*numbers[1:])
    if not shared:
        raise DataError("No row could be measured of all models, so they are not compared.")
    found = []
    for one, own in zip(evaluations, numbers, strict=True):
        kept = np.array([number in shared for number in own])
        scores = [replace(score, amounts=score.amounts[kept], weights=score.weights[kept]) for score in one.scores]
        found.append(replace(one, scores=scores, rows=[row for row in one.rows if row["row"] in shared]))
    return found


def comparable(evaluations: Sequence[Evaluation]) -> list[list[Scores]]:
    """Return the metrics that are compared: of models with other tokens, those that are not counted by tokens."""
    same = len({one.vocabulary for one in evaluations}) == 1
    names = [
        one.name for one in evaluations[0].scores if all(one.name in (s.name for s in e.scores) for e in evaluations)
    ]
    names = [name for name in names if same or name not in BY_TOKENS]
    return [[score for score in one.scores if score.name in names] for one in evaluations]


def keep(evaluation: Evaluation, data: str, settings: dict[str, Any], folder: Path | None = None) -> Path | None:
    """Write what was measured, by the names of model and data, beside the model's run or into a folder; return the
    file, None for a model without a run."""
    trained = evaluation.trained
    if folder is None and not trained.is_of_run:
        return None
    result = Result(
        model=str(trained.folder),
        data=data,
        rows=len(evaluation.rows),
        metrics=evaluation.metrics,
        settings=settings,
        time=time.time(),
    )
    return keep_result(folder or trained.run, file_name(trained, data), result, evaluation.rows)


def file_name(trained: Trained, data: str) -> str:
    """Return what results of a model on data are called: by the data, and of a run's checkpoint by its name too."""
    inside = trained.folder.resolve() != trained.run.resolve()
    return f"{trained.folder.name}-on-{data}" if inside else data
