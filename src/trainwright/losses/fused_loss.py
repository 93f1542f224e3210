"""Whether a run computes its loss without building the logits: decided at its start, and checked at its first batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from trainwright.args.signatures import is_of
from trainwright.batch import IGNORED, map_tensors, row_count
from trainwright.errors import TrainwrightError
from trainwright.evaluation_mode import evaluation_mode
from trainwright.inputs import document_isolation
from trainwright.losses.out_of_memory import passes_over, split
from trainwright.losses.step_batch import StepBatch
from trainwright.models.head import asks_for_logits, language_head
from trainwright.models.hooks import unwatched, watched
from trainwright.models.inspect import base_model
from trainwright.models.kernels import packed_attention
from trainwright.models.unchanged import unchanged
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.model_loss import call_model, logits_of, loss_of
from trainwright.objectives.objective import Objective
from trainwright.objectives.padding_free import FLAT_INPUTS, document_lengths
from trainwright.parallel.strategy import Strategy
from trainwright.session.model_setup import called
from trainwright.session.run import Run
from trainwright.session.session import Session

_ROWS, _TOKENS = 2, 64  # of the batch that is compared
_CLOSE = {4: 1e-3, 2: 5e-2}  # difference of log-probabilities relative to how they vary, by bytes of the number format
_SAME = {4: 1e-5, 2: 1e-2}  # relative difference of what is computed from the same logits
_PROBE = 32.0
_FAULTS = (TrainwrightError, RuntimeError, IndexError, ValueError, TypeError, AttributeError)


def prepare(session: Session) -> None:
    """Switch the fused loss on where it applies; say why not where a causal language model goes without it."""
    session.isolation = {}
    session.objective.fused = None
    args, objective = session.args, session.objective
    if not args.use_fused_loss or not objective.fusable:
        return
    head = language_head(session.model)
    if isinstance(head, str):
        if objective.shifted:
            switch_off(session.note, head)
    elif args.torch_compile is True or called(session) is not session.model:
        switch_off(session.note, "torch.compile compiles the whole model")
    else:
        objective.fused = FusedLoss(head, flat_rows(session, session.model))
        if objective.reference is not None and objective.fused_reference is None:
            objective.fused_reference = of_frozen(session, objective.reference)


def of_frozen(session: Session, model: torch.nn.Module) -> FusedLoss | None:
    """Return the fused loss of a model that is not trained, or None where its logits must be built."""
    head = language_head(model)
    return None if isinstance(head, str) else FusedLoss(head, flat_rows(session, model))


def flat_rows(session: Session, whole: torch.nn.Module) -> Any:
    """Return how a model takes batches without padding, and give it the attention for it; None where it would change
    numbers (dropout and noise draw by shape) or what hooks see."""
    model: Any = base_model(whole)
    drops = any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in whole.modules())
    drops = drops or any(_drops_attention(*item) for item in model.config.to_dict().items())
    if drops or session.args.neftune_noise_alpha:
        return None
    if any(part._compiled_call_impl is not None for part in whole.modules()):  # lengths would compile them anew
        return None
    if model.config._attn_implementation != "sdpa" or watched(whole.modules()) is not None:
        return None
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    return packed_attention.FlatRows(session.strategy.device, alone=not session.strategy.shards_state)


def _drops_attention(name: str, value: Any) -> bool:
    return "att" in name and "drop" in name and isinstance(value, int | float) and value > 0


def finish(session: Session) -> None:
    """Give the model its own attention back."""
    if session.objective.fused is not None:
        keep_padding(session.model, session.objective.fused)
    session.objective.fused = None


def keep_padding(model: torch.nn.Module, fused: FusedLoss) -> None:
    """Go without flat rows, with the model's own attention."""
    if fused.flat_rows is not None:
        fused.flat_rows = None
        base_model(model).set_attn_implementation("sdpa")  # type: ignore[operator]  # a PreTrainedModel


def before_loss(session: Session, inputs: Any) -> None:
    """At the first batch in training and in evaluation, prove the fused loss of model and reference."""
    objective = session.objective
    if objective.fused is None and objective.fused_reference is None:
        return
    if objective.fused is not None:
        heed_hooks(session, objective.fused)
    inputs = objective.model_inputs(inputs)
    if not (session.strategy.shards_state and session.model.training):  # of those `settle` has seen a first batch
        prove(session, inputs)


def settle(run: Run, work: StepBatch) -> None:
    """Prove the fused loss before a step with the first batch of every process, where they run the model together."""
    session, objective = run.session, run.session.objective
    if session.strategy.shards_state and (objective.fused is not None or objective.fused_reference is not None):
        prove(session, objective.model_inputs(work.batches[0]))


def prove(session: Session, inputs: Any) -> None:
    """Compare the fused loss of model and reference with their own, unless that was done in the mode that they are in.

    Processes that run the model together do so with a batch of each, and go on alike.
    """
    objective, strategy = session.objective, session.strategy
    judge, reference, fused = objective.reference, objective.fused_reference, objective.fused
    if reference is not None and judge is not None and judge.training not in reference.checked:
        objective.fused_reference = proven(session, judge, reference, inputs, "reference")
    if fused is None or session.model.training in fused.checked:
        return
    fits = fused.fits(session.model, inputs)
    if strategy.shards_state and not all(strategy.gather(fits)):
        if not fused.checked:
            finish(session)
            switch_off(session.note, "a process's first batch has no labels at every position")
    elif fits:
        with unwatched(session.model):
            objective.fused = proven(session, session.model, fused, inputs, "model")


def foresee(session: Session, inputs: Any, moved: Any) -> None:
    """Find out on the host where a batch's targets lie, for a device that would be waited for.

    Args:
        session: whose objective is given the batch.
        inputs: the batch on the host.
        moved: the same on the device; where code of the user's has moved it, it may be another.
    """
    if session.strategy.device.type == "cpu":
        return
    objective, labels = session.objective, moved.get("labels") if isinstance(moved, Mapping) else None
    if not isinstance(labels, torch.Tensor):
        return
    if inputs["labels"].device.type != "cpu" or not is_of(session.hooks._prepare_inputs, "trainwright"):
        return
    for fused in (objective.fused, objective.fused_reference):
        if fused is not None and fused.checked:
            fused.foresee(objective.model_inputs(inputs), labels)


def agreed(strategy: Strategy, reason: str | None) -> str | None:
    """Return a reason, or where processes run the model together the first that any of them has."""
    everyone = strategy.gather(reason) if strategy.shards_state else [reason]
    return next((one for one in everyone if one is not None), None)


def heed_hooks(session: Session, fused: FusedLoss) -> FusedLoss | None:
    """Build the logits where hooks that came since may ask for them, and keep the batch's rows where others look."""
    reason = asks_for_logits(fused.head.parts)
    if reason is not None:
        finish(session)
        switch_off(session.note, reason)
        return None
    if fused.flat_rows is not None and watched(session.model.modules()) is not None:
        keep_padding(session.model, fused)
    return fused


def proven(session: Session, model: Any, fused: FusedLoss, inputs: Any, whose: str) -> FusedLoss | None:
    """Return the fused loss as far as it is the model's own: with flat rows, without them, or None."""
    is_new = not fused.checked
    fused.checked.add(model.training)
    padding, reason = None, agreed(session.strategy, other_terms(session, model, fused, inputs))
    if reason is not None:
        keep_padding(model, fused)
        session.isolation[f"{whose}, logits"] = reason
        switch_off(session.note, reason)
        return None
    if not is_new:
        return fused
    if fused.flat_rows is not None:
        tokens = document_isolation.tokens_of(inputs)
        padding = document_isolation.leak(session, model, fused, tokens, {"use_cache": False})
        padding = agreed(session.strategy, padding) or agreed(
            session.strategy, difference(session, model, fused, inputs)
        )
        if padding is None:
            return fused
        session.isolation[f"{whose}, rows"] = padding
        keep_padding(model, fused)
    reason = agreed(session.strategy, difference(session, model, fused, inputs))
    if reason is not None:
        session.isolation[f"{whose}, logits"] = reason
        switch_off(session.note, reason)
        return None
    if padding is not None and not document_isolation.is_flat(inputs):
        session.note(f"Batches keep their padding: with several documents in one row, {padding}.")
    return fused


def given_up(session: Session) -> dict[str, str]:
    """Return what was not proven, and why: of the fused loss, and of documents in one row."""
    found = {name: reason for name, reason in session.isolation.items() if reason is not None}
    for whose, one in _sharing(session.objective).items():
        if one.shares is False:
            found[f"{whose}, shared"] = "what rows share is not the same computed once"
    return found


def _sharing(objective: Objective) -> dict[str, Any]:
    """Return what may compute once what rows share, by whose it is."""
    parts = {"model": objective.fused, "reference": objective.fused_reference, "objective": objective}
    return {whose: one for whose, one in parts.items() if hasattr(one, "shares")}


def give_up(session: Session, before: dict[str, str]) -> None:
    """Go without what was given up before: the next batch might prove it, and the run would compute by other ways.

    Args:
        before: what `given_up` returned.
    """
    objective = session.objective
    session.isolation.update(before)
    for whose, one in _sharing(objective).items():
        one.shares = False if f"{whose}, shared" in before else one.shares
    for whose, model, fused in (
        ("model", session.model, objective.fused), ("reference", objective.reference, objective.fused_reference),
    ):  # fmt: skip
        if fused is None or model is None:
            continue
        reason = before.get(f"{whose}, logits")
        if reason is not None or f"{whose}, rows" in before:
            keep_padding(model, fused)
        if reason is not None:
            setattr(objective, "fused" if whose == "model" else "fused_reference", None)
            switch_off(session.note, reason)


@torch.no_grad()
def other_terms(session: Session, model: Any, fused: FusedLoss, inputs: Any) -> str | None:
    """Return what the model's own loss is besides the cross-entropy of its output layer's logits, or None for nothing.

    Everything is of one call, in the mode that the model is in: so terms of training alone are seen, dropout plays no
    part, and what is compared is computed from the same logits, so that no number format hides a small term. They are
    a probe in place of the layer's outputs, which tells what becomes of large ones.
    """
    rows = document_isolation.apart(model, session.strategy.to_device(piece(inputs)))
    given: list[torch.Tensor] = []

    def probe(layer: torch.nn.Module, seen: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(torch.empty_like(output).uniform_(-_PROBE, _PROBE))
        return given[-1]

    handle = fused.head.layer.register_forward_hook(probe)
    try:
        with unchanged(model), session.hooks.compute_loss_context_manager():
            outputs = call_model(model, rows)
        own, logits = loss_of(outputs, rows), logits_of(outputs)
        expected = bent(given[0].view_as(logits).float(), fused.head)
        plain = functional.cross_entropy(*targets_of(logits, rows["labels"]))
    except _FAULTS as error:
        if not passes_over(error, session.strategy):
            raise
        return cannot(error)
    finally:
        handle.remove()
    size = min(given[0].dtype.itemsize, logits.dtype.itemsize, 4)
    if not (expected - logits.float()).norm() <= _SAME[size] * expected.norm():
        return "the model's logits are not those of its output layer"
    if not (own.float() - plain).abs() <= _SAME[min(own.dtype.itemsize, 4)] * plain.abs().clamp(min=1.0):
        return f"the model's own loss is not the cross-entropy of its logits, but {float(own.float() - plain):+.3g}"
    return None


def bent(outputs: torch.Tensor, head: Any) -> torch.Tensor:
    """Return the logits that a model makes of its output layer's outputs."""
    logits: torch.Tensor = outputs * head.scale
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


def targets_of(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits that predict targets, float32, shape (targets, classes), and the targets."""
    wanted = labels[:, 1:] != IGNORED
    return logits[:, :-1][wanted].float(), labels[:, 1:][wanted]


def cannot(error: Exception) -> str:
    """Return what a model that fails says."""
    told = (str(error).splitlines() or [""])[0]
    return f"the model cannot be run without its logits ({type(error).__name__}: {told})"


@torch.no_grad()
def difference(session: Session, model: Any, fused: FusedLoss, inputs: Any) -> str | None:
    """Return how log-probabilities without logits differ from the model's own on a small piece of a batch, or None."""
    device = session.strategy.device
    small = piece(inputs)
    alone = document_isolation.apart(model, small)
    ways = [alone] if fused.flat_rows is None else [small]
    if device.type != "cpu" and small is not alone:  # where rows are not made flat, they come in both ways
        ways = [small, alone]
    off = torch.zeros((), device=device)
    try:
        with evaluation_mode(model), session.hooks.compute_loss_context_manager():
            padded = session.strategy.to_device(alone)
            own = -functional.cross_entropy(
                *targets_of(logits_of(call_model(model, padded)), padded["labels"]), reduction="none"
            )
            for way in ways:
                rows = session.strategy.to_device(way)
                if device.type != "cpu":
                    fused.foresee(way, rows["labels"])
                ours = fused.log_probs(fused.labelled(model, rows)).float()
                spread = (own - own.mean()).norm().clamp(min=1e-3 * own.norm())
                off = torch.maximum(off, (own - ours).norm() / spread)
    except _FAULTS as error:
        if not passes_over(error, session.strategy):
            raise
        return cannot(error)
    low = session.precision.dtype is not None or next(model.parameters()).dtype.itemsize < 4
    if off <= _CLOSE[2 if low else 4]:
        return None
    return f"log-probabilities would be off by {float(off):.2g} of how they vary"


def piece(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a corner of a batch, every token of it a target, with some padding; small, for its logits are built."""
    width = inputs["labels"].shape[1]
    rows = split(inputs, -(-row_count(inputs) // _ROWS))[0]
    small: dict[str, Any] = map_tensors(
        dict(rows), lambda t: t[:, :_TOKENS] if t.ndim > 1 and t.shape[1] == width else t
    )
    mask = small.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2 and len(mask) > 1:
        mask = small["attention_mask"] = mask.clone()
        mask[-1, mask.shape[1] // 2 :] = 0
    if "input_ids" in small:
        small["labels"] = small["input_ids"].clone()
        if document_isolation.is_flat(small):
            small = {name: value for name, value in small.items() if name in FLAT_INPUTS}
            lengths = document_lengths(small["position_ids"])
            small["labels"][0, torch.tensor([0, *lengths[:-1]]).cumsum(0)] = IGNORED
        if isinstance(mask, torch.Tensor) and mask.shape == small["labels"].shape:
            small["labels"][mask == 0] = IGNORED
    return small


def switch_off(note: Callable[[str], None], reason: str) -> None:
    """Say once that the logits are built, and why."""
    note(f"use_fused_loss is off: {reason}.")
