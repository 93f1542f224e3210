"""How right a model's answers are under teacher forcing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainwright.batch import IGNORED


def argmax_of_logits(logits: Any, labels: Any) -> torch.Tensor:
    """Return the predicted tokens, so that no logits are kept; shape (rows, tokens)."""
    scores: torch.Tensor = logits[0] if isinstance(logits, tuple) else logits
    return scores.argmax(dim=-1)


def shifted_argmax(logits: Any, labels: Any) -> torch.Tensor:
    """Return the tokens that a decoder-only model predicts, each in the place of its label; shape (rows, tokens)."""
    return argmax_of_logits(logits, labels).roll(1, dims=1)


def token_metrics(prediction: Any) -> dict[str, float]:
    """Return token_accuracy, and success_rate: the share of rows whose every token is right."""
    found, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    wanted = labels != IGNORED
    right = (found == labels) & wanted
    return {
        "token_accuracy": float(right.sum() / max(wanted.sum(), 1)),
        "success_rate": float((right.sum(axis=1) == wanted.sum(axis=1)).mean()),
    }
