"""Where a loss comes from decides how it is weighed: see `session/loss_rules.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from trainwright.args.signatures import check_returned, is_of
from trainwright.batch import by_name, map_tensors
from trainwright.devices import empty_cache
from trainwright.errors import DataError
from trainwright.inputs import document_isolation
from trainwright.losses import fused_loss
from trainwright.losses.diagnose import Explained
from trainwright.losses.probing import unnoticed
from trainwright.models.inspect import uncompiled
from trainwright.objectives.objective import check_loss
from trainwright.session.loss_rules import Rule, takes_num_items
from trainwright.session.run import Run
from trainwright.session.session import Hooks, Session


class Asked(BaseException):
    """Ends a `training_step` that is only asked for its loss, before the backward pass."""


def look_at(session: Session) -> None:
    """Note what the trainer's `compute_loss` takes, and how it is weighed; it may be replaced until a run begins."""
    session.takes_num_items = takes_num_items(session.hooks.compute_loss)
    session.rule = rule_of(session)


def rule_of(session: Session) -> Rule:
    """Return the rule for this trainer's `compute_loss`; `loss_is_scaled_for_ga` says it where it is set."""
    if session.hooks.loss_is_scaled_for_ga is not None:
        return Rule.SHARE if session.hooks.loss_is_scaled_for_ga else Rule.MEAN
    if not session.takes_num_items:
        return Rule.MEAN
    return Rule.UNKNOWN if is_the_users(session) else Rule.SHARE


def is_the_users(session: Session) -> bool:
    """Whether the loss is computed by code that is not this package's."""
    own = session.own_objective is not None and not is_of(session.own_objective.loss, "trainwright")
    return own or session.compute_loss_func is not None or not is_of(session.hooks.compute_loss, "trainwright")


def has_own_loss(hooks: Hooks, compute_loss_func: Callable[..., Any] | None) -> bool:
    """Whether the loss is computed by the user's code, which may need no labels."""
    return overrides_loss(hooks) or compute_loss_func is not None


def overrides_loss(hooks: Hooks) -> bool:
    """Whether a subclass, or the instance, has a `compute_loss` of its own."""
    return not is_of(hooks.compute_loss, "trainwright.trainer.trainer")


def micro_batch(run: Run, batch: Any, items: float, total: float, last: bool) -> torch.Tensor | None:
    """Run one micro-batch of a step; return its share of the loss, or None for one without targets.

    Under several ranks one without targets still takes part in the exchange of gradients, in the last micro-batch.
    """
    session, records = run.session, run.session.records
    records.weight = items / total if total else 0
    try:
        if items:
            count = total / items if session.rule is Rule.MEAN else total  # of pieces of unequal size
            session.in_own_step = True  # until ours is called
            loss = session.hooks.training_step(run.model, batch, count)
            if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
                name = f"{type(session.hooks).__name__}.training_step"
                check_returned(False, loss, name, "the loss, a scalar tensor, as super().training_step(...) does")
            loss = loss.detach() if loss.requires_grad else loss
            loss = loss / session.strategy.gradient_divide_factor if session.in_own_step else loss
            return loss.reshape(()) if loss.ndim else loss
        if total and session.strategy.needs_zero_weight_step(last):
            session.hooks.zero_weight_step(run.model, batch)
        return None
    finally:
        records.weight, session.in_own_step = 1, False


def training_step(session: Session, model: nn.Module, inputs: Any, num_items: float | None) -> torch.Tensor:
    """Run forward and backward of a micro-batch; return its share of the step's loss, detached."""
    session.in_own_step = False
    args, hooks = session.args, session.hooks
    with Explained(session, inputs):
        fused_loss.before_loss(session, inputs)
        inputs = document_isolation.kept_apart(session, inputs, session.objective.fused)
    moved = moved_by(hooks, inputs)
    fused_loss.foresee(session, inputs, moved)
    if args.auto_find_batch_size:  # it is to be cut, should memory run out
        moved = own_copy(session.strategy.device, moved)
    share: dict[str, Any] = {"num_items_in_batch": num_items} if session.takes_num_items else {}
    with hooks.compute_loss_context_manager(), Explained(session, inputs):
        loss = one_loss(hooks, hooks.compute_loss(model, moved, **share))
    if session.is_asked:
        raise Asked(loss)
    if session.rule is Rule.MEAN and num_items is not None:
        loss = loss / num_items
    if args.torch_empty_cache_steps and session.state.global_step % args.torch_empty_cache_steps == 0:
        empty_cache(session.strategy.device)
    if not loss.requires_grad and is_of(session.strategy.backward, "trainwright"):
        raise DataError(
            "The loss depends on no parameter that is trained, so it has no gradient. Give the tensor as it was "
            "computed (no .item(), .detach() or torch.no_grad()), and let what it depends on require gradients."
        )
    with Explained(session, inputs):
        session.strategy.backward(loss, session.precision)
    return loss.detach()


def compute_loss(session: Session, model: nn.Module, inputs: Any, return_outputs: bool, num_items: float | None) -> Any:
    """Return the objective's loss of a batch, with the model's outputs where they are asked for; log its terms.

    Raises:
        DataError: the objective returns something else than a `Loss`.
    """
    objective = session.objective.unfused() if return_outputs else session.objective
    takes_mean = session.in_own_step and not scales_by_itself(session)
    loss = objective.loss(model, inputs, None if takes_mean else num_items)
    if session.own_objective:
        check_loss(objective, loss)
    for name, value in loss.terms.items():
        if name in loss.parts:
            session.records.add(name, value, loss.parts[name])
        else:
            session.hooks.record(name, value)
    factor = session.strategy.gradient_divide_factor if session.in_own_step and not takes_mean else 1
    value = loss.value * factor if factor != 1 else loss.value
    return (value, loss.outputs) if return_outputs else value


def scales_by_itself(session: Session) -> bool:
    """Whether transformers' `training_step` takes what `compute_loss` returns for a share of the step's loss; else it
    divides it by `current_gradient_accumulation_steps`."""
    if session.hooks.loss_is_scaled_for_ga is not None:
        return session.hooks.loss_is_scaled_for_ga
    return session.hooks.model_accepts_loss_kwargs or session.compute_loss_func is not None


def moved_by(hooks: Hooks, inputs: Any) -> Any:
    """Return a batch as the Trainer's `_prepare_inputs` gives it, on the device.

    Raises:
        ConfigError: it gives none of one that there is.
    """
    moved = hooks._prepare_inputs(inputs)
    if moved is None and inputs is not None:
        name = f"{type(hooks).__name__}._prepare_inputs"
        check_returned(False, moved, name, "the batch on the device, as super()._prepare_inputs(inputs) does")
    return moved


def own_copy(device: torch.device, batch: Any) -> Any:
    """Return a batch with which a user's code may do what it likes, though it is still needed as it is."""
    shared = device.type == "cpu"  # other devices have copies already
    return map_tensors(batch, lambda tensor: tensor.clone() if shared else tensor)


def asked(session: Session, model: nn.Module, inputs: Any, num_items: float) -> torch.Tensor | None:
    """Return the loss that `training_step`, which may be overridden, would take the gradient of; None if another."""
    session.is_asked = True
    try:
        session.hooks.training_step(model, inputs, num_items)
    except Asked as answer:
        loss: torch.Tensor = answer.args[0]
        return loss.detach()
    finally:
        session.is_asked = False
    return None


def steps_by_itself(hooks: Hooks) -> bool:
    """Whether an overridden `training_step` does its own backward pass, and does not call the one it overrides."""
    function = hooks.training_step
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    return not is_of(function, "trainwright") and "training_step" not in names


def zero_weight_step(session: Session, model: nn.Module, inputs: Any) -> None:
    """Run forward, and a backward whose gradients are 0, so that the other ranks do not wait for this one's.

    The backward begins at all that the model has given, so that what it awaits of a step comes, and no more. What it
    computes is not multiplied by 0 but set to 0 at the parameters: a loss without targets may be NaN.
    """
    assert session.run is not None
    seen: list[torch.Tensor] = []
    handles: list[Any] = []
    with unnoticed(session.run, session.model), session.strategy.silenced(model):
        if uncompiled(model) is model:  # a hook would compile it anew
            handles.append(model.register_forward_hook(lambda part, given, output: seen.extend(_with_gradient(output))))
        try:
            moved = moved_by(session.hooks, document_isolation.kept_apart(session, inputs, session.objective.fused))
            with session.hooks.compute_loss_context_manager():
                loss = session.hooks.one_loss(session.hooks.compute_loss(model, moved, **of_itself(session, inputs)))
            ends = [*seen, *_with_gradient(loss)]
            if ends:
                session.strategy.backward(sum(end.sum().real.float() for end in ends), session.precision)  # type: ignore[arg-type]  # a tensor
        finally:
            for handle in handles:
                handle.remove()


def _with_gradient(value: Any) -> list[torch.Tensor]:
    """Return the tensors in what a model returned from which a gradient flows back."""
    if isinstance(value, torch.Tensor):
        return [value] if value.requires_grad else []
    named = by_name(value)
    parts = named.values() if named is not None else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _with_gradient(part)]


def of_itself(session: Session, inputs: Any) -> dict[str, Any]:
    """Return what makes a batch's loss the mean over its own items, for a `compute_loss` that takes their number."""
    return {"num_items_in_batch": max(session.objective.count(inputs), 1)} if session.takes_num_items else {}


def one_loss(hooks: Hooks, loss: Any) -> torch.Tensor:
    """Return the loss to minimise: a dict's `loss`, or its sum; every entry of a dict is logged.

    Raises:
        DataError: it is not a scalar tensor.
    """
    if not isinstance(loss, torch.Tensor) and isinstance(loss, Mapping):
        for name, value in loss.items():
            if name != "loss":
                hooks.record(name, value)
        loss = loss["loss"] if "loss" in loss else sum(loss.values())
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise DataError(f"compute_loss returned {shape}; it must return a scalar tensor, or a dict of them.")
    return loss
