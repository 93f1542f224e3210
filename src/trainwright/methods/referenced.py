"""What methods have in common that measure the model against a reference: one that begins as the model does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault
from trainwright.config.schema import TrainingConfig
from trainwright.tasks.language.method import LanguageMethod, Text

if TYPE_CHECKING:
    from trainwright.session.session import Session


def has_model(config: TrainingConfig) -> bool:
    """Whether the reference is a model of its own, which the step that asks for it computes with."""
    kwargs = config.training.trainer_kwargs
    return not config.training.use_peft and not kwargs.get("precompute_ref_log_probs")


REFERENCE: tuple[Line, ...] = (
    no_effect(KWARGS, "precompute_ref_batch_size", "precompute_ref_log_probs: true",
              used_if=lambda c: bool(c.training.trainer_kwargs.get("precompute_ref_log_probs")),
              switch=f"{KWARGS}.precompute_ref_log_probs"),
    no_effect("peft", "lora_dropout", "training.trainer_kwargs.disable_dropout: false",
              used_if=lambda c: c.training.trainer_kwargs.get("disable_dropout") is False),
    refused(KWARGS, "sync_ref_model", "a reference that is a model (no training.use_peft, no "
            "precompute_ref_log_probs)", used_if=has_model),
    no_effect(KWARGS, "ref_model_mixup_alpha ref_model_sync_steps", "sync_ref_model: true",
              used_if=lambda c: c.training.trainer_kwargs.get("sync_ref_model"), switch=f"{KWARGS}.sync_ref_model"),
)  # fmt: skip


def synced_faults(options: Any) -> Iterator[Fault]:
    """Yield numbers of a synced reference that are out of their range."""
    if not 0 < options.ref_model_mixup_alpha <= 1:
        what = f"ref_model_mixup_alpha {options.ref_model_mixup_alpha:g} is not above 0 and at most 1"
        yield f"{KWARGS}.ref_model_mixup_alpha", what, "0.6"
    if options.ref_model_sync_steps < 1:
        what = f"ref_model_sync_steps {options.ref_model_sync_steps} is less than one step"
        yield f"{KWARGS}.ref_model_sync_steps", what, "512"


class Referenced(LanguageMethod):
    """A method whose objective has `reference`, `fused_reference` and `without_adapters`, and whose settings are those
    of `DPOOptions` that are about the reference."""

    def before_adapters(self, model: Any, config: TrainingConfig, text: Text) -> Any:
        """Return a copy of the model, where it is the reference and will not be had by switching adapters off."""
        from trainwright.models.adapters import keeps_base

        if not config.training.use_peft or text.options.ref_model is not None:
            return None
        if config.model.adapter_model is not None or keeps_base(config.peft):
            return None
        text.notes.append(
            "The reference is a copy of the model, since these adapters change it itself (peft.lora_init_weights: "
            f"{config.peft.lora_init_weights}, lora_bias: {config.peft.lora_bias})."
        )
        return copy.deepcopy(model)

    def ready(self, model: Any, text: Text) -> Any:
        """Return the model, without dropout unless `disable_dropout` is false."""
        from trainwright.models.load import without_dropout

        return without_dropout(model) if text.options.disable_dropout else model

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Give the objective its reference."""
        from trainwright.models.load import dropout_settings
        from trainwright.session.model_setup import change_configuration
        from trainwright.tasks.language.reference import add_reference
        from trainwright.tasks.language.synced import keep_synced

        if text.options.disable_dropout:
            change_configuration(session, **dropout_settings(session.model))
        add_reference(session, config, text, kept)
        if text.options.sync_ref_model:
            keep_synced(session, text.options)

    def further_weights(self, config: TrainingConfig, base: int, weights: int, named: Callable[[str], int]) -> int:
        """Return the bytes of the reference, as `add_reference` has it."""
        from trainwright.models.adapters import keeps_base

        params = config.training
        if params.trainer_kwargs.get("precompute_ref_log_probs"):
            return 0
        if params.trainer_kwargs.get("ref_model") is not None:
            return named("ref_model")
        if params.use_peft and config.model.adapter_model is None:
            return 0 if keeps_base(config.peft) else base
        return weights
