"""What a method makes of rows and models: its formats, its tokens, its batches, its loss.

Everything has a plain default; a method of its own says what differs. What needs torch is imported where it is used, so
that a method can be asked for its description without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trainwright.config import methods
from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.methods import Fault as Fault
from trainwright.config.methods import Method
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import ALSO_READ, Format, check_row, check_wanted, format_of, learned_in
from trainwright.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from trainwright.args.training import TrainingArguments
    from trainwright.data.text.tokenize import TextRules
    from trainwright.objectives.objective import Objective
    from trainwright.session.session import Session


@dataclass
class Text:
    """Tokenizer and data of a run.

    Attributes:
        method: what learns from them.
        options: its settings.
        rules: how rows are tokenised.
        train: rows of tokens, packed rows, or a stream of them.
        evaluation: the same, or None.
        notes: sentences for the user.
    """

    method: LanguageMethod
    options: Any
    tokenizer: Any
    rules: TextRules
    train: Any = None
    evaluation: Any = None
    notes: list[str] = field(default_factory=list)

    @property
    def multiple(self) -> int | None:
        """What the width of padded batches is a multiple of."""
        given = self.options.pad_to_multiple_of
        return given if isinstance(given, int) else None


@dataclass
class Part:
    """One sequence that the model sees of a row.

    Attributes:
        name: which of them; empty where there is one.
        ids: its tokens, shape (tokens,).
        learned: which of them are learned, of the same shape.
    """

    name: str
    ids: torch.Tensor
    learned: torch.Tensor


class LanguageMethod(Method):
    """A method that trains causal language models.

    Attributes:
        accepts: what its rows may hold.
        chosen_for: for which of these it is chosen where the data decide; None for all.
        learns_from: the columns of these in words, for messages.
        learns_all: whether every answer is learned, so that one that is judged bad is refused.
        sequences: that the model sees of a row.
        estimated: the class of transformers that loads the model, for an estimate of its memory.
        arguments: those of the Trainer that it decides itself, whatever the file says of them.
    """

    lines: tuple[Line, ...] = (
        *uses.no_supervision(
            "it says itself what is learned", "its rows are not packed", "its rows have columns of their own"
        ),
        uses.refused("training", "label_smoothing_factor", "it smooths the labels of supervised fine-tuning"),
    )
    accepts: tuple[Format, ...] = ()
    chosen_for: tuple[Format, ...] | None = None
    learns_from: str = ""
    learns_all: bool = False
    sequences: int = 1
    estimated: str = "AutoModelForCausalLM"
    arguments: Mapping[str, Any] = MappingProxyType({})

    def faults(self, options: Any) -> Any:
        """Yield what is wrong with the settings of text."""
        from trainwright.config.reading.validation import text_faults

        yield from text_faults(options)

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        """Return what rows with these columns are.

        Raises:
            DataError: nothing that can be learned from.
        """
        return format_of(columns, text_column)

    def read_in(self, found: Format, text_column: str) -> Sequence[str] | None:
        """Return the columns that are read of rows of a format; None where all may be, as by rewards and by a method of
        the user's."""
        if found is Format.PROMPT or not type(self).__module__.startswith("trainwright."):
            return None
        return (*learned_in(found, text_column), *ALSO_READ, *self.columns)

    def check_row(self, row: Mapping[str, Any], number: int, found: Format, text_column: str) -> None:
        """Raise a DataError where training would stop at a row, as its columns alone show."""
        check_row(row, number, found, text_column)
        if found in (Format.COMPLETION, Format.MESSAGES) and self.learns_all:
            check_wanted(row, number)

    def check_data(self, config: TrainingConfig, options: Any, formats: Sequence[Format]) -> None:
        """Raise a ConfigError where settings ask for what the data, by their formats, do not have."""

    def arranged(self, table: Any, options: Any) -> Any:
        """Return a dataset with the rows that `rules` tokenises: as they are, unless one becomes several.

        Raises:
            DataError: a row is not what the method learns from.
        """
        return table

    def trained_rows(self, config: TrainingConfig, rows: int, columns: Sequence[str]) -> int:
        """Return how many rows a pass trains on, where the data have so many, of these columns."""
        return rows

    def rules(self, config: TrainingConfig, options: Any, tokenizer: Any, found: Format) -> TextRules:
        """Return how rows are tokenised."""
        from trainwright.data.text.tokenize import TextRules

        settings = config.model.chat_template_kwargs
        return TextRules(tokenizer, found, max_length=options.max_length, template_settings=settings)

    def try_rows(self, config: TrainingConfig, text: Text, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise a ConfigError or DataError where a dataset's first rows can be tokenised, and not trained on.

        Args:
            text: without data.
            table: the rows as they were read.
            rows: the same as tokens.
        """

    def packing(self, options: Any, training: bool) -> tuple[str, int] | None:
        """Return (strategy, length) of packed rows, of the training or the validation data; None packs none."""
        return None

    def model_class(self, text: Text) -> str:
        """Return the class of transformers that loads the model."""
        return "AutoModelForCausalLM"

    def model_settings(self, text: Text) -> dict[str, Any]:
        """Return settings of the model's configuration that follow from the data."""
        return {}

    def adapter_task(self, text: Text) -> str | None:
        """Return peft's name of what the model does; None for what the file says."""
        return None

    def generation(self, text: Text) -> dict[str, Any] | None:
        """Return the settings of evaluation by generation (`Seq2SeqTrainingArguments`); None for none."""
        return None

    def metrics(self, text: Text) -> Callable[[Any], dict[str, float]] | None:
        """Return the `compute_metrics` of the Trainer."""
        return None

    def collator(self, text: Text) -> Any:
        """Return what makes batches of rows of tokens."""
        from trainwright.data.text.text_collators import FlatBatch, PaddedBatch

        return FlatBatch() if text.options.padding_free else PaddedBatch(text.tokenizer.pad_token_id, text.multiple)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return what the model sees of a row of tokens, and what of that is learned."""
        from trainwright.batch import IGNORED

        learned = row["labels"] != IGNORED
        learned[:1] = False  # nothing comes before the first token
        return [Part("", row["input_ids"], learned)]

    def before_adapters(self, model: Any, config: TrainingConfig, text: Text) -> Any:
        """Return what is kept, for `connect`, of a model that has no adapters yet."""
        return None

    def ready(self, model: Any, text: Text) -> Any:
        """Return the model as it is trained, adapters included."""
        return model

    def objective(self, model: Any, args: TrainingArguments, text: Text) -> Objective:
        """Return what is minimised: the model's own loss; its terms are the metrics."""
        from trainwright.training.setup import model_loss

        return model_loss(model, args, token_metrics=True)

    def connect(self, session: Session, config: TrainingConfig, text: Text, kept: Any) -> None:
        """Finish a Trainer that is built: give the objective what it needs of it."""

    def further_weights(self, config: TrainingConfig, base: int, weights: int, named: Callable[[str], int]) -> int:
        """Return the bytes of other models that are held beside the trained one.

        Args:
            base: bytes of the model without adapters.
            weights: bytes of the model.
            named: of a model that a setting of the method names, by the setting.
        """
        return 0

    def upstream(self, config: TrainingConfig) -> Any:
        """Return the other library's trainer, where the method has a `library`.

        Raises:
            ConfigError, DataError: something cannot be read, loaded, or does not fit.
        """
        raise NotImplementedError


def chosen(trainer_type: str | None, found: Format) -> LanguageMethod:
    """Return the method that a file names, or the one that its data are for.

    Raises:
        ConfigError: the data do not fit it.
    """
    able = able_of(trainer_type)
    named = len(able) == 1
    for one in able:
        if found in (one.accepts if named or one.chosen_for is None else one.chosen_for):
            return one
    others = [one.name for one in able_of(None) if found in one.accepts]
    there = f" {' or '.join(others)} learns from that." if others else ""
    raise ConfigError(
        f"trainer_type {trainer_type} learns from {able[0].learns_from}, but the data holds {found.value}.{there}"
    )


def able_of(trainer_type: str | None) -> list[LanguageMethod]:
    """Return the methods that a trainer_type may turn out to be."""
    return [one for one in methods.candidates(trainer_type) if isinstance(one, LanguageMethod)]
