"""Reward models: of two answers the better one is given the higher score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, no_effect, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import RewardOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.errors import DataError
from trainwright.tasks.language.method import LanguageMethod, Part, Text

if TYPE_CHECKING:
    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective
    from trainwright.session.session import Session

SCORED: tuple[Line, ...] = (
    *uses.no_supervision("of a pair both answers are scored whole", "pairs are not packed",
                         "pairs stand in 'chosen' and 'rejected'"),
    refused("training", "label_smoothing_factor", "pairs have no classes", "leave it out"),
    uses.no_streams("data.train"),
    uses.no_streams("data.validation"),
    no_effect("peft", "lora_dropout", "training.trainer_kwargs.disable_dropout: false",
              used_if=lambda c: c.training.trainer_kwargs.get("disable_dropout") is False),
)  # fmt: skip


class Reward(LanguageMethod):
    """Our Trainer on pairs of answers, each of which is scored whole."""

    title = "reward modelling"
    options = RewardOptions
    lines: tuple[Line, ...] = (
        *SCORED,
        no_effect(KWARGS, "padding_free", "rows are flattened where that is quicker"),
    )
    accepts = (Format.PREFERENCE, Format.TOKENS)
    learns_from = "'chosen' and 'rejected'"
    columns = ("margin", "chosen_ids", "rejected_ids")
    adapter_tasks = ("SEQ_CLS",)
    sequences = 2
    estimated = "AutoModelForSequenceClassification"

    def example(self) -> str:
        """Return recipes/reward.yaml."""
        return recipe("reward")

    def faults(self, options: RewardOptions) -> Iterator[Fault]:
        """Yield a coefficient that rewards scores far from 0."""
        given = options.center_rewards_coefficient
        if given is not None and given < 0:
            yield f"{KWARGS}.center_rewards_coefficient", f"center_rewards_coefficient {given:g} is negative", "0.01"
        yield from text_faults(options)

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        """Return what rows are: pairs of texts or chats, or of tokens.

        Raises:
            DataError: neither.
        """
        from trainwright.data.sources.formats import READY_PAIRS

        if set(READY_PAIRS) <= set(columns):
            return Format.TOKENS
        if {"chosen", "rejected"} <= set(columns):
            return Format.PREFERENCE
        raise DataError(
            f"{self.name} learns from {self.learns_from}, but the data has the columns {', '.join(columns)}. Say what "
            "they are: column_map: {better: chosen, worse: rejected}."
        )

    def rules(self, config: TrainingConfig, options: RewardOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how pairs are tokenised."""
        from trainwright.data.text.scored import ScoredRules

        settings = config.model.chat_template_kwargs
        return ScoredRules(tokenizer, found, max_length=options.max_length, template_settings=settings)

    def model_class(self, text: Text) -> str:
        """Return the class of transformers with a head of one score."""
        return self.estimated

    def adapter_task(self, text: Text) -> str:
        """Return peft's name of the task, by which the head is trained and saved with the adapters."""
        return self.adapter_tasks[0]

    def model_settings(self, text: Text) -> dict[str, Any]:
        """Return that there is one score for each row."""
        return {"num_labels": 1, "pad_token_id": text.tokenizer.pad_token_id}

    def collator(self, text: Text) -> Any:
        """Return what makes batches of pairs."""
        from trainwright.data.text.scored import ScoredBatch

        return ScoredBatch(text.tokenizer.pad_token_id, text.multiple)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return both answers, of which the last token has the score."""
        import torch

        answers = (("chosen", row["chosen_ids"]), ("rejected", row["rejected_ids"]))
        return [Part(name, ids, torch.arange(len(ids)) == len(ids) - 1) for name, ids in answers]

    def ready(self, model: Any, text: Text) -> Any:
        """Return the model, without dropout unless `disable_dropout` is false."""
        from trainwright.models.load import without_dropout

        embeddings = model.get_input_embeddings()
        if getattr(embeddings, "padding_idx", None) == text.tokenizer.eos_token_id:
            embeddings.padding_idx = None  # an end token that also pads is learned; padding itself is masked
        return without_dropout(model) if text.options.disable_dropout else model

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return the loss of pairs of scores."""
        from trainwright.models.head import score_layer
        from trainwright.objectives.reward import RewardLoss

        return RewardLoss(text.options, score_layer(model))

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Let rows go without their padding, where a document is scored among others as it is alone."""
        from trainwright.callbacks.calibration import CalibrationCallback
        from trainwright.models.load import dropout_settings
        from trainwright.session.model_setup import change_configuration
        from trainwright.tasks.language.scoring import flatten

        if text.options.disable_dropout:
            change_configuration(session, **dropout_settings(session.model))
        if hasattr(session.model.config, "use_cache"):
            change_configuration(session, use_cache=False)
        flatten(session, text)
        if text.evaluation is not None:
            session.callback_handler.add_callback(CalibrationCallback())
