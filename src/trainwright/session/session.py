"""What the engine works with: the parts that a Trainer has assembled, and the methods of the user's that it calls.

`Trainer` is the face. The functions of the engine take the `Session`, or the parts of it that they use; what a subclass
or a script may override is called on `session.hooks`, which is the user's object itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainwright.checkpoint.parts import Stateful
from trainwright.models.operations import Operations
from trainwright.session.loss_rules import Rule
from trainwright.session.meters import Records
from trainwright.state import TrainerControl, TrainerState

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainwright.args.training import TrainingArguments
    from trainwright.callbacks.base import CallbackHandler
    from trainwright.checkpoint.history import History
    from trainwright.checkpoint.lock import RunLock
    from trainwright.checkpoint.parts import Stateful
    from trainwright.objectives.objective import Objective
    from trainwright.parallel.precision import Precision
    from trainwright.parallel.strategy import Strategy
    from trainwright.randomness import Streams
    from trainwright.session.ema import Ema
    from trainwright.session.generation_settings import Generation, TeacherForcedRows
    from trainwright.session.signals import Signals
    from trainwright.state import EvalLoopOutput


class Hooks(Protocol):
    """What the engine calls on the user's Trainer, where a subclass or the instance may have a version of its own."""

    loss_is_scaled_for_ga: bool | None
    _signature_columns: list[str] | None

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is computed by the user's code."""

    @property
    def follows_metric(self) -> bool:
        """Whether the schedule moves at evaluations, by their metric."""

    @property
    def model_accepts_loss_kwargs(self) -> Any:
        """Whether the model's forward takes `num_items_in_batch`."""

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None) -> Any:
        """Train; a search calls it for every trial."""

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: float | None = None) -> torch.Tensor:
        """Run forward and backward of a micro-batch; return its share of the step's loss, detached."""

    def zero_weight_step(self, model: nn.Module, inputs: Any) -> None:
        """Take part in the exchange of gradients with a micro-batch that weighs nothing."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None
    ) -> Any:
        """Return the loss of a batch, a scalar; with `return_outputs`, also what the model returned."""

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed."""

    def one_loss(self, loss: Any) -> torch.Tensor:
        """Return the loss to minimise of what `compute_loss` returned."""

    def count_items(self, batch: Any) -> int:
        """Return what a training micro-batch is weighed by."""

    def count_eval_items(self, batch: Any) -> int:
        """Return what an evaluation batch's mean loss is weighed by."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the operations of forward and backward."""

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return a batch on the device."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, unless it was given; return it."""

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make optimizer and schedule, unless they were given."""

    def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return the optimizer's class and its keywords."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the parameters that weight decay applies to."""

    def get_train_dataloader(self) -> Any:
        """Return the loader of training batches."""

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of evaluation batches."""

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return the loader of the batches to predict."""

    def _set_signature_columns_if_needed(self) -> None:
        """Note the columns that are kept."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the loss and metrics over an evaluation set, or several."""

    def evaluation_metrics(self, prefix: str) -> dict[str, float]:
        """Return metrics of a subclass's own."""

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model over a loader."""

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write numbers into the history and tell the callbacks."""

    def note(self, message: str) -> None:
        """Tell the user one thing about the run."""

    def record(self, name: str, value: torch.Tensor | float) -> None:
        """Log a number besides the loss."""

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of the run."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write weights, configuration and tokenizer into a folder."""

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Save the present step."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository that is pushed to."""

    def create_model_card(self) -> None:
        """Write the model's card."""


class CurrentRun(Protocol):
    """What evaluations and logs ask of the call of `train` that they are part of; see `session/run.py: Run`."""

    run_id: str
    history: History
    signals: Signals
    streams: Streams
    generators: dict[str, Any]
    agreed_stop: int | None
    evaluated: bool

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation of this step's is going on, which a resumed run does again."""

    def note_once(self, problem: str) -> None:
        """Say a problem of saves, unless it was said before."""


class Stage(Protocol):
    """What makes of the loader's micro-batches those that a step is trained on, such as completions of prompts; it is a
    part of the checkpoint. Without one they are trained on as they are.

    Attributes:
        measures: whether evaluations are its own, by `evaluate`.
    """

    measures: bool

    @property
    def in_use(self) -> Stateful | None:
        """What checkpoints keep besides: of what lies in the run's folder and is in use."""

    def begin(self, saved: Any) -> None:
        """Hear of the checkpoint that a run goes on from (`saving/resume_source.py: Saved`) before its loader is."""

    def work(self, run: Any, work: Any) -> Any:
        """Return what a step is trained on (`losses/step_batch.py: StepBatch`); called by all ranks together."""

    def evaluate(self, prefix: str) -> dict[str, Any]:
        """Return the metrics of an evaluation, by names that begin so; called by all ranks together."""

    def close(self) -> None:
        """End what it has begun; a run is over."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of an evaluation that is under way, beyond the methods that a user may override.

    Attributes:
        set_name: the name by which its set was asked for, or None.
        forced: collects what teacher forcing predicts, where it generates.
        predicts: whether it is a prediction, which needs no loss.
    """

    set_name: str | None = None
    forced: TeacherForcedRows | None = None
    predicts: bool = False


class Session:
    """The parts that a Trainer was given or has made of its arguments, which live as long as it does.

    What one call of `train` adds is in `session/run.py: Run`.

    Attributes:
        hooks: the user's Trainer, for what it may override.
        model: what is trained, as the user knows it.
        model_given: whether the constructor was given one.
        model_wrapped: what the strategy and the compiler made of it, while it is trained.
        compiled: what the user's `torch.compile` made of it, or None.
        created: optimizer and schedule that a run has made, by name.
        own_objective: the objective that was given.
        objective: what is minimised.
        rule: how a micro-batch's loss becomes part of its step's.
        takes_num_items: whether `compute_loss` takes `num_items_in_batch`.
        is_asked: whether `training_step` is called to see its loss alone.
        in_own_step: whether a `training_step` of the user's is running, which has not called ours.
        evaluation: the evaluation that is under way.
        stage: between the loader and the step, or None.
        synced_reference: the objective's reference, where it follows the model; checkpoints keep it.
        non_embedding_parameters: how many of the model's take part in computation; 0 where that is unknown.
        operations: what the model costs, on a device whose best is known; else None.
        records: what is recorded beside the loss.
        ema: the moving average of the weights, while a run keeps one.
        noise: the hook that adds NEFTune's noise.
        left_out: entries of logs that cannot be kept, which were named already.
        isolation: what was found out of packed documents, by what they look like.
        beside: names of metrics that a search does not add up.
        own_configuration: what training has changed of the model's configuration, as the user gave it.
        before_training: the same, to be put back when training is over.
        apart: loaders and sets that were seen to be divided among the ranks.
        run: the call of `train` that is going on, or None.
        goes_on: how a run is gone on with, for messages.
        commands: further lines for the card at a run's end.
        folder_lock: of a command that owns the run's folder already.
    """

    args: TrainingArguments
    model: Any = None
    model_given: bool = False
    model_wrapped: Any = None
    model_init: Callable[..., nn.Module] | None = None
    compiled: Any = None
    data_collator: Any = None
    train_dataset: Any = None
    eval_dataset: Any = None
    train_loader: Any = None
    eval_loader: Any = None
    processing_class: Any = None
    compute_loss_func: Callable[..., Any] | None = None
    compute_metrics: Any = None
    preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None
    optimizer: Any = None
    lr_scheduler: Any = None
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None
    own_objective: Objective | None = None
    checkpoint_parts: dict[str, Stateful]
    objective: Objective
    strategy: Strategy
    precision: Precision
    callback_handler: CallbackHandler
    state: TrainerState
    control: TrainerControl
    run_folder: Path
    label_names: list[str]
    signature_columns: list[str] | None
    keys_to_ignore: list[str]
    can_return_loss: bool
    takes_num_items: bool
    rule: Rule
    is_in_train: bool = False
    is_asked: bool = False
    in_own_step: bool = False
    evaluation: Evaluation = Evaluation()
    generation: Generation | None = None
    stage: Stage | None = None
    synced_reference: nn.Module | None = None
    non_embedding_parameters: int = 0
    operations: Operations | None = None
    current_gradient_accumulation_steps: int = 1
    ema: Ema | None = None
    noise: Any = None
    debug_overflow: Any = None
    hub_model_id: str | None = None
    push_in_progress: Any = None
    trial: Any = None
    trial_report: Any = None
    run: CurrentRun | None = None
    accelerator: Any = None
    goes_on: str = "train(resume_from_checkpoint=True)"
    commands: Sequence[str] = ()
    folder_lock: RunLock | None = None

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.records = Records()
        self.created: dict[str, Any] = {}
        self.left_out: set[str] = set()
        self.isolation: dict[str, str | None] = {}
        self.beside: set[str] = set()
        self.own_configuration: dict[str, Any] = {}
        self.before_training: dict[str, Any] = {}
        self.apart: list[Any] = []

    @contextmanager
    def recording(self, records: Records) -> Iterator[None]:
        """Have what is recorded beside the loss meanwhile in a place of its own."""
        before, self.records = self.records, records
        try:
            yield
        finally:
            self.records = before

    @contextmanager
    def evaluating(self, evaluation: Evaluation) -> Iterator[None]:
        """Have an evaluation under way."""
        before, self.evaluation = self.evaluation, evaluation
        try:
            yield
        finally:
            self.evaluation = before

    def note(self, message: str) -> None:
        """Tell the user one thing about the run, as the user's Trainer does."""
        self.hooks.note(message)

    def fire(self, event: str, **details: Any) -> None:
        """Tell the callbacks of an event; what they want is in `control` afterwards."""
        self.control = self.callback_handler.fire(event, self.args, self.state, self.control, **details)
