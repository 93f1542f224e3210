"""What subclasses and scripts written for transformers read of a Trainer, and what they override in vain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from trainwright.session.session import Session
from trainwright.trainer import accelerator

_SAVING, _RESUMING, _LOOP = "save_model", "on_train_begin of a callback", "training_step, or a callback"
NEVER_CALLED = {
    "_save": _SAVING, "_save_optimizer_and_scheduler": _SAVING, "_save_rng_state": _SAVING, "_save_scaler": _SAVING,
    "_rotate_checkpoints": "save_total_limit", "_get_output_dir": "output_dir", "_push_from_checkpoint": "push_to_hub",
    "_load_from_checkpoint": _RESUMING, "_load_optimizer_and_scheduler": _RESUMING, "_load_rng_state": _RESUMING,
    "_load_scaler": _RESUMING, "_load_callback_state": _RESUMING, "_issue_warnings_after_load": _RESUMING,
    "_load_best_model": "on_train_end of a callback", "_determine_best_metric": "evaluate, or evaluation_metrics",
    "_maybe_log_save_evaluate": "log, evaluate, or a callback", "_evaluate": "evaluate",
    "_inner_training_loop": _LOOP, "_run_epoch": _LOOP, "_init_training_state": _LOOP, "_prepare_for_training": _LOOP,
    "_finalize_training": _LOOP, "set_initial_training_values": _LOOP, "_track_num_input_tokens": "floating_point_ops",
    "_clip_grad_norm": "on_pre_optimizer_step of a callback", "_get_grad_norm": "on_pre_optimizer_step of a callback",
    "_has_mixed_mesh_grads": "on_pre_optimizer_step of a callback", "_get_learning_rate": "log",
    "get_batch_samples": "get_train_dataloader", "_get_num_items_in_batch": "count_items",
    "_get_dataloader": "get_train_dataloader and get_eval_dataloader", "num_examples": "get_train_dataloader",
    "_get_collator_with_removed_columns": "data_collator=", "_remove_unused_columns": "remove_unused_columns=False",
    "_wrap_model": "model=", "_move_model_to_device": "model=", "_prepare_context_parallel_inputs": "_prepare_inputs",
    "create_accelerator_and_postprocess": "the arguments", "_build_accelerator_args": "the arguments",
    "_validate_args": "__init__", "get_total_train_batch_size": "the arguments", "_update_auto_batch_size": "__init__",
    "_hp_search_setup": "hp_space=", "_report_to_hp_search": "compute_objective=", "_tune_save_checkpoint": "hp_space=",
    "_finish_current_push": "push_to_hub", "store_flos": "floating_point_ops", "prediction_loop": "evaluation_loop",
    "get_cp_size": "nothing", "get_sp_size": "nothing", "get_tp_size": "nothing", "end": "on_train_end of a callback",
}  # fmt: skip
"""Methods of transformers' Trainer that it calls and this engine never does, each with what stands for it here."""


class Derived:
    """An attribute that is computed when it is read, from the arguments and the model as they are then, unless it was
    set."""

    def __init__(self, function: Callable[[Session], Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, trainer: Any, kind: Any = None) -> Any:
        """Return its value."""
        return self if trainer is None else self.function(trainer._session)


def tell_what_is_never_called(session: Session) -> None:
    """Say once which methods a subclass overrides in vain, and what stands for them here."""
    kind = type(session.hooks)
    base = next(one for one in kind.__mro__ if one.__module__ == "trainwright.trainer.trainer")
    found = [name for name in NEVER_CALLED if getattr(kind, name, None) is not getattr(base, name, None)]
    if found:
        told = ", ".join(f"{name} (instead: {NEVER_CALLED[name]})" for name in found)
        session.note(f"{kind.__name__} overrides what transformers calls, and nothing calls here: {told}.")


def set_signature_columns(session: Session) -> None:
    """Note the columns that are kept; an override may note others in `_signature_columns`."""
    if session.hooks._signature_columns is None:
        session.hooks._signature_columns = session.signature_columns


def label_smoother(session: Session) -> Any:
    """Return what smooths labels in a copied `compute_loss`; None without `label_smoothing_factor`."""
    if not session.args.label_smoothing_factor:
        return None
    from transformers.trainer_pt_utils import LabelSmoother

    return LabelSmoother(epsilon=session.args.label_smoothing_factor)


def model_accepts_loss_kwargs(session: Session) -> bool:
    """Whether the model's forward takes `num_items_in_batch` for its loss."""
    said = getattr(session.model, "accepts_loss_kwargs", None)
    if said is not None:
        return bool(said)
    parameters = inspect.signature(session.model.forward).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def neftune_noise_alpha(session: Session) -> float | None:
    """Return the scale of NEFTune's noise."""
    return session.args.neftune_noise_alpha


def train_batch_size(session: Session) -> int:
    """Return the rows of one training micro-batch of this process."""
    return session.args.train_batch_size


def gather_function(session: Session) -> Any:
    """Return what joins a value of all processes."""
    return accelerator.of(session).gather_for_metrics


def get_batch_samples(
    session: Session, epoch_iterator: Iterator[Any], num_batches: int, device: Any = None
) -> tuple[list[Any], int]:
    """Return the next micro-batches of an iterator, and the items in them."""
    batches = list(islice(epoch_iterator, num_batches))
    return batches, sum(session.hooks.count_items(batch) for batch in batches)
