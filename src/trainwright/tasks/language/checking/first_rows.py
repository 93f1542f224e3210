"""The first rows of data that lie here, looked at without torch before a model is loaded: are there any, can they be
read, and is there something in them for the method to learn? Where nothing is found they are tokenised
(`tried_rows.py`), and of a file that is not too long all rows are looked at (`every_row.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from trainwright.config.keys.uses import OWN_MODELS
from trainwright.config.methods import Fault
from trainwright.config.reading.read import Loaded, options_of, text_column_of
from trainwright.config.reading.tree import Diagnostics, place_of
from trainwright.config.schema import DatasetParams, TrainingConfig, TrainTarget
from trainwright.data.sources.formats import Format, canonical, check_wanted, is_chat
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language.checking import every_row, tried_rows
from trainwright.tasks.language.checking.raw_rows import Row, file_of, learned_from, rows_in
from trainwright.tasks.language.method import LanguageMethod, able_of, chosen

ROWS = 16
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")


def look(loaded: Loaded) -> list[str]:
    """Look at the rows of every dataset of a file that lies here; return what to say of them, where nothing is wrong.

    Raises:
        ConfigError: what is wrong with them, all of it, with the lines that name them.
    """
    problems = Diagnostics()
    notes: list[str] = []
    if loaded.config.model.model_name in OWN_MODELS:
        return []
    looks: list[Callable[[TrainingConfig], Iterator[Fault]]] = [faults, partial(every_row.faults, notes=notes)]
    if tried_rows.lie_here(loaded.config):
        looks.append(tried_rows.faults)
    for one in looks:
        for path, message, hint in one(loaded.config):
            problems.add(place_of(loaded.tree, path), message, hint, len(path.split(".")[-1]))
        problems.settle()
    return notes


def faults(config: TrainingConfig) -> Iterator[Fault]:
    """Yield what is wrong with the first rows."""
    able = able_of(config.training.trainer_type)
    for name in ("train", "validation"):
        for number, one in enumerate(getattr(config.data, name).datasets):
            given = "dataset_name" if one.dataset_path is None else "dataset_path"
            path = f"data.{name}.datasets.{number}.{given}"
            try:
                rows = first_rows(one, text_column_of(config))
                if rows:
                    yield from _faults_of(config, able, rows, path)
            except (ConfigError, DataError) as error:
                yield path, str(error).rstrip("."), ""


def first_rows(one: DatasetParams, text_column: str) -> list[Row]:
    """Return the first rows of a dataset in the columns that are learned from; none where they do not lie here, or are
    read in a way of their own.

    Raises:
        DataError: there is no row, or one that cannot be read.
    """
    file = file_of(one)
    return [] if file is None else list(islice(learned_from(rows_in(file), one, text_column).rows, ROWS))


def _faults_of(config: TrainingConfig, able: Sequence[LanguageMethod], rows: list[Row], path: str) -> Iterator[Fault]:
    if not able:
        return
    found = able[0].format_of(list(dict.fromkeys(name for row in rows for name in row)), text_column_of(config))
    method = chosen(config.training.trainer_type, found)
    if not able[0].library:  # which reads rows in its own way
        rows = [canonical(row, number) for number, row in enumerate(rows)]
    if found in (Format.COMPLETION, Format.MESSAGES) and method.learns_all:
        for number, row in enumerate(rows):
            check_wanted(row, number)
    chats = found is Format.MESSAGES or any(is_chat(value) for row in rows for value in row.values())
    if chats and found is not Format.TOKENS and _has_no_template(config):
        yield path, "these are conversations, and the tokenizer has no chat template", "give model.chat_template"
    masked = _masked(config, options_of(config, method.options), rows, found)
    if masked:
        which = "the row" if len(rows) == 1 else f"the first {len(rows)} rows"
        yield path, f"{which} would have nothing to learn: {masked}", "look with: trainwright data show"


def _has_no_template(config: TrainingConfig) -> bool:
    """Whether the tokenizer lies here, and neither it nor the file has a chat template."""
    folder = Path(config.model.tokenizer_name or config.model.model_name or "").expanduser()
    given = config.model.chat_template or config.training.trainer_kwargs.get("chat_template_path")
    settings = folder / "tokenizer_config.json"
    if given or not settings.is_file() or any((folder / name).exists() for name in _TEMPLATES):
        return False
    held = {**json.loads(settings.read_text(encoding="utf-8")), **config.model.tokenizer_kwargs}
    return not held.get("chat_template")


def _masked(config: TrainingConfig, options: dict[str, Any], rows: list[Row], found: Format) -> str:
    """Return why no token of some rows would be learned; empty where one may be."""
    turns = options.get("assistant_only_loss") or config.data.train.train_target is TrainTarget.FINAL_ASSISTANT_TURN
    if found is Format.TOKENS:
        unlearned = {"labels": -100, "completion_mask": 0, "assistant_masks": 0}
        for name, value in unlearned.items():
            if all(name in row and set(row[name]) <= {value} for row in rows):
                return f"every number in '{name}' is {value}"
    if found is Format.MESSAGES and turns:
        roles = {one.get("role", one.get("from")) for row in rows for one in row.get("messages", ())}
        if roles and not roles & {"assistant", "gpt", "model"}:
            shown = ", ".join(sorted(map(str, roles)))
            return f"the assistant's turns are learned, and there are turns of {shown} alone"
    length = options.get("max_length", 1024)
    prompts = [row["prompt"] for row in rows if isinstance(row.get("prompt"), str)]
    wants_prompts = options.get("completion_only_loss") is False or not length
    if len(prompts) < len(rows) or wants_prompts or any(len(one.encode()) < length for one in prompts):
        return ""
    file = Path(config.model.tokenizer_name or config.model.model_name or "").expanduser() / "tokenizer.json"
    if found is not Format.COMPLETION or not file.is_file():
        return ""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    if any(len(tokenizer.encode(one).ids) < length for one in prompts):
        return ""
    return f"their prompts alone fill max_length {length}"
