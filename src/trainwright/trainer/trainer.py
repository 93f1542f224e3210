"""`Trainer`: the face that Hugging Face's users know, on our own loop.

It holds the parts of a run and offers the override points; what a method does is a function of the module that its
body names. Nothing here is inherited from transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Self, Unpack

import torch
from torch import nn
from torch.utils.data import DataLoader

from trainwright.args.training import TrainingArguments
from trainwright.callbacks import job
from trainwright.checkpoint.parts import Stateful
from trainwright.errors import as_raised
from trainwright.evaluation import evaluate, prediction_step
from trainwright.evaluation import generation as generating
from trainwright.evaluation import replay as replaying
from trainwright.inputs import batch_counts, dataloaders
from trainwright.losses import loss_source
from trainwright.objectives.objective import Objective
from trainwright.optim.optimizers import optimizer_class
from trainwright.parallel.strategy import Strategy
from trainwright.saving import hub, model_card, model_files, reporting, save
from trainwright.saving.agreement import by_all
from trainwright.session.generation_settings import Generation
from trainwright.session.session import Session
from trainwright.state import EvalLoopOutput, PredictionOutput, TrainOutput
from trainwright.trainer import accelerator, compatibility, search
from trainwright.trainer import metrics_io as files
from trainwright.trainer.attributes import Attributes
from trainwright.trainer.face import begun, copy_of, method
from trainwright.trainer.private import PrivateNames
from trainwright.training import optimizing, users_code
from trainwright.training import train as runs
from trainwright.training.setup import OldNames, assemble, old_names, own_arguments


class Trainer(Attributes, PrivateNames):
    """Trains, evaluates and predicts with a PyTorch model.

    Override in a subclass: `compute_loss`, `training_step`, `prediction_step`, `evaluation_loop`, `evaluate`, `log`,
    `get_train_dataloader`, `get_eval_dataloader`, `get_test_dataloader`, `create_optimizer`, `create_scheduler`,
    `get_decay_parameter_names`, `floating_point_ops`, `save_model`, `_get_train_sampler`, `_get_eval_sampler`.

    Args:
        model: a PreTrainedModel, a PEFT model or any module whose forward returns a dict, a tuple or a bare loss.
        args: the settings; `TrainingArguments("tmp_trainer")` when not given. transformers' own are accepted.
        data_collator: rows to batch; pads with `processing_class` if that is a tokenizer, else stacks.
        train_dataset: rows by number, or a stream.
        eval_dataset: the same, or a dict of several.
        processing_class: tokenizer or processor, saved with the model.
        model_init: makes the model anew for every call of `train`; instead of `model`.
        compute_loss_func: `f(outputs, labels, num_items_in_batch=n)`, the sum of losses divided by n.
        compute_metrics: `f(EvalPrediction)` to a dict; or a dict of such functions, by name of the evaluation set,
            which is known by that name, by its rows, or by the end of `metric_key_prefix`.
        callbacks: besides those that the arguments bring.
        optimizers: an optimizer and a schedule, either may be None.
        optimizer_cls_and_kwargs: an optimizer class and its keywords, in place of `args.optim`.
        preprocess_logits_for_metrics: `f(logits, labels)`, before logits are kept for metrics.
        train_loader: a ready loader of training batches, in place of `train_dataset`.
        eval_loader: a ready loader of evaluation batches, in place of `eval_dataset`.
        objective: what is minimised, in place of the model's own loss: an `Objective`, such as `PreferenceLoss`.
        strategy: how the run is spread over processes, a `Strategy`; one process, or data parallel under torchrun.
        checkpoint_parts: what checkpoints keep besides, by name: objects with `state_dict()` and `load_state_dict()`.
        generation: how evaluations generate, whose answers are compared with the labels; None for those that do not.

    Raises:
        ConfigError: arguments that cannot work, before anything is started.
    """

    loss_is_scaled_for_ga: bool | None = None
    place_model_on_device = True
    is_deepspeed_enabled = is_fsdp_enabled = is_fsdp_xla_enabled = False
    is_model_parallel = False
    deepspeed = hp_search_backend = hp_name = None
    current_flos = 0
    _signature_columns: list[str] | None = None

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Any = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        train_loader: Any = None,
        eval_loader: Any = None,
        objective: Objective | None = None,
        strategy: Strategy | None = None,
        checkpoint_parts: dict[str, Stateful] | None = None,
        generation: Generation | None = None,
        **old: Unpack[OldNames],
    ) -> None:
        self.model = self.model_wrapped = model
        self.args = own_arguments(args)
        self.data_collator = data_collator
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = processing_class
        self.model_init = model_init
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.optimizer, self.lr_scheduler = users_code.pair_of(optimizers)
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.train_loader, self.eval_loader = train_loader, eval_loader
        self.checkpoint_parts = {} if checkpoint_parts is None else checkpoint_parts
        self.generation = generation
        for name, value in old_names(old, list(Trainer.__init__.__annotations__)).items():
            setattr(self, name, value)
        session = self._session
        session.own_objective, session.model_given = objective, model is not None
        assemble(session, callbacks, strategy)
        compatibility.tell_what_is_never_called(session)
        loss_source.look_at(session)
        session.fire("init_end")

    @cached_property
    def _session(self) -> Session:
        """The parts, from the first attribute on that is set, maybe by a subclass before `Trainer.__init__`."""
        return begun(self)

    def __copy__(self) -> Self:
        return copy_of(self)

    # ---- training

    @as_raised
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: True for the newest whole checkpoint of the output folder, or a folder.
            trial: the trial of a hyperparameter search.
            ignore_keys_for_eval: outputs of the model that evaluation leaves out.
        """
        wanted = resume_from_checkpoint
        with by_all(self._session, "train"):
            if self.model_init is not None:
                runs.fresh_model(self._session, trial)
            with job.of_training(self.args, self.callback_handler) as timesheet:
                wanted = job.resume_by_itself(self.run_folder) if wanted is None else wanted
                return runs.train(self._session, wanted, ignore_keys_for_eval, timesheet)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: float | None = None) -> torch.Tensor:
        """Run forward and backward of a micro-batch; return its share of the step's loss, detached."""
        return loss_source.training_step(self._session, model, inputs, num_items_in_batch)

    def zero_weight_step(self, model: nn.Module, inputs: Any) -> None:
        """Take part in the exchange of gradients with a micro-batch that weighs nothing."""
        loss_source.zero_weight_step(self._session, model, inputs)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None
    ) -> Any:
        """Return the loss of a batch, a scalar; with `return_outputs`, also what the model returned.

        With `num_items_in_batch`, the loss is this batch's share: its sum divided by that number. An override may do
        the same, or return the mean over its batch: it is called twice more, at the first step of several micro-batches
        or ranks, to see which. `loss_is_scaled_for_ga` says it instead: True for a share, False for a mean. A dict of
        losses counts by its `loss`, or by its sum, and every entry is logged.
        """
        return loss_source.compute_loss(self._session, model, inputs, return_outputs, num_items_in_batch)

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context in which losses are computed: autocast, where a lower precision is asked for."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Return the context of lower precision; the older name of `compute_loss_context_manager`."""
        return self._session.precision.autocast()

    def record(self, name: str, value: torch.Tensor | float) -> None:
        """Log a number besides the loss: its mean over the logging window and all processes.

        Within a step it is weighed as the loss of its micro-batch is; steps that are skipped do not count.
        """
        self._session.records.add(name, value)

    def one_loss(self, loss: Any) -> torch.Tensor:
        """Return the loss to minimise of what `compute_loss` returned; log every entry of a dict."""
        return loss_source.one_loss(self, loss)

    def count_items(self, batch: Any) -> int:
        """Return what a training micro-batch is weighed by."""
        return batch_counts.count_items(self._session.objective, self._session.rule, batch)

    def count_eval_items(self, batch: Any) -> int:
        """Return what an evaluation batch's mean loss is weighed by."""
        return batch_counts.count_eval_items(self._session, batch)

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Make optimizer and schedule, unless they were given."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps, optimizer=self.optimizer)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer, unless it was given; return it."""
        return optimizing.create_optimizer(self._session, model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the schedule of the learning rate, unless it was given; return it."""
        return optimizing.create_scheduler(self._session, num_training_steps, optimizer)

    # ---- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training batches."""
        loader: DataLoader[Any] = dataloaders.train_dataloader(self._session)
        return loader

    def evaluation_metrics(self, prefix: str) -> dict[str, float]:
        """Return metrics of a subclass's own, whose names begin with `prefix`; they are logged with the others.

        Called once for every set that is evaluated; the best checkpoint and early stopping may go by them.
        """
        return {}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the loader of evaluation batches: of the set given, or named, or of the Trainer's own."""
        loader: DataLoader[Any] = dataloaders.eval_dataloader(self._session, eval_dataset)
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the loader of the batches to predict."""
        return dataloaders.evaluation_dataloader(self._session, test_dataset, "test data")

    def num_examples(self, dataloader: Any) -> int:
        """Return the number of rows behind a loader."""
        return dataloaders.num_examples(self._session, dataloader)

    # ---- evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the loss and metrics over an evaluation set; of several sets, also the means `eval_mean_...`.

        Several sets are evaluated by one call of this method each, with `metric_key_prefix="eval_<name>"`.
        """
        return evaluate.evaluate(self._session, eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions, labels and metrics over a set."""
        return evaluate.predict(self._session, test_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model over a loader, for `evaluate` and `predict`."""
        return evaluate.evaluation_loop(
            self._session,
            dataloader,
            loss_only=prediction_loss_only,
            ignore_keys=ignore_keys,
            prefix=metric_key_prefix,
            wants_predictions=description == "Prediction",
        )

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch, each None where there is none."""
        return prediction_step.prediction_step(self._session, model, inputs, prediction_loss_only, ignore_keys)

    # ---- logging and saving

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write numbers into the history and tell the callbacks."""
        reporting.write_log(self._session, logs)

    def note(self, message: str) -> None:
        """Tell the user one thing about the run, on the main process."""
        reporting.note(self._session, message)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write weights, configuration and tokenizer into a folder."""
        model_files.save_model(self._session, output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """Save the present step; an override that calls this first finds the finished folder."""
        assert self.run is not None, "checkpoints are saved while train() runs"
        save.write_checkpoint(self.run)

    @property
    def has_own_loss(self) -> bool:
        """Whether the loss is computed by the user's code, which may need no labels."""
        return loss_source.has_own_loss(self, self._session.compute_loss_func)

    @property
    def follows_metric(self) -> bool:
        """Whether the schedule moves at evaluations, by their metric, and not at every step."""
        return optimizing.follows_metric(self._session.lr_scheduler)

    # ---- what accelerate would do

    @property
    def accelerator(self) -> Any:
        """What code written for accelerate expects; made on demand, never used by the engine."""
        return accelerator.of(self._session)

    def _prepare_input(self, data: Any) -> Any:
        return self._session.strategy.to_device(data)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return self._prepare_input(inputs)

    # ---- families that are rarely overridden

    get_optimizer_cls_and_kwargs = staticmethod(optimizer_class)
    get_decay_parameter_names = method(optimizing.get_decay_parameter_names)
    get_learning_rates = method(optimizing.get_learning_rates)
    get_num_trainable_parameters = method(optimizing.get_num_trainable_parameters)
    get_optimizer_group = method(optimizing.get_optimizer_group)
    floating_point_ops = method(batch_counts.floating_point_ops)
    call_model_init = method(runs.call_model_init)
    label_smoother = compatibility.Derived(compatibility.label_smoother)
    model_accepts_loss_kwargs = compatibility.Derived(compatibility.model_accepts_loss_kwargs)
    neftune_noise_alpha = compatibility.Derived(compatibility.neftune_noise_alpha)
    gather_function = cached_property(method(compatibility.gather_function))
    get_batch_samples = method(compatibility.get_batch_samples)
    _train_batch_size = compatibility.Derived(compatibility.train_batch_size)
    _set_signature_columns_if_needed = method(compatibility.set_signature_columns)
    store_flos = method(files.store_flos)
    log_metrics = method(files.log_metrics)
    metrics_format = staticmethod(files.metrics_format)
    save_metrics = method(files.save_metrics)
    save_state = method(files.save_state)
    is_world_process_zero = method(files.is_world_process_zero)
    is_local_process_zero = method(files.is_local_process_zero)
    get_total_train_batch_size = method(files.get_total_train_batch_size)
    add_callback = method(files.add_callback)
    pop_callback = method(files.pop_callback)
    remove_callback = method(files.remove_callback)
    replay = method(replaying.replay)
    evaluate_and_save_generation = method(generating.evaluate_and_save_generation)
    log_history = property(method(files.log_history))
    hyperparameter_search = method(search.hyperparameter_search)
    init_hf_repo = method(hub.init_hf_repo)
    create_model_card = method(model_card.create_model_card)
    push_to_hub = method(hub.push_to_hub)
