"""Distillation: a student learns the predictions of a teacher, on the completions of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import DistillOptions
from trainwright.config.schema import TrainingConfig
from trainwright.errors import ConfigError
from trainwright.methods.sft import OUR_ROWS, PACKED, SFT, STREAMS
from trainwright.tasks.language.method import Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.sources.formats import Format
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective
    from trainwright.session.session import Session

TAUGHT: tuple[Line, ...] = (
    refused("training", "label_smoothing_factor", "the teacher says how likely every token is", "leave it out"),
    refused(KWARGS, "loss_type", "the divergence is the only loss", "beta says which"),
    no_effect("peft", "lora_dropout", "training.trainer_kwargs.disable_dropout: false",
              used_if=lambda c: c.training.trainer_kwargs.get("disable_dropout") is False),
)  # fmt: skip
_ALONE = ("seq_kd", "teacher_model_init_kwargs")


def _writes(config: TrainingConfig) -> bool:
    return bool(config.training.trainer_kwargs.get("lmbda"))


def teacher_faults(options: DistillOptions) -> Iterator[Fault]:
    """Yield a teacher that is missing, and numbers out of their range."""
    if options.teacher_model_name_or_path is None:
        what = "training.trainer_kwargs.teacher_model_name_or_path is missing, so there is nobody to learn from"
        yield f"{KWARGS}.teacher_model_name_or_path", what, "a folder or a name on the hub"
    for name in ("beta", "lmbda"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            yield f"{KWARGS}.{name}", f"{name} {value:g} is not from 0 to 1", "0.5"
    if options.temperature is not None and options.temperature <= 0:
        yield f"{KWARGS}.temperature", f"temperature {options.temperature:g} is not above 0", "1.0"


class Distill(SFT):
    """Our Trainer on the rows of supervised fine-tuning; of conversations the last answer is learned."""

    title = "distillation"
    options = DistillOptions
    lines: tuple[Line, ...] = (
        *TAUGHT, *STREAMS, *OUR_ROWS, *PACKED,
        refused(KWARGS, " ".join(_ALONE), "the teacher writes nothing, and is loaded as model.* says",
                "leave it out, or use TRL_GKD"),
        no_effect(KWARGS, "max_new_tokens", "lmbda above 0", used_if=_writes, switch=f"{KWARGS}.lmbda"),
        refused("training", "auto_find_batch_size", "lmbda 0", used_if=lambda c: not _writes(c)),
    )  # fmt: skip
    chosen_for = ()

    def example(self) -> str:
        """Return recipes/distill.yaml."""
        return recipe("distill")

    def faults(self, options: Any) -> Iterator[Fault]:
        """Yield what is wrong with the teacher, and with completions that the student writes."""
        yield from teacher_faults(options)
        if options.lmbda and options.packing:
            yield (
                f"{KWARGS}.lmbda",
                "with lmbda the student writes after the prompts of rows that are not packed",
                "0.0",
            )
        if options.lmbda and options.completion_only_loss is False:
            yield f"{KWARGS}.lmbda", "with completion_only_loss: false there is no prompt to write after", "0.0"
        if options.max_new_tokens < 1:
            yield f"{KWARGS}.max_new_tokens", f"max_new_tokens {options.max_new_tokens} is less than 1", "128"
        yield from super().faults(options)

    def check_data(self, config: TrainingConfig, options: Any, formats: Sequence[Format]) -> None:
        """Raise a ConfigError where the student is to write after prompts, and the data have none."""
        from trainwright.data.sources.formats import Format

        super().check_data(config, options, formats)
        if options.lmbda and any(one is Format.TEXT for one in formats):
            raise ConfigError(f"{KWARGS}.lmbda: the data are texts, so the student has no prompt to write after.")

    def rules(self, config: TrainingConfig, options: Any, tokenizer: Any, found: Format) -> TextRules:
        """Return how rows are tokenised: of a conversation the last answer is learned, unless all of them are asked
        for."""
        made = super().rules(config, options, tokenizer, found)
        return made if options.assistant_only_loss else replace(made, final_turn_only=True)

    def ready(self, model: Any, text: Text) -> Any:
        """Return the model, without dropout unless `disable_dropout` is false."""
        from trainwright.models.load import without_dropout

        return without_dropout(model) if text.options.disable_dropout else model

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the divergence from the teacher, who is given to it by `connect`."""
        from trainwright.objectives.distillation.loss import DistillationLoss

        temperature = text.options.temperature
        return DistillationLoss(text.options.beta, 1.0 if temperature is None else temperature)

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Give the objective its teacher."""
        from trainwright.models.load import dropout_settings
        from trainwright.session.model_setup import change_configuration
        from trainwright.tasks.language.teacher import add_teacher

        if text.options.disable_dropout:
            change_configuration(session, **dropout_settings(session.model))
        add_teacher(session, config, text)
        if text.options.lmbda:
            _write_on_policy(session, text)

    def further_weights(self, config: TrainingConfig, base: int, weights: int, named: Callable[[str], int]) -> int:
        """Return the bytes of the teacher."""
        name = "teacher_model_name_or_path"
        return 0 if config.training.trainer_kwargs.get(name) is None else named(name)


def _write_on_policy(session: Session, text: Text) -> None:
    """Put what the student writes between the loader and the step.

    Raises:
        ConfigError: processes share the model, or no token ends what is written.
    """
    from trainwright.generation.sampling import Sampling
    from trainwright.reinforcement.connecting import sampler_of
    from trainwright.reinforcement.on_policy import OnPolicyStage

    if session.strategy.shards_state:
        raise ConfigError(f"{KWARGS}.lmbda: completions are written by whole models. Leave fsdp out, or give lmbda: 0.")
    options = text.options
    settings = Sampling(options.max_new_tokens, 1.0 if options.temperature is None else options.temperature)
    writer = sampler_of(session.model, settings, text.tokenizer)
    pad, seed = text.tokenizer.pad_token_id, session.args.seed
    session.stage = OnPolicyStage(session, writer, options.lmbda, pad, text.multiple, seed)
