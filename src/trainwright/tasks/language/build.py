"""The Trainer of a language model, from a configuration: text, model, adapters, objective."""

from __future__ import annotations

import copy
import logging
import os
from dataclasses import replace
from typing import Any

from trainwright import bars
from trainwright.args.training import TrainingArguments
from trainwright.config.params import TrainerType, TrainingParams
from trainwright.config.schema import TrainingConfig
from trainwright.config.translate import argument_values
from trainwright.data.formats import Format
from trainwright.data.packing import PackedRows
from trainwright.data.text_collators import FlatBatch, PaddedBatch, PairBatch
from trainwright.engine import fusing
from trainwright.engine.modes import change_configuration
from trainwright.engine.trainer import Trainer
from trainwright.engine.wiring import model_loss
from trainwright.models.adapters import add_adapters, keeps_base, quantization
from trainwright.models.load import dropout_settings, freeze, grow, load_model, without_dropout
from trainwright.objectives.preference import PreferenceLoss
from trainwright.randomness import set_seed
from trainwright.tasks.language.reference import with_reference
from trainwright.tasks.language.show import show_rows
from trainwright.tasks.language.text import Text, load_text
from trainwright.world import current_world


def build(config: TrainingConfig) -> Trainer:
    """Return the Trainer of a run.

    Raises:
        ConfigError, DataError: something cannot be read, loaded, or does not fit.
    """
    args = arguments(config.training)
    set_levels(config.training)
    text = load_text(config)
    set_seed(args.seed, args.full_determinism)
    model, base = build_model(config, args, text)
    preference = PreferenceLoss(text.options) if text.kind is TrainerType.DPO else None
    trainer = Trainer(
        model,
        args,
        data_collator=collator(text),
        train_dataset=text.train,
        eval_dataset=text.evaluation,
        processing_class=text.tokenizer,
        objective=preference or model_loss(model, args, token_metrics=True),
    )
    set_levels(config.training)  # the Trainer has set those of the libraries by log_level
    if isinstance(text.train, PackedRows) or text.options.padding_free:
        change_configuration(trainer, use_cache=False)
    if preference is not None and text.options.disable_dropout:
        change_configuration(trainer, **dropout_settings(model))
    if preference is not None:
        add_reference(trainer, preference, config, text, base)
    for note in text.notes:
        trainer.note(note)
    if config.training.log_model_summary:
        trainer.note(str(model))
    if config.training.log_examples and trainer.strategy.is_main:
        print(show_rows(text.tokenizer, text.train, 2), flush=True)
    return trainer


def arguments(params: TrainingParams) -> TrainingArguments:
    """Return the arguments of a run; tokens are counted without padding unless the file says otherwise."""
    values = argument_values(params) | {"remove_unused_columns": False}
    if params.include_num_input_tokens_seen is None:
        values["include_num_input_tokens_seen"] = "non_padding"
    return TrainingArguments(**values)


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


def build_model(config: TrainingConfig, args: TrainingArguments, text: Text) -> tuple[Any, Any]:
    """Return the model: loaded or random, frozen in parts, with adapters; and a copy of it without them, where
    preferences are measured against that and it will not be had by switching them off."""
    model = load_model(config.model, text.tokenizer, quantization(config.peft))
    new_tokens = grow(model, text.tokenizer, config.model)
    if new_tokens:
        shown = ", ".join(text.tokenizer.convert_ids_to_tokens(new_tokens))
        text.notes.append(f"The model's embeddings have grown by {len(new_tokens)} new tokens: {shown}.")
    if getattr(text.options, "eos_token", None) is not None:
        model.config.eos_token_id = model.generation_config.eos_token_id = text.tokenizer.eos_token_id
    freeze(model, config.model.freeze_layers)
    dpo, base = text.kind is TrainerType.DPO, None
    if config.training.use_peft:
        if (
            dpo
            and text.options.ref_model is None
            and config.model.adapter_model is None
            and not keeps_base(config.peft)
        ):
            base = copy.deepcopy(model)
            text.notes.append(
                "The reference is a copy of the model, since these adapters change it itself (peft.lora_init_weights: "
                f"{config.peft.lora_init_weights}, lora_bias: {config.peft.lora_bias})."
            )
        checkpointing = bool(args.activation_checkpointing)
        model = add_adapters(model, config.peft, config.model.adapter_model, checkpointing, new_tokens)
    return without_dropout(model) if dpo and text.options.disable_dropout else model, base


def collator(text: Text) -> Any:
    """Return what makes batches of the rows."""
    pad, multiple = text.tokenizer.pad_token_id, text.options.pad_to_multiple_of
    multiple = multiple if isinstance(multiple, int) else None
    if text.rules.format is Format.PREFERENCE:
        return PairBatch(pad, multiple)
    packed = text.options.packing and text.options.packing_strategy != "wrapped"
    return FlatBatch() if packed or text.options.padding_free else PaddedBatch(pad, multiple)


def add_reference(
    trainer: Trainer, objective: PreferenceLoss, config: TrainingConfig, text: Text, base: Any = None
) -> None:
    """Give the objective its reference: a model of its own, the model without adapters, or numbers computed once.

    Args:
        base: the model without adapters, where that is a copy.
    """
    options, model = text.options, trainer.model
    fresh_adapters = config.training.use_peft and config.model.adapter_model is None
    if options.ref_model is not None:
        objective.reference = load_model(replace(config.model, model_name=options.ref_model), text.tokenizer)
        grow(objective.reference, text.tokenizer, config.model)
    elif base is not None:
        objective.reference = base
    elif fresh_adapters:
        objective.without_adapters = model.disable_adapter
    elif not options.precompute_ref_log_probs:
        objective.reference = copy.deepcopy(model)
    if objective.reference is not None:
        reference: Any = without_dropout(objective.reference).requires_grad_(False).eval()
        reference.config.use_cache = False
        objective.reference = reference.to(trainer.strategy.device)
        objective.fused_reference = fusing.of_frozen(trainer, reference)
    if options.precompute_ref_log_probs:
        batch_size = options.precompute_ref_batch_size or trainer.args.per_device_eval_batch_size
        trainer.train_dataset = with_reference(trainer, objective, text.train, batch_size, "training data")
        if text.evaluation is not None:
            judged = with_reference(trainer, objective, text.evaluation, batch_size, "validation data")
            trainer.eval_dataset = judged
        objective.reference = objective.fused_reference = None
