"""What a batch holds: the items that its loss is a mean over, tokens, rows, and the operations that it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainwright.args.signatures import check_returned
from trainwright.batch import row_count
from trainwright.errors import DataError
from trainwright.inputs import document_isolation
from trainwright.models.inspect import base_model, is_pretrained
from trainwright.models.operations import Operations, operations_of
from trainwright.models.throughput import Throughput, peak_operations
from trainwright.objectives.objective import Objective
from trainwright.objectives.padding_free import document_lengths
from trainwright.session.loss_rules import Rule
from trainwright.session.session import Session


def count_items(objective: Objective, rule: Rule, batch: Any) -> int:
    """Return what a training micro-batch is weighed by."""
    return 1 if rule is Rule.MEAN else counted(objective, batch)


def counted(objective: Objective, batch: Any) -> int:
    """Return what an objective counts in a batch.

    Raises:
        DataError: it is no number of items.
    """
    items = objective.count(batch)
    try:
        is_number = bool(items >= 0)  # nan is none
    except (TypeError, ValueError, RuntimeError):
        is_number = False
    if not is_number:
        raise DataError(
            f"{type(objective).__name__}.count returned {items!r}; it must return the number of items that the batch's "
            "loss is a mean over, 0 or more."
        )
    return items


def count_eval_items(session: Session, batch: Any) -> int:
    """Return what an evaluation batch's mean loss is weighed by: targets where it is told their number, else rows; 1
    for a sum."""
    if session.objective.sums and not session.hooks.has_own_loss:
        return 1
    return counted(session.objective, batch) if session.takes_num_items else document_isolation.rows_in(batch)


def work_in(session: Session, batch: Any) -> tuple[float, int, int, float, int]:
    """Return a batch's (floating point operations by transformers' estimate, tokens where they are asked for, rows, and
    by the model's own shapes operations and tokens)."""
    kind = session.args.include_num_input_tokens_seen
    counts = kind != "no" and isinstance(batch, Mapping)
    tokens = tokens_of(session.model, session.processing_class, batch, kind == "non_padding") if counts else 0
    operations = session.hooks.floating_point_ops(batch)
    if not isinstance(operations, int | float):
        name = f"{type(session.hooks).__name__}.floating_point_ops"
        check_returned(False, operations, name, "a number of operations")
    return (
        operations,
        tokens,
        document_isolation.rows_in(batch),
        *useful_work(session.operations, session.objective, batch),
    )


def useful_work(operations: Operations | None, objective: Objective, batch: Any) -> tuple[float, int]:
    """Return the operations that training on a batch takes by the model's own shapes, those of a reference included,
    and its tokens without padding; 0 on a device whose best is not known, and of a batch without tokens."""
    if operations is None or not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), torch.Tensor):
        return 0.0, 0
    lengths = lengths_in(objective.model_inputs(batch))
    work = operations.training(lengths)
    if objective.has_reference and "reference" not in batch:
        work += operations.forward(lengths)
    return work, sum(lengths)


def lengths_in(inputs: Mapping[str, Any]) -> list[int]:
    """Return the tokens of every document of a batch on the host, without padding; `input_ids` is (rows, tokens)."""
    if document_isolation.is_flat(inputs):
        return document_lengths(inputs["position_ids"])
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        lengths: list[int] = mask.sum(dim=1).tolist()
        return lengths
    return [inputs["input_ids"].shape[-1]] * row_count(inputs)


def tokens_of(model: Any, tokenizer: Any, batch: Mapping[str, Any], without_padding: bool) -> int:
    """Return the tokens of a batch; those that are no padding, by the mask or else by the tokenizer's padding token.

    Rows with positions of their own and no mask are packed, and have no padding.
    """
    main = batch.get(getattr(model, "main_input_name", "input_ids"))
    if without_padding and batch.get("attention_mask") is not None:
        return int(batch["attention_mask"].sum())
    if not isinstance(main, torch.Tensor):
        return 0
    padding = getattr(tokenizer, "pad_token_id", None)
    if without_padding and padding is not None and "position_ids" not in batch:
        return int((main != padding).sum())
    return main.numel()


def floating_point_ops(session: Session, inputs: Any) -> int:
    """Return the operations of forward and backward: 6 × tokens × parameters without embeddings; 0 if unknown.

    Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
    """
    if session.non_embedding_parameters == 0 or not isinstance(inputs, Mapping):
        return 0
    main = inputs.get(getattr(session.model, "main_input_name", "input_ids"))
    if not isinstance(main, torch.Tensor):
        return 0
    return 6 * main.numel() * session.non_embedding_parameters


def non_embedding_parameters(model: nn.Module) -> int:
    """Return the number of parameters that take part in computation: all but embeddings; 0 where that is unknown."""
    inner = base_model(model)
    return inner.num_parameters(exclude_embeddings=True) if is_pretrained(inner) else 0  # type: ignore[operator]  # a PreTrainedModel


def throughput_of(session: Session) -> Throughput:
    """Return what counts the operations of a run, and let the session count them, where the device's best is known."""
    device = session.strategy.device
    kind = session.precision.dtype or next((p.dtype for p in session.model.parameters() if p.is_floating_point()), None)
    peak = None if kind is None else peak_operations(device, kind)
    session.operations = None if peak is None else operations_of(session.model)
    return Throughput(peak, session.strategy.num_devices)
