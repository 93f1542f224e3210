"""A configuration as a trainer of transformers or TRL."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainwright import compat
from trainwright.callbacks import job
from trainwright.callbacks.beginning import BeginningCallback
from trainwright.checkpoint.check import choose
from trainwright.checkpoint.folder import set_aside
from trainwright.checkpoint.lock import RunLock
from trainwright.checkpoint.model.adapters import export
from trainwright.config.params import TrainingParams
from trainwright.config.reading.read import options_of
from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import PeftSaveMode, TrainingConfig
from trainwright.data import mixture
from trainwright.data.sources.formats import canonical, check_wanted, is_chat, of_one_kind
from trainwright.errors import ConfigError, TrainwrightError
from trainwright.models import adapters
from trainwright.models.adapters import add_adapters, quantization
from trainwright.models.load import Kind, freeze, grow, load_model
from trainwright.optim.optimizers import optimizer_class
from trainwright.randomness import set_seed
from trainwright.tasks.language.build import set_levels
from trainwright.tasks.language.holder import TrainerAdapter
from trainwright.tasks.language.kernels import liger
from trainwright.tasks.language.method import LanguageMethod, able_of
from trainwright.tasks.language.text import load_text, processes_of, text_column_of, tokenizer_of

logger = logging.getLogger("trainwright")


class HuggingFaceTrainer(TrainerAdapter):
    """A trainer of transformers or TRL, built from a configuration.

    Its folder, the checkpoint it goes on from and those that it leaves aside are as with our Trainer.
    """

    def __init__(self, trainer: Any, config: TrainingConfig) -> None:
        super().__init__(trainer, config)
        self.lock: RunLock | None = None
        self.begin: Callable[[], object] = lambda: None

    def begin_in(self, lock: RunLock, begin: Callable[[], object]) -> None:
        """Train in a folder that is owned already, and call a function when the training has begun."""
        self.lock, self.begin = lock, begin

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train, from the start or from a checkpoint: True for the newest one that is whole, for a kill leaves half of
        one; see `Holder.train`.

        Raises:
            ConfigError: another run is in the folder.
            CheckpointError: there is no whole checkpoint, or the one that is named is damaged.
        """
        folder = Path(self.trainer.args.output_dir)
        lock = self.lock or RunLock(folder)
        if self.trainer.is_world_process_zero():
            lock.acquire()
        try:
            origin = self._origin(folder, resume_from_checkpoint) if resume_from_checkpoint else None

            def begin() -> None:
                self._note(set_aside(folder, origin))
                self.begin()

            beginning = BeginningCallback(begin)
            self.trainer.add_callback(beginning)
            with job.of_training(self.trainer.args, self.trainer.callback_handler):
                output = super().train(None if origin is None else str(origin))
            self.trainer.remove_callback(beginning)
            return output
        finally:
            lock.release()

    def _origin(self, folder: Path, wanted: str | bool) -> Path:
        chosen, passed_over = choose(folder, wanted)
        for fault in passed_over:
            self._note(f"Passed over {fault}.")
        return chosen

    def _note(self, text: str | None) -> None:
        if text is not None and self.trainer.is_world_process_zero():
            logger.warning(text)

    def save_model(self, config: TrainingConfig, final: bool = True) -> None:
        """Write the model into the run's folder; adapters as `peft.peft_save_mode` says, for the untouched base."""
        super().save_model(config, final)
        model, mode = self.trainer.model, config.peft.peft_save_mode
        if adapters.initial_of(model) and mode is PeftSaveMode.ADAPTER_ONLY and self.trainer.is_world_process_zero():
            export(model, Path(self.trainer.args.output_dir))


def build(config: TrainingConfig) -> HuggingFaceTrainer:
    """Return the other library's trainer for a run.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    set_levels(config.training)
    (method,) = able_of(config.training.trainer_type)
    try:
        trainer = method.upstream(config)
    except TrainwrightError:
        raise
    except ValueError as error:
        raise ConfigError(f"{method.library} refuses this run: {' '.join(str(error).split())}") from error
    if trainer.args.optim_args:
        optimizer_class(trainer.args, trainer.model)  # which tells of settings that nothing reads
    return HuggingFaceTrainer(trainer, config)


def foreign_arguments(config: TrainingConfig, kind: Any, more: dict[str, Any]) -> Any:
    """Return the other library's arguments: those of ours that it has.

    Raises:
        ConfigError: one that was set is unknown to the installed release.
    """
    known = {f.name for f in fields(kind)}
    values, defaults = (
        compat.checkpointing_arguments(argument_values(params), known) for params in (config.training, TrainingParams())
    )
    unknown = [name for name in more if name not in known]
    if unknown:
        raise ConfigError(f"{kind.__name__} has no setting '{unknown[0]}' (training.trainer_kwargs.{unknown[0]}).")
    unknown = [name for name in values if name not in known and values[name] != defaults[name]]
    if unknown:
        raise ConfigError(
            f"training.{unknown[0]} is unknown to the {kind.__name__} of transformers {version('transformers')}; "
            "leave it out, or install a newer transformers."
        )
    more = {**liger(config), **more}
    level = "passive" if config.training.log_level == TrainingParams().log_level else config.training.log_level
    given = {**values, "log_level": level, **more}
    missing = ("fsdp", "fsdp_config", "deepspeed", "accelerator_config", "parallelism_config", "liger_kernel_config")
    given = {name: value for name, value in given.items() if name in known and not (name in missing and not value)}
    return kind(**given)


def build_transformers(config: TrainingConfig) -> Any:
    """Return `transformers.Trainer` on the rows of tokens that our own trainer would read."""
    from transformers import Trainer, TrainingArguments

    text = load_text(config)
    set_seed(config.training.seed)
    model = _model(config, text.tokenizer)
    return Trainer(
        model=model,
        args=foreign_arguments(config, TrainingArguments, {"remove_unused_columns": False}),
        train_dataset=text.train,
        eval_dataset=text.evaluation,
        processing_class=text.tokenizer,
        data_collator=text.method.collator(text),
    )


@dataclass(frozen=True)
class Wanted:
    """One of TRL's trainers.

    Attributes:
        name: what `<name>Trainer` and `<name>Config` begin with.
        others: what its constructor takes besides, of the model and a function that makes it once more.
        arguments: of its own that a file has no say in.
        kind: of the model.
        module: where it lies.
        without: settings of ours that are none of its own.
    """

    name: str
    others: Callable[[Any, Callable[[], Any]], dict[str, Any]] = lambda model, again: {}
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = Kind()  # noqa: RUF009  # it is frozen
    module: str = "trl"
    without: tuple[str, ...] = ()


def build_trl(config: TrainingConfig, method: LanguageMethod, wanted: Wanted) -> Any:
    """Return one of TRL's trainers on the raw rows, which it prepares itself."""
    library = importlib.import_module(wanted.module)
    options = method.options(**options_of(config, method.options))
    tokenizer = tokenizer_of(config, options)
    column = text_column_of(config)
    table = mixture.read(config.data.train, config.training.seed, column)
    template_settings, evaluation = config.model.chat_template_kwargs, None
    if config.data.validation.datasets:
        evaluation = _rows(mixture.read(config.data.validation, config.training.seed, column), template_settings)
    if method.learns_all:
        _check_wanted(table)
    set_seed(config.training.seed)
    make = partial(_model, config, tokenizer, wanted.kind, method.adapter_tasks[0])
    model = make()
    if hasattr(model.get_output_embeddings(), "token_adapter"):
        raise ConfigError(
            f"{method.name} cannot train the rows of new tokens beside adapters: TRL computes "
            "its loss from the output layer's own weights. Name the layers whole (peft.lora_modules_to_save: "
            "[embed_tokens, lm_head]), or use trainer_type: SFT, DPO or HF."
        )
    own = trl_options(config, options).items()
    settings = {name: value for name, value in own if name not in wanted.without}
    kind, trainer = (getattr(library, f"{wanted.name}{end}") for end in ("Config", "Trainer"))
    return trainer(
        model=model,
        args=foreign_arguments(config, kind, {**settings, **wanted.arguments}),
        train_dataset=_rows(table, template_settings),
        eval_dataset=evaluation,
        processing_class=tokenizer,
        **wanted.others(model, make),
    )


def trl_options(config: TrainingConfig, options: Any) -> dict[str, Any]:
    """Return our settings by TRL's names: those that are given, or that TRL would decide otherwise."""
    usual = asdict(type(options)())
    given = {name: value for name, value in asdict(options).items() if value != usual[name]}
    for name in ("chat_template_path", "pad_token", "trl_compatible"):  # the tokenizer has them, or TRL is it
        given.pop(name, None)
    processes = processes_of(config, config.data.train, options)
    return {"max_length": options.max_length, **given, "dataset_num_proc": processes}


def _model(config: TrainingConfig, tokenizer: Any, kind: Kind = Kind(), task: str | None = None) -> Any:  # noqa: B008
    set_seed(config.training.seed)
    model = load_model(config.model, tokenizer, quantization(config.peft), kind)
    new_tokens = grow(model, tokenizer, config.model)
    freeze(model, config.model.freeze_layers)
    if config.training.use_peft:
        peft = replace(config.peft, lora_task_type=task or config.peft.lora_task_type)
        return add_adapters(model, peft, config.model.adapter_model, False, new_tokens)
    return model


def _check_wanted(table: Any) -> None:
    """Raise a DataError where an answer is judged bad, and all are learned."""
    if getattr(table.features.get("label"), "dtype", None) == "bool":
        for number, label in enumerate(table["label"]):
            check_wanted({"label": label}, number)


def _rows(table: Any, template_settings: Mapping[str, Any] | None) -> Any:
    """Return raw rows, ShareGPT's conversations as OpenAI's messages, prompts and answers of one kind, with
    variables of the chat template in a column, where TRL reads them."""
    if "conversations" in table.column_names:
        table = table.map(canonical, with_indices=True, remove_columns=["conversations"])
    first: Mapping[str, Any] = next(iter(table), {})
    if len({is_chat(first[name]) for name in ("prompt", "completion", "chosen", "rejected") if name in first}) > 1:
        if isinstance(of_one_kind(first).get("prompt"), str):  # the answers begin with it
            table = table.remove_columns(["prompt"])
        else:
            table = table.map(of_one_kind, remove_columns=table.column_names)
    if not template_settings:
        return table
    own = "chat_template_kwargs"
    return table.map(lambda row: {own: {**template_settings, **(row.get(own) or {})}})
