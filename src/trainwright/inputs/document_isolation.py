"""Whether documents in one row stay apart: proven where such rows first reach the model, and not assumed of any.

Attention that knows documents is not enough: recurrent layers, convolutions and positions that count on carry what
stands in one document into the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trainwright.batch import IGNORED, MAPPINGS, row_count
from trainwright.errors import TrainwrightError
from trainwright.evaluation_mode import evaluation_mode
from trainwright.models.hooks import unwatched
from trainwright.models.inspect import base_model, is_pretrained
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.model_loss import logits_of
from trainwright.objectives.padding_free import FLAT_INPUTS, KERNEL_INPUTS, document_lengths, padded_documents
from trainwright.session.session import Session

_TOKENS = 64  # of each of the two documents that are compared
_CLOSE = {4: 1e-3, 2: 5e-2}  # relative difference from a document alone, by bytes of the number format
_SCALES = (1.0, 2.0**-12)  # of what is differentiated: the gradient at the embedding of padding, 0, overflows float16
_FAULTS = (
    TrainwrightError, RuntimeError, IndexError, ValueError, TypeError, AttributeError, NotImplementedError,
)  # fmt: skip


def kept_apart(session: Session, inputs: Any, fused: FusedLoss | None) -> Any:
    """Return a batch as the model may have it: documents in one row where it was proven that none sees another, else
    padded, one in a row.

    Args:
        session: whose model is called.
        inputs: any batch, on the host; those that are not documents in one row are returned as they are.
        fused: what computes the loss, or None where the model is called as it is.
    """
    if not is_flat(inputs) or not is_pretrained(base_model(session.model)):
        return inputs
    way = "model" if fused is None else "fused" if fused.flat_rows is None else "flat"
    if way not in session.isolation:
        more = {name: value for name, value in inputs.items() if name == "use_cache"}
        with unwatched(session.model):
            session.isolation[way] = reason = leak(session, session.model, fused, inputs["input_ids"], more)
        if reason is not None:
            session.note(
                f"Documents that came in one row are padded, one in a row: with several in one row, {reason} in this "
                f"{type(base_model(session.model)).__name__}."
            )
    return inputs if session.isolation[way] is None else apart(session.model, inputs)


def apart(model: Any, inputs: Any) -> Any:
    """Return a batch with its documents padded, one in a row, where they are in one row."""
    if not is_flat(inputs):
        return inputs
    pad = getattr(base_model(model).config, "pad_token_id", None)
    return padded_documents(inputs, pad if isinstance(pad, int) and pad >= 0 else 0)


def is_flat(inputs: Any) -> bool:
    """Whether a batch holds documents one after another in a single row, told apart by their positions alone."""
    if not isinstance(inputs, MAPPINGS) or "position_ids" not in inputs or "input_ids" not in inputs:
        return False
    if not set(inputs) <= FLAT_INPUTS | KERNEL_INPUTS:
        return False
    return len(inputs["input_ids"]) == 1 and inputs["position_ids"].ndim == 2


def rows_apart(model: torch.nn.Module, inputs: Any) -> Any:
    """Return a batch with one document in a row, for predictions and metrics, which are those of rows."""
    return apart(model, inputs) if is_pretrained(base_model(model)) else inputs


def rows_in(inputs: Any) -> int:
    """Return the number of rows of a batch, every document of those in one row for one."""
    return len(document_lengths(inputs["position_ids"])) if is_flat(inputs) else row_count(inputs)


def tokens_of(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Return the tokens of a batch without its padding, where a mask tells it; of any shape."""
    ids: torch.Tensor = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    return ids[mask.bool()] if isinstance(mask, torch.Tensor) and mask.shape == ids.shape else ids


def leak(
    session: Session, model: Any, fused: FusedLoss | None, input_ids: torch.Tensor, more: Mapping[str, Any]
) -> str | None:
    """Return why documents in one row are not what they are alone, or None where they are.

    Two documents are made of some tokens. What the model computes at the second must not depend on what stands in the
    first, so its gradient there is exactly 0 (masked attention, and layers that work on each token by itself); a
    difference of losses would have to be told from rounding. And it must be what the second gives alone.

    Args:
        trainer: for its device and number format.
        model: the model.
        fused: what computes the loss, or None where the model is called as it is.
        input_ids: tokens of a batch, of any shape.
        more: further inputs of every call.
    """
    ids = input_ids.flatten()[: 2 * _TOKENS]
    ids = ids.repeat(-(-8 // len(ids)))
    first = len(ids) // 2
    together = _flat(ids.tensor_split([first])) | dict(more)
    alone = _flat([ids[first:]]) | dict(more)
    try:
        with evaluation_mode(model):
            with torch.enable_grad(), _embeddings(model) as seen:
                found = _computed(session, model, fused, together, len(ids) - first)
                weights = torch.linspace(-1, 1, found.numel(), device=found.device).view_as(found)
                for scale in _SCALES:
                    total = (found.float() * weights * scale).sum()
                    gradients = torch.autograd.grad(total, seen, retain_graph=True)
                    if all(bool(one.isfinite().all()) for one in gradients):
                        break
            with torch.no_grad():
                expected = _computed(session, model, fused, alone, len(ids) - first)
    except _FAULTS as error:
        return f"the model cannot be run so ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
    if any(bool((one.flatten(0, -2)[:first] != 0).any()) for one in gradients):
        return "what stands in one would reach the next"
    low = session.precision.dtype is not None or next(model.parameters()).dtype.itemsize < 4
    difference = (found.detach() - expected).float().norm()
    if not bool(difference <= _CLOSE[2 if low else 4] * expected.float().norm()):
        return "one that follows another would not be what it is alone"
    return None


def _flat(documents: Any) -> dict[str, Any]:
    """Return documents one after another, every token but their first a target."""
    labels = [torch.cat([torch.full_like(one[:1], IGNORED), one[1:]]) for one in documents]
    positions = [torch.arange(len(one), device=one.device) for one in documents]
    columns = {"input_ids": documents, "labels": labels, "position_ids": positions}
    return {name: torch.cat(list(parts))[None] for name, parts in columns.items()}


def _computed(
    session: Session, model: Any, fused: FusedLoss | None, rows: Mapping[str, Any], last: int
) -> torch.Tensor:
    """Return what predicts the last document's targets: hidden states, or logits; shape (last - 1, width)."""
    rows = session.strategy.to_device(rows)
    with session.hooks.compute_loss_context_manager():
        if fused is None:
            outputs = model(**{name: value for name, value in rows.items() if name != "labels"})
            return logits_of(outputs)[0, -last:-1]
        return fused.labelled(model, rows).hidden[1 - last :]


@contextmanager
def _embeddings(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the embeddings that a model computes, made the leaves of what follows."""
    seen: list[torch.Tensor] = []

    def keep(layer: torch.nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = base_model(model).get_input_embeddings().register_forward_hook(keep)  # type: ignore[operator]  # a PreTrainedModel
    try:
        yield seen
    finally:
        handle.remove()
