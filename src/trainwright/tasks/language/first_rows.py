"""The first rows of data that lie here, looked at without torch before a model is loaded: are there any, can they be
read, and is there something in them for the method to learn? Where nothing is found they are tokenised
(`tried_rows.py`)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trainwright.config.keys.uses import OWN_MODELS
from trainwright.config.methods import Fault
from trainwright.config.reading.read import Loaded, options_of, text_column_of
from trainwright.config.reading.tree import Diagnostics, place_of
from trainwright.config.schema import DatasetParams, TrainingConfig, TrainTarget
from trainwright.data import mixture
from trainwright.data.sources import files, registered
from trainwright.data.sources.formats import Format, canonical, is_chat
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language import tried_rows
from trainwright.tasks.language.method import LanguageMethod, able_of, chosen

ROWS = 16
_WHOLE = 1 << 23  # bytes of a list of JSON that is read as a whole
_TEMPLATES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")

Row = dict[str, Any]


def look(loaded: Loaded) -> None:
    """Look at the first rows of every dataset of a file that lies here.

    Raises:
        ConfigError: what is wrong with them, all of it, with the lines that name them.
    """
    problems = Diagnostics()
    if loaded.config.model.model_name not in OWN_MODELS:
        for path, message, hint in faults(loaded.config):
            problems.add(place_of(loaded.tree, path), message, hint, len(path.split(".")[-1]))
    problems.settle()
    if loaded.config.model.model_name not in OWN_MODELS and tried_rows.lie_here(loaded.config):
        for path, message, hint in tried_rows.faults(loaded.config):
            problems.add(place_of(loaded.tree, path), message, hint, len(path.split(".")[-1]))
        problems.settle()


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
    where = Path(one.dataset_path or one.dataset_name or "").expanduser()
    own_reader = registered.find(one.dataset_name, one.dataset_path) is None and one.dataset_kwargs
    if not where.exists() or own_reader or one.dataset_name == "python_source":
        return []
    file = where if where.is_file() else next(iter(files.rows_files(where)), None)
    if file is None or file.suffix.lower() not in _READERS:
        return []
    if not file.stat().st_size:
        raise DataError(f"'{file}' is empty: it has no row.")
    try:
        rows = _READERS[file.suffix.lower()](file)
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' cannot be read: it is no UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except (json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"'{file}' cannot be read: {error}.") from None
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    names, shape, settings = mixture.reshaping(one, columns, text_column)
    rows = [{names.get(name, name): value for name, value in row.items()} for row in rows]
    if shape is None:
        return rows
    given = {"shape": shape, "settings": settings, "subset": one.subset, "name": str(where)}
    return [mixture.shaped_row(row, number, **given) for number, row in enumerate(rows)]


def _json(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        found = json.loads(file.read_text(encoding="utf-8-sig")) if file.stat().st_size < _WHOLE else []
        return [row for row in found[:ROWS] if isinstance(row, dict)]
    return _lines(file) if file.suffix.lower() == ".jsonl" or first.rstrip().endswith("}") else []


def _lines(file: Path) -> list[Row]:
    rows: list[Row] = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip() and len(rows) < ROWS:
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(f"'{file}' cannot be read: line {number} is not JSON: {error}.") from None
            if len(rows) == ROWS:
                break
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"'{file}' cannot be read: a line is no row, which is {{...}}.")
    return rows


def _csv(file: Path) -> list[Row]:
    csv.field_size_limit(_WHOLE)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(islice(csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ","), ROWS))
    for number, row in enumerate(rows, 1):
        if None in row:
            raise DataError(f"'{file}' cannot be read: row {number} has more cells than there are columns.")
    return rows


def _text(file: Path) -> list[Row]:
    with file.open(encoding="utf-8-sig") as lines:
        return [{"text": line.rstrip("\n")} for line in islice(lines, ROWS)]


def _parquet(file: Path) -> list[Row]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        batches = ParquetFile(file).iter_batches(batch_size=ROWS)
        return next((batch.to_pylist() for batch in batches), [])
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"'{file}' cannot be read: {error}") from None


_READERS = {
    ".json": _json, ".jsonl": _json, ".csv": _csv, ".tsv": _csv, ".txt": _text, ".parquet": _parquet,
}  # fmt: skip


def _faults_of(config: TrainingConfig, able: Sequence[LanguageMethod], rows: list[Row], path: str) -> Iterator[Fault]:
    if not able:
        return
    found = able[0].format_of(list(dict.fromkeys(name for row in rows for name in row)), text_column_of(config))
    method = chosen(config.training.trainer_type, found)
    if not able[0].library:  # which reads rows in its own way
        rows = [canonical(row, number) for number, row in enumerate(rows)]
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
