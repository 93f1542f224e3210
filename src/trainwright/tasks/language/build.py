"""The Trainer of a language model, from a configuration: text, model, adapters, objective."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from trainwright import bars
from trainwright.args.sharding import sharding_of
from trainwright.args.training import Seq2SeqTrainingArguments, TrainingArguments
from trainwright.config.params import TrainingParams
from trainwright.config.reading.translate import argument_values
from trainwright.config.schema import TrainingConfig
from trainwright.config.unsupported import FSDPParams
from trainwright.data.sampling.packing import PackedRows
from trainwright.errors import ConfigError
from trainwright.models.adapters import add_adapters, quantization
from trainwright.models.load import Kind, freeze, grow, load_model
from trainwright.objectives.objective import Objective
from trainwright.parallel import deferred
from trainwright.parallel.choice import chosen
from trainwright.randomness import set_seed
from trainwright.session.model_setup import change_configuration
from trainwright.tasks.language.kernels import liger
from trainwright.tasks.language.method import LanguageMethod, Text
from trainwright.tasks.language.show import show_rows
from trainwright.tasks.language.text import load_text
from trainwright.trainer.face import session_of
from trainwright.trainer.seq2seq import Seq2SeqTrainer
from trainwright.trainer.trainer import Trainer
from trainwright.world import current_world


def build(config: TrainingConfig) -> Trainer:
    """Return the Trainer of a run.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    kernels = liger(config)
    args = arguments(config.training, more=kernels, fsdp=config.fsdp)
    set_levels(config.training)
    text = load_text(config)
    if text.method.arguments:
        args = arguments(config.training, more={**kernels, **text.method.arguments}, fsdp=config.fsdp)
    set_seed(args.seed, args.full_determinism)
    model, kept = build_model(config, args, text)
    kind, generating = Trainer, text.method.generation(text)
    if generating is not None:
        more = {**generating, **kernels}
        kind, args = Seq2SeqTrainer, arguments(config.training, Seq2SeqTrainingArguments, more, config.fsdp)
    trainer = kind(
        model,
        args,
        data_collator=text.method.collator(text),
        train_dataset=text.train,
        eval_dataset=text.evaluation,
        processing_class=text.tokenizer,
        compute_metrics=text.method.metrics(text),
        objective=objective_of(text, model, args),
    )
    set_levels(config.training)  # the Trainer has set those of the libraries by log_level
    if isinstance(text.train, PackedRows) or text.options.padding_free:
        change_configuration(session_of(trainer), use_cache=False)
    text.method.connect(session_of(trainer), config, text, kept)
    for note in text.notes:
        trainer.note(note)
    if config.training.log_model_summary:
        trainer.note(str(model))
    if config.training.log_examples and trainer.strategy.is_main:
        print(show_rows(text, 2), flush=True)
    return trainer


def objective_of(text: Text, model: Any, args: TrainingArguments) -> Objective:
    """Return what a method minimises.

    Raises:
        ConfigError: it says none.
    """
    objective = text.method.objective(model, args, text)
    if objective is None:  # a Trainer without one would take the model's own loss
        raise ConfigError(f"{type(text.method).__name__}.objective returned None; it must return an Objective.")
    return objective


def arguments(
    params: TrainingParams,
    kind: type[TrainingArguments] = TrainingArguments,
    more: Mapping[str, Any] | None = None,
    fsdp: FSDPParams | None = None,
) -> TrainingArguments:
    """Return the arguments of a run; tokens are counted without padding unless the file says otherwise.

    Args:
        kind: which arguments.
        more: those that a kind has besides.
        fsdp: the file's section of that name.
    """
    values = argument_values(params, fsdp) | {"remove_unused_columns": False, **(more or {})}
    if params.include_num_input_tokens_seen is None:
        values["include_num_input_tokens_seen"] = "non_padding"
    return kind(**values)


def set_levels(params: TrainingParams) -> None:
    """Quieten the libraries as asked, with bars on a terminal only; tell tensorboard its folder."""
    from transformers.utils.logging import disable_progress_bar

    if params.log_level != "passive":
        own = "DEBUG" if params.log_level == "detail" else params.log_level.upper()
        logging.getLogger("trainwright").setLevel(getattr(logging, own, logging.INFO))
    level = getattr(logging, params.dep_log_level.upper(), logging.WARNING)
    for name in ("transformers", "datasets", "peft"):
        logging.getLogger(name).setLevel(level)
    bars.want(not params.disable_tqdm and current_world().is_main)
    if not bars.shown():
        disable_progress_bar()
    if params.logging_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = params.logging_dir


def random_model(load: Callable[[], Any], config: TrainingConfig, args: TrainingArguments, text: Text) -> Any:
    """Return a model of random weights; where processes will share it, they are drawn when each takes its part of them,
    layer by layer, unless adapters or a reference are made of it before."""
    shared = chosen(current_world(), sharding_of(args)).shards_state
    looked_at = type(text.method).before_adapters is not LanguageMethod.before_adapters or config.training.use_peft
    if not shared or looked_at:
        return load()
    try:
        return deferred.built(load)
    except deferred.CannotDeferError as error:
        model = load()
        text.notes.append(f"Every process draws the whole model before it is shared: {error}.")
        return model


def build_model(config: TrainingConfig, args: TrainingArguments, text: Text) -> tuple[Any, Any]:
    """Return the model: loaded or random, frozen in parts, with adapters; and what the method keeps of it without
    them."""
    method, peft = text.method, config.peft
    kind = Kind(method.model_class(text), method.model_settings(text))
    load = partial(load_model, config.model, text.tokenizer, quantization(peft), kind)
    model = load() if config.model.load_pretrained_weights else random_model(load, config, args, text)
    new_tokens = grow(model, text.tokenizer, config.model)
    if new_tokens:
        shown = ", ".join(text.tokenizer.convert_ids_to_tokens(new_tokens))
        text.notes.append(f"The model's embeddings have grown by {len(new_tokens)} new tokens: {shown}.")
    if getattr(text.options, "eos_token", None) is not None:
        model.config.eos_token_id = model.generation_config.eos_token_id = text.tokenizer.eos_token_id
    freeze(model, config.model.freeze_layers)
    kept = text.method.before_adapters(model, config, text)
    if config.training.use_peft:
        checkpointing = bool(args.activation_checkpointing)
        peft = replace(peft, lora_task_type=method.adapter_task(text) or peft.lora_task_type)
        model = add_adapters(model, peft, config.model.adapter_model, checkpointing, new_tokens)
    return text.method.ready(model, text), kept
