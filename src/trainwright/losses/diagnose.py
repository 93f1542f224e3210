"""When a model fails on a batch, look at the batch on the host and say which row is at fault.

This costs nothing as long as nothing fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from trainwright.errors import ConfigError, DataError, TrainwrightError, add_note
from trainwright.models.inspect import base_model, has_table_of, limits
from trainwright.objectives.targets import wanted
from trainwright.session.session import Session

_TOKENS = ("input_ids", "decoder_input_ids")
_SHOWN = 4  # of what a list holds
_OF_A_MODEL = (IndexError, RuntimeError, TypeError, ValueError)


class Explained:
    """Replaces an error of the model by a DataError, where the batch explains it, or a ConfigError, where the strategy
    does; of every micro-batch, so no generator."""

    __slots__ = ("batch", "session")

    def __init__(self, session: Session, batch: Any) -> None:
        self.session, self.batch = session, batch

    def __enter__(self) -> None:
        """Watch the model."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, TrainwrightError) or not isinstance(error, _OF_A_MODEL):
            return
        session = self.session
        told = session.strategy.explained(error)
        if told is not None:
            raise ConfigError(f"{told} ({str(error).splitlines()[0]:.80})") from error
        reason = fault(session, self.batch, error)
        where = f"At step {session.state.global_step + 1}, " if session.is_in_train else ""
        if reason is not None:
            raise DataError(f"{where}{reason}") from error
        add_note(error, f"{where}{'the' if where else 'The'} batch was {described(self.batch)}.")


def described(value: Any) -> str:
    """Return what a batch holds: kinds, types and shapes, no values."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}{list(value.shape)}" + ("" if value.device.type == "cpu" else f" on {value.device}")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {described(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        parts = [described(part) for part in value[:_SHOWN]] + ["…"] * (len(value) > _SHOWN)
        return f"a {type(value).__name__} of {len(value)} ({', '.join(parts)})"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of {value.dtype}{list(shape)}")


def fault(session: Session, batch: Any, error: Exception) -> str | None:
    """Return what is wrong with a batch for this model, or None when nothing is seen."""
    if batch is None:
        return "the batch is None: the data collator returned nothing."
    if isinstance(batch, list) and batch and all(isinstance(row, Mapping) for row in batch):
        return f"the batch is a list of {len(batch)} rows: the data collator must make one batch of them."
    if not isinstance(batch, Mapping):
        return None
    sizes = limits(session.model)
    return (
        _wrong_keywords(session.model, session.signature_columns, batch, error)
        or _no_whole_numbers(session.label_names, batch, error)
        or _tokens_out_of_range(batch, sizes)
        or _too_long(session.model, batch, sizes)
        or _labels_out_of_range(session, batch, sizes)
    )


def _wrong_keywords(
    model: torch.nn.Module, columns: list[str] | None, batch: Mapping[str, Any], error: Exception
) -> str | None:
    if not isinstance(error, TypeError) or columns is None:
        return None
    forward = base_model(model).forward
    if f"{forward.__qualname__}()" not in str(error) or takes(forward, batch):
        return None  # it comes from the user's code, or from inside the model
    accepted = sorted(set(columns) - {"label", "label_ids"})
    return f"the batch has {sorted(batch)}, but the model's forward takes {accepted}: {error}."


def takes(forward: Any, batch: Any) -> bool:
    """Whether a function can be called with what a batch holds, by name."""
    if not isinstance(batch, Mapping):
        return False
    try:
        inspect.signature(forward).bind(**batch)
    except TypeError:
        return False
    return True


def _no_whole_numbers(label_names: list[str], batch: Mapping[str, Any], error: Exception) -> str | None:
    """Tokens, classes and a language model's labels that are not of a type of whole numbers."""
    told = str(error)
    if "Expected" not in told and "Target size" not in told:
        return None
    for name in [*_TOKENS, *(label_names if "int64" in told or "Target size" in told else ())]:
        values = batch.get(name)
        if isinstance(values, torch.Tensor) and (values.is_floating_point() or values.dtype == torch.bool):
            kind = str(values.dtype).removeprefix("torch.")
            return (
                f"'{name}' of the batch is of type {kind}, but whole numbers are expected. Make it so where the rows "
                f"are made: torch.tensor(row['{name}'], dtype=torch.long)."
            )
    return None


def _tokens_out_of_range(batch: Mapping[str, Any], sizes: dict[str, int]) -> str | None:
    for name in _TOKENS:
        tokens = batch.get(name)
        if "vocabulary" in sizes and isinstance(tokens, torch.Tensor) and tokens.ndim and tokens.numel():
            wrong = (tokens < 0) | (tokens >= sizes["vocabulary"])
            if wrong.any():
                row = int(wrong.reshape(len(tokens), -1).any(dim=1).nonzero()[0])
                value = int(tokens[row][wrong[row]].flatten()[0])
                return (
                    f"row {row} of the batch has token {value} in '{name}', but the model's vocabulary has "
                    f"{sizes['vocabulary']} tokens (0 to {sizes['vocabulary'] - 1}). Use the model's own tokenizer, or "
                    "model.resize_token_embeddings(len(tokenizer))."
                )
    return None


def _too_long(model: torch.nn.Module, batch: Mapping[str, Any], sizes: dict[str, int]) -> str | None:
    names = ("input_ids", "decoder_input_ids", *(("labels",) if _writes(model) else ()))
    for tokens in (batch.get(name) for name in names if "positions" in sizes):
        length = tokens.shape[1] if isinstance(tokens, torch.Tensor) and tokens.ndim > 1 else 0
        if length > sizes["positions"] and has_table_of(model, sizes["positions"]):
            return (
                f"the sequences have {length} tokens, but the model has {sizes['positions']} positions. Truncate them: "
                f"tokenizer(..., truncation=True, max_length={sizes['positions']})."
            )
    return None


def _writes(model: torch.nn.Module) -> bool:
    """Whether a model's labels are tokens that its decoder writes."""
    return bool(getattr(getattr(base_model(model), "config", None), "is_encoder_decoder", False))


def _labels_out_of_range(session: Session, batch: Mapping[str, Any], sizes: dict[str, int]) -> str | None:
    labels = next((batch[name] for name in session.label_names if name in batch), None)
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim == 0:
        return None
    tokens = batch.get("input_ids")
    of_tokens = session.objective.shifted or _writes(session.model)
    like_tokens = isinstance(tokens, torch.Tensor) and labels.ndim > 1 and of_tokens
    what, size = ("vocabulary", sizes.get("vocabulary")) if like_tokens else ("labels", sizes.get("labels"))
    if size is None:
        return None
    wrong = wanted(labels) & ((labels < 0) | (labels >= size))
    if not wrong.any():
        return None
    row = int(wrong.reshape(len(labels), -1).any(dim=1).nonzero()[0])
    value = int(labels[row][wrong[row]].flatten()[0])
    fix = "Use the model's own tokenizer." if like_tokens else f"Build the model with num_labels={value + 1} or more."
    return f"row {row} of the batch has label {value}, but the model's {what} go from 0 to {size - 1}. {fix}"
