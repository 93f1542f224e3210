"""What the Trainer's constructor assembles from its arguments."""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trainwright import bars, compat
from trainwright.args import foreign
from trainwright.args.sharding import sharding_of
from trainwright.args.signatures import is_of
from trainwright.args.training import TrainingArguments
from trainwright.batch import IGNORED, MeanOver
from trainwright.callbacks.base import CallbackHandler
from trainwright.callbacks.flow import DefaultFlowCallback
from trainwright.callbacks.notebook import in_notebook, notebook_callback
from trainwright.callbacks.progress import PrinterCallback, ProgressCallback
from trainwright.checkpoint.parts import check_users
from trainwright.data.loaders.collate import default_data_collator
from trainwright.data.loaders.given import check_dataset
from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.inputs import auto_tokenize
from trainwright.models import adapters
from trainwright.models import inspect as models
from trainwright.objectives.model_loss import ModelLoss
from trainwright.objectives.objective import Objective
from trainwright.parallel.choice import start_strategy
from trainwright.parallel.precision import choose_precision
from trainwright.parallel.strategy import ProcessOptions, Strategy
from trainwright.randomness import SeedsUndone, seed_trainer
from trainwright.session.model_setup import take_model
from trainwright.session.session import Hooks, Session
from trainwright.state import TrainerControl, TrainerState
from trainwright.trackers import table as trackers
from trainwright.training import users_code
from trainwright.world import choose_device, current_world

logger = logging.getLogger("trainwright")
_OLD_NAMES = {"tokenizer": "processing_class"}


class OldNames(TypedDict, total=False):
    """The constructor's keywords of the past."""

    tokenizer: Any


def old_names(given: Mapping[str, Any], known: list[str]) -> dict[str, Any]:
    """Return constructor keywords of the past by today's names.

    Raises:
        ConfigError: a keyword that nobody knows.
    """
    for name in given:
        if name not in _OLD_NAMES:
            raise ConfigError(f"Trainer has no argument '{name}'.{did_you_mean(name, known)}")
        warnings.warn(f"Trainer: '{name}' is an old name; use '{_OLD_NAMES[name]}'.", FutureWarning, stacklevel=3)
    return {_OLD_NAMES[name]: value for name, value in given.items()}


def own_arguments(args: Any) -> TrainingArguments:
    """Return the arguments: a file's section `training` translated, transformers' own as they are."""
    if args is None:
        return TrainingArguments(output_dir="tmp_trainer")
    if isinstance(args, TrainingArguments):
        foreign.check(args)
        return args
    from trainwright.config.params import TrainingParams
    from trainwright.config.reading.translate import arguments_of

    if isinstance(args, TrainingParams):
        return arguments_of(args)
    adopted: TrainingArguments = foreign.adopt(args)
    return adopted


def assemble(session: Session, callbacks: list[Any] | None, strategy: Strategy | None) -> None:
    """Build the parts that the loop works with, from what the constructor was given."""
    args = session.args
    set_log_level(args)
    world = current_world()
    bars.want(world.is_main and not args.disable_tqdm)
    if world.is_main:
        compat.warn_of_untested_versions()
    device = choose_device(world, args.use_cpu)
    session.strategy = start_strategy(strategy, world, device, process_options(args))
    seed_trainer(args.seed, args.full_determinism)
    if session.model_init is not None:
        session.model = session.hooks.call_model_init()
    take_model(session, session.model)
    check(session)
    follow(session)
    auto_tokenize.tokenize(session)
    session.data_collator = session.data_collator or default_collator(session.processing_class)
    session.state = TrainerState(is_local_process_zero=world.is_local_main, is_world_process_zero=world.is_main)
    session.control = TrainerControl()
    shows = notebook_callback if in_notebook() else ProgressCallback
    last = PrinterCallback() if args.disable_tqdm else shows()
    session.callback_handler = CallbackHandler(
        [DefaultFlowCallback, *trackers.callbacks(args.report_to or []), *listed(callbacks), last],
        shared_objects(session),
        around=SeedsUndone,
    )
    if "underflow_overflow" in args.debug:
        from transformers.debug_utils import DebugUnderflowOverflow

        session.debug_overflow = DebugUnderflowOverflow(session.model)
    session.run_folder = Path(args.output_dir or ".")
    tell_of_idle_devices(session.strategy, session.note)
    if args.push_to_hub:
        session.strategy.on_main(session.hooks.init_hf_repo)


def listed(callbacks: Any) -> list[Any]:
    """Return the callbacks that were given.

    Raises:
        ConfigError: they are no list.
    """
    if callbacks is not None and not isinstance(callbacks, list | tuple):
        raise ConfigError(f"callbacks= is {callbacks!r:.80}; a list is expected: callbacks=[...].")
    return list(callbacks or [])


def follow(session: Session) -> None:
    """Note what follows from the arguments and the model, both of which a new trial or run may have changed."""
    args, device = session.args, session.strategy.device
    session.isolation = {}
    adapters.keep_initial(session.model)
    fp16 = args.fp16 and device.type != "cpu"
    if args.fp16 and not fp16:
        session.note("fp16=True needs a GPU; this run computes in float32 on the CPU.")
    session.precision = choose_precision(device, args.bf16, fp16)
    if args.tf32 is not None:
        allow_tf32(args.tf32)
    describe_model(session)


def process_options(args: TrainingArguments) -> ProcessOptions:
    """Return what the arguments say of several processes; of DistributedDataParallel what is set."""
    given = {
        "find_unused_parameters": args.ddp_find_unused_parameters,
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
        "static_graph": args.ddp_static_graph,
    }
    ddp = {name: value for name, value in given.items() if value is not None}
    return ProcessOptions(args.ddp_backend, args.ddp_timeout, args.auto_find_batch_size, ddp, sharding_of(args))


def _check_model(session: Session) -> None:
    """Raise a ConfigError where there is not one model, or way to make one."""
    if isinstance(session.model, str):
        raise ConfigError(
            f"model= is the text {session.model!r}; load it first, for example with "
            f"AutoModelForCausalLM.from_pretrained({session.model!r})."
        )
    if isinstance(session.model, type):
        raise ConfigError(
            f"model= is the class {session.model.__name__}; give what it makes: {session.model.__name__}(...)."
        )
    if (session.model is None) or (session.model_init is not None and session.model_given):
        raise ConfigError("Trainer needs either model= or model_init=, and not both.")
    parameters = session.model.named_parameters() if isinstance(session.model, nn.Module) else ()
    shapeless = next((name for name, parameter in parameters if is_lazy(parameter)), None)
    if shapeless is not None:
        raise ConfigError(
            f"The parameter '{shapeless}' has no shape yet: its layer takes it from the first batch. Call the model on "
            "one before it is given to the Trainer."
        )


def check(session: Session) -> None:
    """Check the constructor's arguments against each other.

    Raises:
        ConfigError, DataError: what cannot work together, and what to do.
    """
    args, (optimizer, scheduler) = session.args, (session.optimizer, session.lr_scheduler)
    _check_model(session)
    if session.model_init is not None and (optimizer is not None or scheduler is not None):
        raise ConfigError(
            "optimizers= belong to one model, but model_init makes a new one for every run; override create_optimizer "
            "and create_scheduler in a subclass."
        )
    if session.optimizer_cls_and_kwargs is not None and optimizer is not None:
        raise ConfigError("Give optimizers= or optimizer_cls_and_kwargs=, not both.")
    if session.own_objective is not None and not isinstance(session.own_objective, Objective):
        raise ConfigError(
            f"objective= is a {type(session.own_objective).__name__}; it must be a trainwright.Objective, with "
            "count(batch) and loss(model, batch, num_items)."
        )
    users_code.check(session)
    check_users(session.checkpoint_parts)
    if args.eval_strategy != "no" and session.eval_dataset is None and session.eval_loader is None:
        raise ConfigError(
            f"eval_strategy='{args.eval_strategy}' needs eval_dataset= (or eval_loader=); give one, or use 'no'."
        )
    if isinstance(session.eval_dataset, dict) and not session.eval_dataset:
        raise DataError("eval_dataset={} holds no set. Give at least one, or None.")
    if isinstance(session.eval_dataset, dict) and session.eval_loader is None and args.eval_strategy != "no":
        check_best_metric(session.args, session.hooks, list(session.eval_dataset))
    if session.train_loader is not None and session.train_dataset is not None:
        raise ConfigError("Give train_dataset= or train_loader=, not both.")
    check_data(session)
    if (session.eval_dataset is not None or session.eval_loader is not None) and not returns_outputs(session.hooks):
        raise ConfigError(
            f"{type(session.hooks).__name__}.compute_loss takes no return_outputs, which an evaluation asks it for. "
            "Write: def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None), and return "
            "(loss, outputs) where it is true."
        )


def check_data(session: Session) -> None:
    """Check what is given for datasets, and tell what a loader of the user's leaves without effect.

    Raises:
        DataError: something that is no dataset, with the line to write instead.
    """
    if session.train_dataset is not None:
        check_dataset(session.train_dataset, "train_dataset")
    several = session.eval_dataset if isinstance(session.eval_dataset, dict) else {"": session.eval_dataset}
    for key, dataset in several.items():
        if dataset is not None:
            check_dataset(dataset, f"eval_dataset[{key!r}]" if key else "eval_dataset")
    for kind, loader in (("train", session.train_loader), ("eval", session.eval_loader)):
        name = f"per_device_{kind}_batch_size"
        size, default = getattr(session.args, name), TrainingArguments.__dataclass_fields__[name].default
        if loader is not None and size not in (default, getattr(loader, "batch_size", None)):
            session.note(f"{name}={size} is ignored: {kind}_loader= brings its own batches.")


def returns_outputs(hooks: Hooks) -> bool:
    """Whether `compute_loss` can be asked for the model's outputs too."""
    parameters = inspect.signature(hooks.compute_loss).parameters
    return (
        "return_outputs" in parameters
        or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        or (sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values()) > 2)
    )


def tell_of_idle_devices(strategy: Strategy, note: Callable[[str], None]) -> None:
    """Say how several GPUs are used, where there are some and one process."""
    count = torch.cuda.device_count() if strategy.device.type == "cuda" else 1
    if count > 1 and not torch.distributed.is_initialized():
        script = sys.argv[0] or "script.py"
        note(
            f"{count} GPUs are visible, and one process uses one of them. All of them: torchrun "
            f"--nproc-per-node={count} {script}"
        )


def check_best_metric(args: TrainingArguments, hooks: Hooks, sets: list[str]) -> None:
    """Check that the metric by which the best model is chosen is one of several evaluation sets, or of their mean.

    Raises:
        ConfigError: it names none of them; a subclass's own `evaluate` may give whatever it likes.
    """
    given = args.metric_for_best_model
    if given is None or not is_of(hooks.evaluate, "trainwright"):
        return
    name = given.removeprefix("eval_")
    if not any(name.startswith(f"{one}_") for one in [*sets, "mean"]):
        raise ConfigError(
            f"metric_for_best_model='{given}' is of none of the evaluation sets {', '.join(map(repr, sets))}, whose "
            f"metrics begin with their names. Use '{sets[0]}_{name}', or 'mean_{name}' for the mean over the sets."
        )


def describe_model(session: Session) -> None:
    """Note what the engine needs to know of the model: its labels, its inputs, how its loss counts."""
    model, args = session.model, session.args
    session.label_names = label_names_of(model, args)
    session.can_return_loss = models.can_return_loss(model)
    columns = models.forward_columns(model)
    if session.hooks._signature_columns is getattr(session, "signature_columns", None):  # not a subclass's own
        session.hooks._signature_columns = None
    session.signature_columns = None if columns is None else [*columns, "label", "label_ids", *session.label_names]
    config = getattr(models.base_model(model), "config", None)
    session.keys_to_ignore = [*getattr(config, "keys_to_ignore_at_inference", ()), *models.cache_names(model)]
    session.objective = session.own_objective or model_loss(model, args, session.compute_loss_func)
    if args.label_smoothing_factor and smoothing_of(model, args) == 0:
        session.note("label_smoothing_factor is ignored: it does not fit multi-label classification.")
    move_parts(session.objective, session.strategy.device)


def model_loss(
    model: nn.Module, args: TrainingArguments, loss_function: Any = None, token_metrics: bool = False
) -> ModelLoss:
    """Return the objective that is a model's own loss, or a function of its outputs."""
    over, ignored = (MeanOver.TARGETS, IGNORED) if loss_function is not None else models.loss_unit(model)
    return ModelLoss(
        label_names_of(model, args),
        models.shifts_labels(model),
        loss_function,
        smoothing_of(model, args),
        needs_labels=bool(getattr(getattr(models.base_model(model), "config", None), "is_encoder_decoder", False)),
        over=over,
        ignored=ignored,
        token_metrics=token_metrics,
    )


def label_names_of(model: nn.Module, args: TrainingArguments) -> list[str]:
    """Return the inputs that are labels: those that are said, or the model's."""
    return args.label_names if args.label_names is not None else models.label_names(model)


def smoothing_of(model: nn.Module, args: TrainingArguments) -> float:
    """Return how much labels are smoothed; 0 where a row may have several."""
    kind = getattr(getattr(models.base_model(model), "config", None), "problem_type", None)
    return 0.0 if kind == "multi_label_classification" else args.label_smoothing_factor


def move_parts(objective: Objective, device: torch.device) -> None:
    """Move the models that an objective holds, such as a reference, to the device of the batches."""
    for part in vars(objective).values():
        if isinstance(part, nn.Module) and any(p.device.type != device.type for p in part.parameters()):
            part.to(device)


def default_collator(processing_class: Any) -> Any:
    """Return the collator that pads with a tokenizer or feature extractor, or the one that stacks equal shapes."""
    if processing_class is not None:
        from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, SequenceFeatureExtractor

        if isinstance(processing_class, PreTrainedTokenizerBase | SequenceFeatureExtractor):
            return DataCollatorWithPadding(processing_class)
    return default_data_collator


def shared_objects(session: Session) -> dict[str, Any]:
    """Return what every callback gets by keyword."""
    return {
        "model": session.model,
        "processing_class": session.processing_class,
        "optimizer": session.optimizer,
        "lr_scheduler": session.lr_scheduler,
        "train_dataloader": None,
        "eval_dataloader": None,
    }


def set_log_level(args: TrainingArguments) -> None:
    """Set the level of our logger, and of transformers' where it is loaded."""
    level = args.log_level if args.should_log else args.log_level_replica
    if level == "passive":
        return
    number = logging.DEBUG if level == "detail" else getattr(logging, level.upper())
    logger.setLevel(number)
    if "transformers" in sys.modules:
        logging.getLogger("transformers").setLevel(number)


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TensorFloat-32 in matrix products."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
