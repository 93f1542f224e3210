"""What an evaluation tells besides the loss, by name: of classes, and of texts that were generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainwright.batch import IGNORED

Scores = Callable[[Any], dict[str, float]]


def of_classes(names: Sequence[str]) -> Scores:
    """Return a function of an EvalPrediction whose predictions are logits, shape (rows, classes) or (rows, words,
    classes), and whose labels are numbers of classes; -100 is none.

    `accuracy` is the share of right guesses; `f1` the mean over the classes that were guessed or are right, of
    2 TP / (2 TP + FP + FN); `exact_match` the share of rows that are right throughout.
    """

    def scores(given: Any) -> dict[str, float]:
        logits = given.predictions[0] if isinstance(given.predictions, tuple) else given.predictions
        guesses, labels = logits.argmax(-1), given.label_ids
        counted = labels != IGNORED
        right = (guesses == labels) | ~counted
        found = {
            "accuracy": float((guesses == labels)[counted].mean()),
            "f1": macro_f1(guesses[counted], labels[counted]),
            "exact_match": float(right.reshape(len(right), -1).all(axis=1).mean()),
        }
        return {name: found[name] for name in names}

    return scores


def macro_f1(guesses: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 over the classes that occur in either."""
    each = []
    for one in np.union1d(guesses, labels):
        both = int(((guesses == one) & (labels == one)).sum())
        each.append(2 * both / int((guesses == one).sum() + (labels == one).sum()))
    return float(np.mean(each))


def of_texts(names: Sequence[str], tokenizer: Any) -> Scores:
    """Return a function of an EvalPrediction whose predictions and labels are tokens, shape (rows, tokens).

    `exact_match` is the share of rows that are the target but for spaces around it; `f1` the mean over the rows of
    2 C / (A + B), where C words are in both, A in the text and B in the target (as SQuAD's, arXiv:1606.05250, with the
    words as they are).
    """

    def texts(ids: np.ndarray) -> list[str]:
        kept = np.where(ids == IGNORED, tokenizer.pad_token_id, ids)
        return [one.strip() for one in tokenizer.batch_decode(kept, skip_special_tokens=True)]

    def scores(given: Any) -> dict[str, float]:
        pairs = list(zip(texts(given.predictions), texts(given.label_ids), strict=True))
        found = {
            "exact_match": float(np.mean([one == other for one, other in pairs])),
            "f1": float(np.mean([word_f1(one, other) for one, other in pairs])),
        }
        return {name: found[name] for name in names}

    return scores


def word_f1(text: str, target: str) -> float:
    """Return the F1 of the words of a text; 1 where neither has any."""
    words, wanted = Counter(text.split()), Counter(target.split())
    size = words.total() + wanted.total()
    return 2 * (words & wanted).total() / size if size else 1.0
