"""One call of `train`: the parts that the loop works with, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainwright import randomness
from trainwright.callbacks.job import RankFile, Timesheet
from trainwright.checkpoint.history import History
from trainwright.checkpoint.mirror.copying import Mirror
from trainwright.checkpoint.parts import Part
from trainwright.checkpoint.past import Past
from trainwright.checkpoint.sharded.together import Together
from trainwright.checkpoint.snapshot import HostCopies
from trainwright.checkpoint.writer import Writer, Written
from trainwright.data.loaders.loader import TrainLoader
from trainwright.errors import CheckpointError
from trainwright.evaluation_mode import Modes
from trainwright.held import held_by, is_generator, of_object
from trainwright.models.throughput import Throughput
from trainwright.parallel.watch import Watch
from trainwright.session.meters import LossMeter
from trainwright.session.nonfinite import Health, some
from trainwright.session.session import Session
from trainwright.session.signals import Signals
from trainwright.session.symptoms import Symptoms
from trainwright.session.trainable import Trained
from trainwright.state import UNKNOWN


@dataclass
class Boundary:
    """What a checkpoint of the last step keeps, besides what only an update changes.

    Attributes:
        states: of the parts that fetching data and forward passes change, and, before an evaluation, of those that it
            changes, by name; callbacks with `state_dict()` and parts of the user's are asked where the run saves them.
        operations, tokens: counts of the trainer's state.
        entries: length of the history of logs.
        due: flags of this step that are to be acted on.
        computing: whether a forward pass may have changed the buffers since.
    """

    states: dict[str, Any]
    operations: float
    tokens: int
    entries: int
    due: list[str] = field(default_factory=list)
    computing: bool = False


@dataclass
class Beginning:
    """What had been counted when a run began.

    Attributes:
        tokens: that were seen, where they are counted.
        flos: floating point operations.
        spent: seconds of this process, by what they were spent on, that are none of this run's.
    """

    tokens: int = 0
    flos: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class Run:
    """The parts of a training run.

    Attributes:
        session: holds model, optimizer, schedule, state and the user's override points.
        loader: gives the micro-batches of one optimizer step at a time.
        model: the module whose `forward` is called: the trainer's model, or what the strategy wrapped around it.
        trained: the model's parameters that are, now.
        others: parameters that the optimizer trains beside the model's.
        count: items of a micro-batch, by which its loss is weighed.
        max_steps: optimizer steps of the whole run.
        num_epochs: passes over the data after which the run ends.
        signals: tells whether someone asked the process to stop.
        run_id: tells this run's checkpoints from others.
        epoch: passes completed.
        position: how far into this pass, in the loader's unit.
        pieces: parts into which every micro-batch is cut, since memory ran out.
        due: flags of this step that are still to be acted on, for a checkpoint written before.
        made_with: settings of optimizer and schedule as the script made them, for a run that goes on from this one.
        content: what the training data holds, in a few bytes.
        generators: those that the user's own parts hold, by their place.
        parts: what its checkpoints keep, by name.
        model_files: what is the model in the last checkpoint, relative to it.
        entries_known: whether every number that the user's loss records is known for a share or a mean.
        asked_at: the step at which they were last looked at, or None.
        problems: of saves, that were said already.
        agreed_stop: the signal at which all ranks agreed to leave, or None.
        rows: that were trained on, by all ranks.
        own_rows: of those, by this one, where there are several.
        drawn_apart: whether every rank draws random numbers of its own, as its checkpoint has it.
        steered: whether code that is not ours may raise a flag in a step, on any of several ranks.
        heard_saving: whether code that is not ours hears of saves, on any of several ranks.
        saves_together: whether a save of the loop is going on, in which all ranks take part.
        saves_asked: how many saves a user's code has called for by itself.
        left_alone: whether this rank writes a checkpoint while the others wait for it or fail.
        past: its checkpoints so far.
        history: the text of what was logged.
        mirror: copies its checkpoints to a second place, on the first process, where one is given.
        saved_step, saved_due: what was last saved, or tried to be.
        accumulation: micro-batches of a step by the script, of which other ranks may have more or fewer.
        open: whether a pass has begun whose end the callbacks were not told.
        best_before: metric, step and checkpoint that were the best before those of the newest best step.
        early: the checkpoint of this step that was written before its evaluation.
        boundary: the end of the last step, as long as nothing but what it keeps was changed since; None while nothing
            was changed, or an update is going on.
        updating: whether an update is going on, so that the parameters belong to no step.
        origin: the checkpoint that the run goes on from, or None.
        left: whether the run was saved for the last time.
        timesheet: where its time goes.
        throughput: how fast it is, and of what the devices could do.
        beginning: what had been counted when it began.
        ended: whether the callbacks were told that training is over.
        modes: of the model and its parts, when training began.
        watch: over steps that another rank holds up.
        told: what this process tells of itself, one of several that are a job.
    """

    session: Session
    loader: TrainLoader
    model: nn.Module
    trained: Trained
    others: list[nn.Parameter]
    count: Callable[[Any], int]
    max_steps: int
    num_epochs: float
    signals: Signals
    run_id: str
    epoch: int = 0
    position: int = 0
    pieces: int = 1
    due: list[str] = field(default_factory=list)
    made_with: dict[str, Any] = field(default_factory=dict)
    content: str | None = None
    generators: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    entries_known: bool = False
    asked_at: int | None = None
    problems: set[str] = field(default_factory=set)
    agreed_stop: int | None = None
    grad_norm: torch.Tensor | None = None
    learning_rate: Any = None
    ignore_keys_for_eval: list[str] | None = None
    targets_seen: bool = False
    evaluated: bool = False
    started: float = field(default_factory=time.time)
    began: float = field(default_factory=time.monotonic)
    first_step: int = 0
    accumulation: int = 1
    open: bool = False
    rows: int = 0
    own_rows: int = 0
    drawn_apart: bool = False
    steered: bool = False
    heard_saving: bool = False
    saves_together: bool = False
    saves_asked: int = 0
    left_alone: bool = False
    saved_step: int = -1
    saved_due: list[str] = field(default_factory=list)
    early: Written | None = None
    model_files: set[Path] = field(default_factory=set)
    origin: Path | None = None
    save_error: CheckpointError | None = None
    best_before: tuple[Any, Any, Any] | None = None
    boundary: Boundary | None = None
    updating: bool = False
    left: bool = False
    ended: bool = False
    modes: Modes = field(default_factory=list)
    streams: randomness.Streams = field(default_factory=randomness.Streams)
    meter: LossMeter = field(default_factory=LossMeter)
    writer: Writer = field(default_factory=Writer)
    copies: HostCopies = field(default_factory=HostCopies)
    together: Together = field(default_factory=Together)
    timesheet: Timesheet = field(default_factory=Timesheet)
    told: RankFile | None = None
    throughput: Throughput = field(default_factory=Throughput)
    beginning: Beginning = field(default_factory=Beginning)
    history: History = field(default_factory=History)
    mirror: Mirror | None = None
    past: Past = field(init=False)
    health: Health = field(init=False)
    symptoms: Symptoms = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.symptoms = Symptoms(self.session)
        self.health = Health(self.session, self.trained, self.meter, self.loader)
        self.past = Past(self.folder, self.run_id)
        self.watch = Watch(self.session.strategy)

    @property
    def done(self) -> bool:
        """Whether the last step is done or someone asked to stop."""
        state, control = self.session.state, self.session.control
        return control.should_training_stop or state.global_step >= self.max_steps or self.epoch >= self.num_epochs

    @property
    def stop(self) -> int | None:
        """The signal at which to leave: one process decides for itself, several agree before."""
        return self.agreed_stop if self.session.strategy.is_distributed else self.signals.received

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation of this step's is going on, which a resumed run does again."""
        return self.boundary is not None and "evaluate" in self.boundary.due

    @cached_property
    def moving_states(self) -> list[tuple[str, Callable[[], Any]]]:
        """What gives the state of the parts that every step changes before its update, which is kept at the end of
        each; with their names."""
        return [(name, part.state.state_dict) for name, part in self.parts.items() if part.undone == "step"]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.session.run_folder

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return list(self.trained.parameters.values())

    def follow_trained(self) -> None:
        """Clip, watch, average and share what is trained now, where callbacks have frozen or unfrozen parameters."""
        before = self.trained.parameters
        if not self.trained.look():
            return
        self.health.watch()
        if self.session.ema is not None:
            self.session.ema.follow(self.trained.parameters)
        held = {id(p) for group in self.session.optimizer.param_groups for p in group["params"]}
        new = {name: p for name, p in self.trained.parameters.items() if name not in before}
        missing = [name for name, p in new.items() if id(p) not in held]
        if missing:
            self.note_once(
                f"Unfrozen, but not updated, since no group of the optimizer holds them: {some(missing)}. Give an "
                "optimizer that holds all that is to be trained (optimizers=)."
            )

    def clear_gradients(self) -> None:
        """Forget the gradients, also of parameters that the optimizer does not hold."""
        optimizer = self.session.optimizer
        if getattr(optimizer.zero_grad, "__func__", None) is torch.optim.Optimizer.zero_grad:
            for group in optimizer.param_groups:  # what it does, without its entry in torch's profiler
                for parameter in group["params"]:
                    parameter.grad = None
        else:  # of an optimizer that does more than that
            optimizer.zero_grad(set_to_none=True)
        for parameter in self.trained.parameters.values():
            parameter.grad = None

    @contextmanager
    def saving_together(self) -> Iterator[None]:
        """Save as the loop does, at the same place on all ranks."""
        self.saves_together = True
        try:
            yield
        finally:
            self.saves_together = False

    def fire(self, event: str, **details: Any) -> None:
        """Tell the callbacks of an event."""
        self.ended = self.ended or event == "train_end"
        session = self.session
        session.control = session.callback_handler.fire(event, session.args, session.state, session.control, **details)

    def note_once(self, problem: str) -> None:
        """Say a problem of saves, unless it was said before."""
        if problem not in self.problems:
            self.problems.add(problem)
            self.session.note(problem)

    def fire_error(self, error: BaseException) -> None:
        """Tell the callbacks that the run dies, unless they were told that training is over."""
        if not self.ended:
            session = self.session
            session.callback_handler.tell_error(session.args, session.state, session.control, error)

    def advance(self, position: int) -> None:
        """Note that the step which ends at `position` is done."""
        state = self.session.state
        self.boundary, self.updating = None, False
        self.position = position
        state.global_step += 1
        self.timesheet.step = state.global_step
        share = self.loader.share(position)
        if share is not None:
            state.epoch = self.epoch + share
        else:
            state.epoch = state.global_step / self.max_steps if self.max_steps < UNKNOWN else float(self.epoch)

    def end_pass(self) -> None:
        """Note that the data has no more; a stream without a length tells it only now."""
        if self.max_steps == UNKNOWN and not self.done:
            self.session.state.epoch = self.epoch + 1.0

    def next_epoch(self) -> None:
        """Note that this pass over the data is over."""
        self.epoch += 1
        self.position = 0


def generators_of(session: Session) -> dict[str, Any]:
    """Return the random generators that a step or an evaluation may draw from and that are no part of the data."""
    return held_by(
        {
            "model": session.model,
            "objective": session.objective,
            "compute_loss_func": session.compute_loss_func,
            "compute_metrics": session.compute_metrics,
            "preprocess_logits_for_metrics": session.preprocess_logits_for_metrics,
            "callbacks": session.callback_handler.callbacks,
            "trainer": {name: value for name, value in of_object(session.hooks) if is_generator(value)},
        },
        apart=[session.hooks, session],  # which a callback may know, and whose parts (loaders) are the engine's own
    )
