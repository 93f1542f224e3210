"""Supervised fine-tuning: completions, the assistant's turns, or all of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import PACKINGS, SFT_LOSSES, SFTOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig, TrainTarget
from trainwright.data.sources.formats import Format
from trainwright.errors import ConfigError, did_you_mean
from trainwright.tasks.language.method import LanguageMethod, Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective

_TABLE = "a table (no stream: true), which is tokenised before"


def _packs(config: TrainingConfig) -> bool:
    return bool(config.training.trainer_kwargs.get("packing") or config.data.train.pack)


def _tokenises_before(config: TrainingConfig) -> bool:
    splits = (config.data.train, config.data.validation)
    return any(split.datasets and not split.stream for split in splits)


NLL_ONLY = (refused(KWARGS, "loss_type", "nll is the only loss", "leave it out, or use SFT or TRL_SFT"),)
UNSMOOTHED = (
    refused(
        "training",
        "label_smoothing_factor",
        "loss_type: nll",
        used_if=lambda c: c.training.trainer_kwargs.get("loss_type", "nll") == "nll",
    ),
)
PACKED = (no_effect(KWARGS, "packing_strategy", "packing: true", used_if=_packs),)
OUR_ROWS = (
    refused(KWARGS, "shuffle_dataset", "every pass is shuffled anew already", "data.train.datasets[].shuffle"),
    refused(KWARGS, "dataset_kwargs", "dataset_kwargs are not read", "rows of tokens are taken as they are",
            fine=({"skip_prepare_dataset": True}, {"skip_prepare_dataset": False})),
    refused(KWARGS, "eval_packing", "packing: true", used_if=_packs, fine=(False,)),
    no_effect(KWARGS, "pad_to_multiple_of", "rows that are padded (no packing, no padding_free)",
              used_if=lambda c: not _packs(c) and not c.training.trainer_kwargs.get("padding_free")),
)  # fmt: skip
STREAMS = (
    no_effect("data.train.datasets.*", "transform_num_workers", _TABLE, used_if=lambda c: not c.data.train.stream),
    no_effect("data.validation.datasets.*", "transform_num_workers", _TABLE,
              used_if=lambda c: not c.data.validation.stream),
    no_effect(KWARGS, "dataset_num_proc", _TABLE, used_if=_tokenises_before),
)  # fmt: skip


class SFT(LanguageMethod):
    """Our Trainer on texts, prompts and completions, conversations, or tokens."""

    title = "supervised fine-tuning"
    options = SFTOptions
    lines: tuple[Line, ...] = (*UNSMOOTHED, *STREAMS, *OUR_ROWS, *PACKED)
    losses: tuple[str, ...] = SFT_LOSSES
    accepts: tuple[Format, ...] = (Format.TEXT, Format.COMPLETION, Format.MESSAGES, Format.TOKENS)
    learns_from = "text, prompts, messages or tokens"
    learns_all = True

    def example(self) -> str:
        """Return recipes/sft.yaml."""
        return recipe("sft")

    def faults(self, options: SFTOptions) -> Iterator[Fault]:
        """Yield a loss or packing that there is not, and settings of text that cannot be."""
        if options.loss_type not in self.losses:
            near = did_you_mean(options.loss_type, self.losses).strip() or " or ".join(self.losses)
            yield f"{KWARGS}.loss_type", f"loss_type '{options.loss_type}' is not known", near
        if options.packing_strategy not in PACKINGS:
            near = did_you_mean(options.packing_strategy, PACKINGS).strip() or f"known: {', '.join(PACKINGS)}"
            yield f"{KWARGS}.packing_strategy", f"packing_strategy '{options.packing_strategy}' is not known", near
        yield from text_faults(options)
        if options.packing and options.max_length is None:
            yield f"{KWARGS}.packing", "packing needs max_length, the tokens of a packed row", ""

    def check_data(self, config: TrainingConfig, options: SFTOptions, formats: Sequence[Format]) -> None:
        """Raise a ConfigError where turns or completions are to be learned, and the data have none."""
        if options.completion_only_loss and all(one is Format.MESSAGES for one in formats):
            raise ConfigError(
                "training.trainer_kwargs.completion_only_loss is for prompts with completions, but the data are "
                "conversations; assistant_only_loss: true learns the assistant's turns alone."
            )
        if any(one is not Format.TEXT for one in formats):
            return
        data, what = config.data.train, "but the data are texts, which are learned whole; leave it out"
        if options.assistant_only_loss or data.train_target is not None:
            names = {"data.train.train_target": data.train_target, "data.train.collator_name": data.collator_name}
            name = next((name for name, value in names.items() if value), f"{KWARGS}.assistant_only_loss")
            raise ConfigError(f"{name} is for conversations, {what}.")
        if options.completion_only_loss:
            raise ConfigError(f"{KWARGS}.completion_only_loss is for prompts with completions, {what}.")

    def rules(self, config: TrainingConfig, options: SFTOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how rows are tokenised: what of them is learned is said by the options and the section `data`."""
        from trainwright.data.text.tokenize import TextRules

        return TextRules(
            tokenizer,
            found,
            max_length=options.max_length,
            text_column=options.dataset_text_field,
            completion_only=options.completion_only_loss is not False,
            assistant_only=options.assistant_only_loss,
            final_turn_only=config.data.train.train_target is TrainTarget.FINAL_ASSISTANT_TURN,
            template_settings=config.model.chat_template_kwargs,
        )

    def packing(self, options: SFTOptions, training: bool) -> tuple[str, int] | None:
        """Return strategy and length of packed rows; of validation data unless `eval_packing` says otherwise."""
        if not options.packing or options.max_length is None or not (training or options.eval_packing is not False):
            return None
        return options.packing_strategy, options.max_length

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the model's own loss, or that of dynamic fine-tuning."""
        if text.options.loss_type != "dft":
            return super().objective(model, args, text)
        from trainwright.objectives.dynamic import DynamicLoss

        return DynamicLoss()

    def collator(self, text: Text) -> Any:
        """Return what makes batches: documents that were packed lie one after another."""
        from trainwright.data.text.text_collators import FlatBatch

        packed = text.options.packing and text.options.packing_strategy != "wrapped"
        return FlatBatch() if packed else super().collator(text)
