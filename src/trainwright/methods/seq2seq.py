"""Encoder-decoders, such as T5 and BART: a text is read, and another one is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from trainwright.config.keys.lines import Line
from trainwright.config.keys.uses import KWARGS
from trainwright.config.methods import Fault, recipe
from trainwright.config.options import TEXT_METRICS, Seq2SeqOptions
from trainwright.config.reading.validation import text_faults
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.formats import Format
from trainwright.methods.classify import not_of_chats, unknown_metrics
from trainwright.tasks.language.method import LanguageMethod, Part, Text

if TYPE_CHECKING:
    from trainwright.data.text.pairs_of_texts import SourceTarget
    from trainwright.data.text.tokenize import TextRules


class Seq2Seq(LanguageMethod):
    """Our Trainer on prompts that are read and completions that are written."""

    title = "sequence-to-sequence training"
    options = Seq2SeqOptions
    lines: tuple[Line, ...] = (*LanguageMethod.lines, *not_of_chats("prompts are read as they are"))
    accepts = (Format.COMPLETION,)
    learns_from = "'prompt' and 'completion'"
    learns_all = True
    adapter_tasks = ("SEQ_2_SEQ_LM",)
    estimated = ""

    def example(self) -> str:
        """Return recipes/seq2seq.yaml."""
        return recipe("seq2seq")

    def faults(self, options: Seq2SeqOptions) -> Iterator[Fault]:
        """Yield metrics that there are not, and lengths of nothing."""
        yield from unknown_metrics(options.metrics, TEXT_METRICS)
        if options.max_target_length is not None and options.max_target_length < 1:
            what = f"max_target_length {options.max_target_length} is less than one token"
            yield f"{KWARGS}.max_target_length", what, ""
        if options.num_beams < 1:
            yield f"{KWARGS}.num_beams", f"num_beams {options.num_beams} is less than 1", ""
        yield from text_faults(options)

    def rules(self, config: TrainingConfig, options: Seq2SeqOptions, tokenizer: Any, found: Format) -> TextRules:
        """Return how rows are tokenised."""
        from trainwright.data.text.pairs_of_texts import SourceTarget, check_languages

        rules = SourceTarget(tokenizer, found, max_length=options.max_length, source_prefix=options.source_prefix or "")
        check_languages(rules)
        return rules

    def model_class(self, text: Text) -> str:
        """Return the class of transformers that reads and writes."""
        return "AutoModelForSeq2SeqLM"

    def adapter_task(self, text: Text) -> str:
        """Return peft's name of the task."""
        return self.adapter_tasks[0]

    def collator(self, text: Text) -> Any:
        """Return what makes batches of both texts."""
        from trainwright.data.text.pairs_of_texts import SourceTargetBatch

        longest = text.options.max_target_length
        over = 0 if longest is None else int((text.train.sizes("target_ids") > longest).sum())
        if over:
            text.notes.append(
                f"{over} of {len(text.train)} completions are longer than max_target_length={longest}; their ends are "
                "cut off."
            )
        return SourceTargetBatch(text.tokenizer.pad_token_id, text.multiple, text.options.max_target_length)

    def parts(self, row: dict[str, Any]) -> list[Part]:
        """Return what is read, and what is written and learned."""
        import torch

        return [
            Part(name, row[column], torch.full_like(row[column], learned).bool())
            for name, column, learned in (("read", "input_ids", 0), ("written", "target_ids", 1))
        ]

    def ready(self, model: Any, text: Text) -> Any:
        """Return the model, whose writing begins with the mark of the language that it is trained to write."""
        from trainwright.data.text.pairs_of_texts import begins_with

        for name, value in begins_with(cast("SourceTarget", text.rules)).items():
            if getattr(model.generation_config, name) != value:
                setattr(model.generation_config, name, value)
                token = text.tokenizer.convert_ids_to_tokens(value)
                text.notes.append(f"What is generated begins with {token!r}: {name} of the model's generation is set.")
        return model

    def generation(self, text: Text) -> dict[str, Any]:
        """Return how evaluations generate, which they do where there are metrics of what is generated."""
        options = text.options
        return {
            "predict_with_generate": bool(options.metrics),
            "generation_max_length": options.max_target_length,
            "generation_num_beams": options.num_beams,
        }

    def metrics(self, text: Text) -> Any:
        """Return the metrics of what is generated."""
        from trainwright.tasks.language.scores import of_texts

        return of_texts(text.options.metrics, text.tokenizer) if text.options.metrics else None
