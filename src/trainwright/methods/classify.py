"""Classification: of a text, or of each of its words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainwright.config.keys import uses
from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS, refused
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import CLASS_METRICS, ClassifyOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.tasks.language.method import LanguageMethod, Part, Text

if TYPE_CHECKING:
    from trainwright.data.text.class_rows import ClassRules
    from trainwright.objectives.objective import Objective


def not_of_chats(what: str) -> tuple[Line, ...]:
    """Return the lines of a method that reads no conversations and packs nothing."""
    return (
        refused("model", "chat_template chat_template_kwargs", f"{what}, without a chat template", "leave it out"),
        refused(KWARGS, "padding_free", "rows are padded", "leave it out", fine=(False,)),
        uses.no_streams("data.train"),
        uses.no_streams("data.validation"),
    )


def unknown_metrics(given: Sequence[str], known: Sequence[str]) -> Iterator[Fault]:
    """Yield metrics that there are not."""
    for name in given:
        if name not in known:
            near = did_you_mean(name, known).strip() or f"known: {', '.join(known)}"
            yield f"{KWARGS}.metrics", f"there is no metric '{name}'", near


class Classify(LanguageMethod):
    """Our Trainer on rows that have a class each, or on words that have."""

    title = "classification"
    options = ClassifyOptions
    lines: tuple[Line, ...] = (*LanguageMethod.lines, *not_of_chats("texts are read as they are"))
    accepts = (Format.TEXT, Format.TOKENS)
    learns_from = "'text' and 'label', or 'tokens' and 'tags'"
    columns = ("label", "tokens", "tags")
    adapter_tasks = ("SEQ_CLS", "TOKEN_CLS")
    estimated = ""

    def example(self) -> str:
        """Return recipes/classify.yaml."""
        return recipe("classify")

    def faults(self, options: ClassifyOptions) -> Iterator[Fault]:
        """Yield metrics that there are not, and weights that do not fit the names."""
        yield from unknown_metrics(options.metrics, CLASS_METRICS)
        names, weights = options.class_names, options.class_weights
        if names is not None and len(set(names)) != len(names):
            yield f"{KWARGS}.class_names", "a class is named twice", ""
        if weights is not None and (any(one < 0 for one in weights) or not any(weights)):
            yield f"{KWARGS}.class_weights", f"class_weights {weights} are not above 0", ""
        if names is not None and weights is not None and len(names) != len(weights):
            yield f"{KWARGS}.class_weights", f"{len(weights)} class_weights for {len(names)} classes", "one for each"
        yield from text_faults(options)

    def format_of(self, columns: Sequence[str], text_column: str) -> Format:
        """Return what rows are: texts with a class, or words with one each.

        Raises:
            DataError: neither.
        """
        from trainwright.data.text.class_rows import CLASS, TAGS, WORDS, column_of

        if column_of(columns, WORDS) and column_of(columns, TAGS):
            return Format.TOKENS
        if text_column in columns and column_of(columns, CLASS):
            if "text_pair" in columns:
                raise DataError(
                    "one text is classified, and 'text_pair' is a second one. Make one text of both, or leave the "
                    "column out."
                )
            return Format.TEXT
        raise DataError(
            f"CLASSIFY learns from {self.learns_from} (also ner_tags, pos_tags), but the data has the columns "
            f"{', '.join(columns)}. Say what they are: column_map: {{review: text, stars: label}}."
        )

    def read_in(self, found: Format, text_column: str) -> Sequence[str]:
        """Return the columns that are read of texts, or of words."""
        from trainwright.data.text.class_rows import CLASS, TAGS, WORDS

        return (*WORDS, *TAGS) if found is Format.TOKENS else (text_column, *CLASS)

    def check_row(self, row: Mapping[str, Any], number: int, found: Format, text_column: str) -> None:
        """Raise a DataError where a row has no text, or no class."""
        for name in (one for one in self.read_in(found, text_column) if one in row):
            if row[name] is None:
                raise DataError(f"Row {number} has None in '{name}'. Drop the row or fill it in.")

    def rules(self, config: TrainingConfig, options: ClassifyOptions, tokenizer: Any, found: Format) -> ClassRules:
        """Return how rows are tokenised, with the names of the classes: those that are given, else the data's.

        Raises:
            ConfigError: there is one class alone, or not as many weights as classes.
        """
        from trainwright.config.reading.read import text_column_of
        from trainwright.data import mixture
        from trainwright.data.text.class_rows import CLASS, TAGS, ClassRules, WordRules, names_in
        from trainwright.models.classes import as_in_the_model

        by_word, column = found is Format.TOKENS, text_column_of(config)
        names = options.class_names
        if names is None:
            tables = mixture.read_parts(config.data.train, config.training.seed, column)
            names = as_in_the_model(config.model, names_in(tables, TAGS if by_word else CLASS))
        if len(names) < 2:
            raise ConfigError(f"The data has the class {', '.join(names)} alone, so there is nothing to learn.")
        if options.class_weights is not None and len(options.class_weights) != len(names):
            raise ConfigError(
                f"{KWARGS}.class_weights has {len(options.class_weights)} numbers, but there are {len(names)} classes: "
                f"{', '.join(names)}. Give one for each, in that order."
            )
        kind = WordRules if by_word else ClassRules
        return kind(tokenizer, found, max_length=options.max_length, text_column=column, names=tuple(names))

    def model_class(self, text: Text) -> str:
        """Return the class of transformers with a head for classes."""
        by_word = text.rules.format is Format.TOKENS
        return "AutoModelForTokenClassification" if by_word else "AutoModelForSequenceClassification"

    def adapter_task(self, text: Text) -> str:
        """Return peft's name of the task, by which the head is trained and saved with the adapters."""
        return self.adapter_tasks[text.rules.format is Format.TOKENS]

    def model_settings(self, text: Text) -> dict[str, Any]:
        """Return the names of the classes, and that there is one for each row."""
        names = self._rules_of(text).names
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "pad_token_id": text.tokenizer.pad_token_id,
        }

    def collator(self, text: Text) -> Any:
        """Return what makes batches of rows with their classes."""
        from trainwright.data.text.class_rows import ClassBatch

        by_word, end = text.rules.format is Format.TOKENS, tuple(text.rules.marks[1])
        return ClassBatch(text.tokenizer.pad_token_id, text.multiple, by_word, text.options.max_length, end)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return the row, of words those that have a class marked."""
        import torch

        from trainwright.batch import IGNORED

        ids, classes = row["input_ids"], row["classes"]
        if len(classes) == 1:
            return [Part(f"class {int(classes[0])}", ids, torch.zeros_like(ids).bool())]
        return [Part("", ids, classes != IGNORED)]

    def objective(self, model: Any, args: Any, text: Text) -> Objective:
        """Return the cross-entropy over classes."""
        from trainwright.objectives.classes import ClassLoss

        return ClassLoss(text.options.class_weights)

    def metrics(self, text: Text) -> Any:
        """Return the metrics of an evaluation."""
        from trainwright.tasks.language.scores import of_classes

        return of_classes(text.options.metrics) if text.options.metrics else None

    @staticmethod
    def _rules_of(text: Text) -> ClassRules:
        rules: Any = text.rules
        found: ClassRules = rules
        return found
