"""The text of a run: its tokenizer, its rows as tokens, and what the user should know of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from trainwright.config.reading.read import checked_options
from trainwright.config.reading.read import text_column_of as text_column_of
from trainwright.config.schema import DatasetSplitParams, TrainingConfig
from trainwright.data import mixture
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.sources.formats import Format, canonical, is_chat
from trainwright.data.text import chat
from trainwright.data.text.prepare import features, prepare
from trainwright.data.text.text_stream import BlockStream
from trainwright.data.text.tokenize import TextRules
from trainwright.errors import ConfigError, DataError
from trainwright.models.load import known_token, load_tokenizer
from trainwright.tasks.language.method import LanguageMethod, Part, Text, able_of, chosen
from trainwright.tasks.language.room import within_positions
from trainwright.tasks.language.unwritten import unwritten

_SPECIAL = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
_SLICE = re.compile(r"\[[^\]]*\]")  # of a split, such as `train[:100]`
_LOOKED_AT = 8
_SEARCHED = 1000  # rows, for some that are not cut off


def tokenizer_of(config: TrainingConfig, options: Any) -> Any:
    """Return the tokenizer, with the chat template and the tokens that the file asks for.

    Raises:
        ConfigError: a token that it does not have, a template that is not there.
    """
    tokenizer = load_tokenizer(config.model)
    template = config.model.chat_template or getattr(options, "chat_template_path", None)
    if template is not None:
        tokenizer.chat_template = chat.auto(tokenizer) if template == chat.AUTO else chat.template_text(template)
    for name in ("eos_token", "pad_token"):
        token = getattr(options, name, None)
        if token is not None:
            setattr(tokenizer, name, known_token(tokenizer, token, f"training.trainer_kwargs.{name}"))
    return tokenizer


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


def notes_of_templates(rules: TextRules, table: Any) -> list[str]:
    """Return what to say of what the first rows hold and their chat template does not write."""
    if rules.format not in (Format.MESSAGES, Format.COMPLETION, Format.PREFERENCE):
        return []
    lost: dict[str, None] = {}
    for number, given in enumerate(islice(iter(table), _LOOKED_AT)):
        with suppress(ConfigError, DataError):  # told where the row is tokenised
            lost |= dict.fromkeys(_lost_of(rules, canonical(given, number)))
    if not lost:
        return []
    return [f"The chat template leaves out {', '.join(lost)}. Give model.chat_template one that writes that too."]


def _lost_of(rules: TextRules, row: dict[str, Any]) -> list[str]:
    """Return what a row holds and its chat template does not write, in words."""
    before = row["prompt"] if is_chat(row.get("prompt")) else []
    chats = [row[name] for name in ("messages", "completion", "chosen", "rejected") if is_chat(row.get(name))]
    settings = rules.settings_of(row)
    return [one for chat in chats for one in unwritten(rules.tokenizer, [*before, *chat], **settings)]


def columns_of(table: Any) -> list[str]:
    """Return the names of the columns of a dataset or stream."""
    return list(table.column_names or next(iter(table)))


def formats_of(parts: Sequence[Any], reader: LanguageMethod, text_column: str) -> list[Format]:
    """Return what every dataset of a split holds, to a method.

    Raises:
        DataError: nothing that can be learned from.
    """
    return [reader.format_of(columns_of(table), text_column) for table in parts]


def method_of(config: TrainingConfig, parts: Sequence[Any]) -> tuple[LanguageMethod, list[Format]]:
    """Return the method that a file is for, and what each of its datasets holds.

    Raises:
        ConfigError: the data do not fit the method that the file names.
        DataError: a dataset holds nothing that can be learned from, or not what another one is for.
    """
    able = able_of(config.training.trainer_type)
    formats = formats_of(parts, able[0], text_column_of(config))
    if len(set(formats)) > 1 and not any(set(formats) <= set(one.accepts) for one in able):
        names = mixture.names_of(config.data.train)
        held = "; ".join(f"'{name}' holds {one.value}" for name, one in zip(names, formats, strict=True))
        raise DataError(f"{' and '.join(one.name for one in able)} cannot learn from all of the data at once: {held}.")
    return chosen(config.training.trainer_type, of_all(formats)), formats


def of_all(formats: Sequence[Format]) -> Format:
    """Return what data of several formats hold: text where they hold nothing else."""
    return next((one for one in formats if one is not Format.TEXT), Format.TEXT)


def method_by_data(config: TrainingConfig) -> LanguageMethod:
    """Return the method that a file is for, found out by the first rows alone."""
    whole = [replace(one, split=_SLICE.sub("", one.split)) for one in config.data.train.datasets]  # streams have none
    parts = mixture.read_parts(
        replace(config.data.train, datasets=whole, stream=True), config.training.seed, text_column_of(config)
    )
    return method_of(config, parts)[0]


def load_text(config: TrainingConfig) -> Text:
    """Return tokenizer and data of a run.

    Raises:
        ConfigError, DataError: something cannot be read, or does not fit.
    """
    try:
        return _loaded(config)
    except UnicodeDecodeError as error:  # of Arrow, which reads files of any alphabet and only then their texts
        raise DataError(f"A text of the data is no UTF-8 ({error.reason}). Save its file as UTF-8.") from error


def _loaded(config: TrainingConfig) -> Text:
    seed, column = config.training.seed, text_column_of(config)
    parts = mixture.read_parts(config.data.train, seed, column)
    method, formats = method_of(config, parts)
    found = of_all(formats)
    options, cut = within_positions(config, checked_options(config, method))
    method.check_data(config, options, formats)
    parts = [method.arranged(table, options) for table in parts]
    formats = formats_of(parts, method, column)
    found = of_all(formats)
    tokenizer = tokenizer_of(config, options)
    rules = method.rules(config, options, tokenizer, found)
    decided = config.training.trainer_type == method.name
    notes = [*cut] if decided else [f"The data holds {found.value}, so this is {method.name}.", *cut]
    if hasattr(options, "dataset_text_field") and column != "text" and Format.TEXT not in formats:
        notes.append(f"'{column}' is not read as a column of texts: the data holds {found.value}.")
    by_own = [rules.of_table(table, one) for table, one in zip(parts, formats, strict=True)]
    for table, own in zip(parts, by_own, strict=True):
        said = [*notes_of_marks(own, table), *notes_of_templates(own, table)]
        notes += [note for note in said if note not in notes]
    text = Text(method, options, tokenizer, rules, notes=notes)
    text.train = rows_of(config, config.data.train, parts, by_own, text=text)
    if config.data.validation.datasets:
        held_out = mixture.read_parts(config.data.validation, seed, column)
        held_out = [method.arranged(table, options) for table in held_out]
        found_out = formats_of(held_out, method, column)
        by_own = [rules.of_table(table, one) for table, one in zip(held_out, found_out, strict=True)]
        if any(own.format not in method.accepts for own in by_own):
            raise DataError(f"The validation data holds {by_own[0].format.value}, but the training data {found.value}.")
        text.evaluation = rows_of(config, config.data.validation, held_out, by_own, text=text)
    warn_of_ends(text)
    return text


def rows_of(
    config: TrainingConfig, split: DatasetSplitParams, parts: list[Any], rules: list[TextRules], *, text: Text
) -> Any:
    """Return a split as rows of tokens, packed where that is asked for.

    Args:
        parts: its datasets.
        rules: how each is tokenised.
        text: what is known of the run's data, whose notes are added to.

    Raises:
        DataError: there is nothing to learn from.
    """
    training, options, notes = split is config.data.train, text.options, text.notes
    what = "training data" if training else "validation data"
    packing = text.method.packing(options, training)
    longest = options.max_length if packing is None else None  # packing cuts, or splits, by itself
    rules = [replace(own, max_length=longest) for own in rules]
    seed = config.training.seed
    if split.stream:
        shuffles = training and any(one.shuffle for one in split.datasets)
        buffer = max(one.shuffle_buffer_size for one in split.datasets) if shuffles else 0
        if len(parts) > 1 and rules[0].COLUMNS != TextRules.COLUMNS:
            raise ConfigError(f"{text.method.name} reads no several datasets as one stream; write stream: false.")
        table, own = mixture.mix(as_tokens(parts, rules), split, seed), rules[0]
        own = own if len(parts) == 1 else replace(own, format=Format.TOKENS)
        given = [one.seed for one in split.datasets if one.shuffle and one.seed is not None]
        seed = given[0] if shuffles and given else seed
        return BlockStream(table, own, packing, buffer=buffer, seed=seed, files=mixture.local_files(split))
    names = [f"{number}: {name}" for number, name in enumerate(mixture.names_of(split), 1)]
    tables = dict(zip(names, zip(parts, rules, strict=True), strict=True))
    mix = partial(mixture.mix, split=split, seed=seed)
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


def whole_parts(text: Text) -> list[Part]:
    """Return the first documents of the training data that are not cut off, whose last token is that of their text."""
    is_packed = isinstance(text.train, PackedRows)  # and cut only then
    documents, limit = (text.train.rows, None) if is_packed else (text.train, text.options.max_length)
    some = (text.method.parts(documents[number]) for number in range(min(_SEARCHED, len(documents))))
    first = (next((part for part in parts if part.learned.any()), parts[0]) for parts in some)
    return list(islice((part for part in first if limit is None or len(part.ids) < limit), _LOOKED_AT))


def warn_of_ends(text: Text) -> None:
    """Note a model that would never learn to stop, and special tokens that the tokenizer does not have as one token."""
    if isinstance(text.train, BlockStream) or text.rules.format in (Format.TOKENS, Format.TEXT, Format.PROMPT):
        return
    tokenizer, end = text.tokenizer, text.tokenizer.eos_token_id
    parts = whole_parts(text)
    if not parts:
        return
    answers = [part.ids[part.learned] for part in parts]
    if end is not None and not any(bool((answer == end).any()) for answer in answers):
        last = tokenizer.decode(answers[0][-3:])
        text.notes.append(
            f"No answer that is learned holds the end token {tokenizer.eos_token!r} (the first one ends with "
            f"{last!r}), so the model would not learn to stop there. Give training.trainer_kwargs.eos_token or "
            "another model.chat_template."
        )
    written = set(_SPECIAL.findall(tokenizer.decode(torch.cat([part.ids for part in parts]))))
    split = sorted(token for token in written if len(tokenizer(token, add_special_tokens=False)["input_ids"]) > 1)
    if split:
        text.notes.append(
            f"The chat template writes {', '.join(split)}, which the tokenizer knows only as several tokens. Use the "
            "template that belongs to the tokenizer, or add the tokens to it."
        )
