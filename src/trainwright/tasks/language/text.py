"""The text of a run: its tokenizer, its rows as tokens, and what the user should know of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from trainwright.batch import IGNORED
from trainwright.config.options import SFTOptions
from trainwright.config.params import TrainerType
from trainwright.config.reading import checked_options, options_of
from trainwright.config.schema import DatasetSplitParams, TrainingConfig, TrainTarget
from trainwright.data import chat, sources
from trainwright.data.blocks import BlockStream
from trainwright.data.formats import Format, format_of, is_chat
from trainwright.data.packing import PackedRows
from trainwright.data.prepare import features, prepare
from trainwright.data.tokenize import TextRules
from trainwright.errors import ConfigError, DataError
from trainwright.models.load import known_token, load_tokenizer

_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
_LOOKED_AT = 8
_SEARCHED = 1000  # rows, for some that are not cut off


@dataclass
class Text:
    """Tokenizer and data of a run.

    Attributes:
        kind: SFT, DPO or PRETRAIN.
        options: the settings of this kind.
        rules: how rows are tokenised.
        train: rows of tokens, packed rows, or a stream of them.
        evaluation: the same, or None.
        notes: sentences for the user.
    """

    kind: TrainerType
    options: Any
    tokenizer: Any
    rules: TextRules
    train: Any
    evaluation: Any
    notes: list[str]


def tokenizer_of(config: TrainingConfig, options: Any) -> Any:
    """Return the tokenizer, with the chat template and the tokens that the file asks for.

    Raises:
        ConfigError: a token that it does not have, a template that is not there.
    """
    tokenizer = load_tokenizer(config.model)
    template = config.model.chat_template or getattr(options, "chat_template_path", None)
    if template is not None:
        tokenizer.chat_template = chat.template_text(template)
    for name in ("eos_token", "pad_token"):
        token = getattr(options, name, None)
        if token is not None:
            setattr(tokenizer, name, known_token(tokenizer, token, f"training.trainer_kwargs.{name}"))
    return tokenizer


def kind_of(wanted: TrainerType | None, found: Format) -> TrainerType:
    """Return the kind of training: the one that the file names, or the one that the data is for.

    Raises:
        ConfigError: the data does not fit the kind.
    """
    if wanted in (TrainerType.SFT, TrainerType.PRETRAIN, TrainerType.DPO):
        if (wanted is TrainerType.DPO) != (found is Format.PREFERENCE):
            needs = "'chosen' and 'rejected'" if wanted is TrainerType.DPO else "text, prompts, messages or tokens"
            raise ConfigError(f"trainer_type {wanted.name} learns from {needs}, but the data holds {found.value}.")
        return wanted
    if found is Format.PREFERENCE:
        return TrainerType.DPO
    return TrainerType.PRETRAIN if wanted is TrainerType.OUMI and found is Format.TEXT else TrainerType.SFT


def rules_of(config: TrainingConfig, kind: TrainerType, options: Any, tokenizer: Any, found: Format) -> TextRules:
    """Return how the rows are tokenised."""
    target = config.data.train.train_target
    sft = isinstance(options, SFTOptions)
    return TextRules(
        tokenizer,
        found,
        max_length=options.max_length,
        text_column=options.dataset_text_field if sft else "text",
        completion_only=kind is not TrainerType.PRETRAIN and (not sft or options.completion_only_loss is not False),
        assistant_only=sft and options.assistant_only_loss,
        final_turn_only=target is TrainTarget.FINAL_ASSISTANT_TURN,
        template_settings=config.model.chat_template_kwargs,
    )


def notes_of_marks(rules: TextRules, table: Any) -> list[str]:
    """Return what to say of begin and end tokens that would stand there twice: the tokenizer's own, and the text's."""
    before, after = rules.marks
    tokenizer, said = rules.tokenizer, []
    names = [name for name in (rules.text_column, "prompt", "chosen") if name in columns_of(table)]
    if rules.format in (Format.TOKENS, Format.MESSAGES) or not names:
        return []
    begin = tokenizer.decode(before)
    texts = [row[names[0]] for row in islice(iter(table), _LOOKED_AT)]
    if before and any(isinstance(text, str) and text.startswith(begin) for text in texts):
        said.append(
            f"Texts begin with {begin!r}, which the tokenizer sets before every text too; it stands there once."
        )
    if after and not all(is_chat(text) for text in texts):
        end = tokenizer.decode(after)
        said.append(f"The tokenizer sets {end!r} after every text by itself; at an end it stands there once.")
    return said


def columns_of(table: Any) -> list[str]:
    """Return the names of the columns of a dataset or stream."""
    return list(table.column_names or next(iter(table)))


def formats_of(parts: Sequence[Any], split: DatasetSplitParams, text_column: str) -> list[Format]:
    """Return what every dataset of a split holds.

    Raises:
        DataError: nothing that can be learned from, or preferences in some alone.
    """
    found = [format_of(columns_of(table), text_column) for table in parts]
    if len({one is Format.PREFERENCE for one in found}) > 1:
        held = "; ".join(
            f"'{name}' holds {one.value}" for name, one in zip(sources.names_of(split), found, strict=True)
        )
        raise DataError(f"Preferences are mixed with preferences alone: {held}.")
    return found


def check_what_is_learned(config: TrainingConfig, options: Any, formats: Sequence[Format]) -> None:
    """Raise a ConfigError where turns or completions are to be learned, and the data have none."""
    if not isinstance(options, SFTOptions):
        return
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
        name = next((name for name, value in names.items() if value), "training.trainer_kwargs.assistant_only_loss")
        raise ConfigError(f"{name} is for conversations, {what}.")
    if options.completion_only_loss:
        raise ConfigError(f"training.trainer_kwargs.completion_only_loss is for prompts with completions, {what}.")


def kind_by_data(config: TrainingConfig) -> TrainerType:
    """Return the kind of training that a file is for, where it names none by its first rows alone."""
    split = replace(config.data.train, stream=True)
    column = options_of(config, SFTOptions).get("dataset_text_field", "text")
    formats = formats_of(sources.read_parts(split, config.training.seed), split, column)
    return kind_of(config.training.trainer_type, formats[0])


def load_text(config: TrainingConfig) -> Text:
    """Return tokenizer and data of a run.

    Raises:
        ConfigError, DataError: something cannot be read, or does not fit.
    """
    seed = config.training.seed
    column = options_of(config, SFTOptions).get("dataset_text_field", "text")
    parts = sources.read_parts(config.data.train, seed)
    formats = formats_of(parts, config.data.train, column)
    found = next((one for one in formats if one is not Format.TEXT), Format.TEXT)
    kind = kind_of(config.training.trainer_type, found)
    options = checked_options(config, kind)
    check_what_is_learned(config, options, formats)
    tokenizer = tokenizer_of(config, options)
    rules = rules_of(config, kind, options, tokenizer, found)
    notes = [] if config.training.trainer_type is kind else [f"The data holds {found.value}, so this is {kind.name}."]
    if isinstance(options, SFTOptions) and column != "text" and Format.TEXT not in formats:
        notes.append(f"'{column}' is not read as a column of texts: the data holds {found.value}.")
    by_own = [replace(rules, format=one) for one in formats]
    for table, own in zip(parts, by_own, strict=True):
        notes += [note for note in notes_of_marks(own, table) if note not in notes]
    train = rows_of(config, config.data.train, parts, by_own, options=options, what="training data", notes=notes)
    evaluation = None
    if config.data.validation.datasets:
        held_out = sources.read_parts(config.data.validation, seed)
        by_own = [replace(rules, format=one) for one in formats_of(held_out, config.data.validation, column)]
        if any((own.format is Format.PREFERENCE) != (found is Format.PREFERENCE) for own in by_own):
            raise DataError(f"The validation data holds {by_own[0].format.value}, but the training data {found.value}.")
        evaluation = rows_of(
            config, config.data.validation, held_out, by_own, options=options, what="validation data", notes=notes
        )
    text = Text(kind, options, tokenizer, rules, train, evaluation, notes)
    warn_of_ends(text)
    return text


def rows_of(
    config: TrainingConfig,
    split: DatasetSplitParams,
    parts: list[Any],
    rules: list[TextRules],
    *,
    options: Any,
    what: str,
    notes: list[str],
) -> Any:
    """Return a split as rows of tokens, packed where that is asked for.

    Args:
        parts: its datasets.
        rules: how each is tokenised.

    Raises:
        DataError: there is nothing to learn from.
    """
    training = split is config.data.train
    packs = isinstance(options, SFTOptions) and options.packing
    if packs and not training and options.eval_packing is False:
        packs = False
    packing = (options.packing_strategy, options.max_length) if packs else None
    longest = None if packs else options.max_length  # packing cuts, or splits, by itself
    rules = [replace(own, max_length=longest) for own in rules]
    seed = config.training.seed
    if split.stream:
        if rules[0].format is Format.PREFERENCE:
            raise ConfigError("Preferences cannot be read as a stream yet; write data.train.stream: false.")
        shuffles = training and any(one.shuffle for one in split.datasets)
        buffer = max(one.shuffle_buffer_size for one in split.datasets) if shuffles else 0
        table, own = sources.mix(as_tokens(parts, rules), split, seed), rules[0]
        own = own if len(parts) == 1 else replace(own, format=Format.TOKENS)
        given = [one.seed for one in split.datasets if one.shuffle and one.seed is not None]
        seed = given[0] if shuffles and given else seed
        return BlockStream(table, own, packing, buffer=buffer, seed=seed, files=sources.local_files(split))
    names = [f"{number}: {name}" for number, name in enumerate(sources.names_of(split), 1)]
    tables = dict(zip(names, zip(parts, rules, strict=True), strict=True))
    mix = partial(sources.mix, split=split, seed=seed)
    prepared = prepare(tables, mix, processes_of(config, split, options), what)
    notes += prepared.report(longest, what)
    if packing is None:
        return prepared.rows
    packed = PackedRows(prepared.rows, *packing)
    over = int((prepared.rows.lengths > options.max_length).sum())
    if over and options.packing_strategy == "bfd":
        lost = int((prepared.rows.lengths - options.max_length).clip(0).sum())
        notes.append(
            f"{over} of {len(prepared.rows)} rows of the {what} are longer than max_length={options.max_length}; "
            f"{lost} tokens at their ends are cut off (packing_strategy: bfd_split keeps them)."
        )
    full = packed.lengths.sum() / (len(packed) * options.max_length)
    notes.append(f"The {what}: {len(prepared.rows)} rows packed into {len(packed)}, {full:.1%} full.")
    return packed


def as_tokens(streams: list[Any], rules: list[TextRules]) -> list[Any]:
    """Return streams of several datasets as rows of tokens, each by its own rules; one alone as it is."""
    if len(streams) == 1:
        return streams
    return [
        stream.map(own.row, with_indices=True, remove_columns=columns_of(stream), features=features(own))
        for stream, own in zip(streams, rules, strict=True)
    ]


def processes_of(config: TrainingConfig, split: DatasetSplitParams, options: Any) -> int | None:
    """Return the processes that tokenise, or None for this one."""
    import os

    asked = [one.transform_num_workers for one in split.datasets if one.transform_num_workers is not None]
    given: int | None = options.dataset_num_proc
    if given is not None or not asked:
        return given
    return max(os.cpu_count() or 1 if one == "auto" else int(one) for one in asked)


def whole_rows(text: Text) -> list[dict[str, torch.Tensor]]:
    """Return the first documents of the training data that are not cut off, whose last token is that of their text."""
    is_packed = isinstance(text.train, PackedRows)  # and cut only then
    documents, limit = (text.train.rows, None) if is_packed else (text.train, text.options.max_length)
    rows = (documents[number] for number in range(min(_SEARCHED, len(documents))))
    return list(islice((row for row in rows if limit is None or _tokens(row) < limit), _LOOKED_AT))


def _tokens(row: dict[str, torch.Tensor]) -> int:
    return sum(len(column) for name, column in row.items() if name not in ("labels", "rejected_ids"))


def warn_of_ends(text: Text) -> None:
    """Note a model that would never learn to stop, and special tokens that the tokenizer does not have as one token."""
    if isinstance(text.train, BlockStream) or text.rules.format in (Format.TOKENS, Format.TEXT):
        return
    tokenizer, end = text.tokenizer, text.tokenizer.eos_token_id
    rows = whole_rows(text)
    if not rows:
        return
    answers = [row["chosen_ids"] if "chosen_ids" in row else row["labels"][row["labels"] != IGNORED] for row in rows]
    if not any(bool((answer == end).any()) for answer in answers) and end is not None:
        last = tokenizer.decode(answers[0][-3:])
        text.notes.append(
            f"No answer that is learned holds the end token {tokenizer.eos_token!r} (the first one ends with "
            f"{last!r}), so the model would not learn to stop there. Give training.trainer_kwargs.eos_token or "
            "another model.chat_template."
        )
    written = set(_SPECIAL.findall(tokenizer.decode(torch.cat([row[next(iter(row))] for row in rows]))))
    split = sorted(token for token in written if len(tokenizer(token, add_special_tokens=False)["input_ids"]) > 1)
    if split:
        text.notes.append(
            f"The chat template writes {', '.join(split)}, which the tokenizer knows only as several tokens. Use the "
            "template that belongs to the tokenizer, or add the tokens to it."
        )
