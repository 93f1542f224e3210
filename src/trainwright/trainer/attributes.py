"""The attributes that a Trainer shows of its session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright.args.training import TrainingArguments
from trainwright.callbacks.base import CallbackHandler
from trainwright.checkpoint.lock import RunLock
from trainwright.checkpoint.parts import Stateful
from trainwright.objectives.objective import Objective
from trainwright.parallel.precision import Precision
from trainwright.parallel.strategy import Strategy
from trainwright.session.ema import Ema
from trainwright.session.generation_settings import Generation
from trainwright.session.run import Run
from trainwright.state import TrainerControl, TrainerState
from trainwright.trainer.face import Forwarded


class Attributes:
    """What is read and set on a Trainer; see `session/session.py: Session`."""

    model = Forwarded[Any]()
    model_wrapped = Forwarded[Any]()
    model_init = Forwarded[Callable[..., nn.Module] | None]()
    args = Forwarded[TrainingArguments]()
    data_collator = Forwarded[Any]()
    train_dataset = Forwarded[Any]()
    eval_dataset = Forwarded[Any]()
    train_loader = Forwarded[Any]()
    eval_loader = Forwarded[Any]()
    processing_class = Forwarded[Any]()
    compute_loss_func = Forwarded[Callable[..., Any] | None]()
    compute_metrics = Forwarded[Any]()
    preprocess_logits_for_metrics = Forwarded[Callable[[Any, Any], Any] | None]()
    optimizer = Forwarded[Any]()
    lr_scheduler = Forwarded[Any]()
    optimizer_cls_and_kwargs = Forwarded[tuple[type[torch.optim.Optimizer], dict[str, Any]] | None]()
    objective = Forwarded[Objective]()
    strategy = Forwarded[Strategy]()
    precision = Forwarded[Precision]()
    checkpoint_parts = Forwarded[dict[str, Stateful]]()
    callback_handler = Forwarded[CallbackHandler]()
    state = Forwarded[TrainerState]()
    control = Forwarded[TrainerControl]()
    run = Forwarded[Run | None]()
    run_folder = Forwarded[Path]()
    is_in_train = Forwarded[bool]()
    label_names = Forwarded[list[str]]()
    can_return_loss = Forwarded[bool]()
    current_gradient_accumulation_steps = Forwarded[int]()
    generation = Forwarded[Generation | None]()
    ema = Forwarded[Ema | None]()
    hub_model_id = Forwarded[str | None]()
    push_in_progress = Forwarded[Any]()
    trial = Forwarded[Any]()
    goes_on = Forwarded[str]()
    commands = Forwarded[Sequence[str]]()
    folder_lock = Forwarded[RunLock | None]()
