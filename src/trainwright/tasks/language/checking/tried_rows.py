"""The first rows of data that lie here, read and tokenised as a run does it: what `check` accepts can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from trainwright.config.methods import Fault
from trainwright.config.reading.read import checked_options, text_column_of
from trainwright.config.schema import DatasetParams, DatasetSplitParams, TrainingConfig
from trainwright.data import mixture
from trainwright.data.sources import files, registered
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language.method import Text, able_of

ROWS = 16


def lie_here(config: TrainingConfig) -> bool:
    """Whether the tokenizer and all of the training data are here, and our own trainers read them."""
    folder = Path(config.model.tokenizer_name or config.model.model_name or "").expanduser()
    is_ours = not any(one.library for one in able_of(config.training.trainer_type))
    return is_ours and (folder / "tokenizer_config.json").is_file() and all(map(_is_here, config.data.train.datasets))


def _is_here(one: DatasetParams) -> bool:
    entry = registered.find(one.dataset_name, one.dataset_path)
    is_made = entry is not None and entry.make is not None
    return is_made or Path(one.dataset_path or one.dataset_name or "").expanduser().exists()


def faults(config: TrainingConfig) -> Iterator[Fault]:
    """Yield what is wrong with the first rows, with where the dataset is named."""
    parts: list[Any] = []
    for number, one in enumerate(config.data.train.datasets):
        try:
            parts.append(_head(config, config.data.train, one))
        except (ConfigError, DataError) as error:
            yield _path("train", number, one), str(error).rstrip("."), ""
    if len(parts) < len(config.data.train.datasets):
        return
    try:
        text = _text(config, parts)
    except (ConfigError, DataError) as error:
        yield _path("train", 0, config.data.train.datasets[0]), str(error).rstrip("."), ""
        return
    held_out = [one for one in config.data.validation.datasets if _is_here(one)]
    for split, some in (("train", config.data.train.datasets), ("validation", held_out)):
        for number, one in enumerate(some):
            try:
                table = parts[number] if split == "train" else _head(config, config.data.validation, one)
                masked = _tokenised(config, text, table)
            except (ConfigError, DataError) as error:
                yield _path(split, number, one), str(error).rstrip("."), ""
                continue
            if masked:
                which = "the row" if len(table) == 1 else f"the first {len(table)} rows"
                yield (
                    _path(split, number, one),
                    f"{which} would have nothing to learn",
                    "look with: trainwright data show",
                )


def _path(split: str, number: int, one: DatasetParams) -> str:
    return f"data.{split}.datasets.{number}.{'dataset_name' if one.dataset_path is None else 'dataset_path'}"


def _head(config: TrainingConfig, split: DatasetSplitParams, one: DatasetParams) -> Any:
    """Return the first rows of a dataset as a table; of a slice, which no stream has, all of it is read.

    Raises:
        DataError: it cannot be read, or has no row.
    """
    alone = replace(split, datasets=[one], stream="[" not in one.split)
    (table,) = mixture.read_parts(alone, config.training.seed, text_column_of(config))
    what = one.dataset_path or one.dataset_name
    try:
        rows = list(islice(iter(table), ROWS))
        if not rows:
            raise DataError(f"'{what}' has no rows.")
        return files.library().Dataset.from_list(rows, features=table.features)
    except DataError:
        raise
    except Exception as error:  # of the library's reader, or of a table of what it has read
        raise DataError(f"The first rows of '{what}' cannot be read: {files.reason(error)}") from error


def _text(config: TrainingConfig, parts: list[Any]) -> Text:
    """Return the method, and how rows are tokenised, without data.

    Raises:
        ConfigError, DataError: the data do not fit the method, the settings or the model.
    """
    from trainwright.tasks.language import text as texts
    from trainwright.tasks.language.room import within_positions

    method, formats = texts.method_of(config, parts)
    options, _ = within_positions(config, checked_options(config, method))
    method.check_data(config, options, formats)
    tokenizer = texts.tokenizer_of(config, options)
    rules = method.rules(config, options, tokenizer, texts.of_all(formats))
    text = Text(method, options, tokenizer, rules)
    _check_model(config, text)
    return text


def _check_model(config: TrainingConfig, text: Text) -> None:
    """Raise a ConfigError where the method trains no models of this kind."""
    import transformers

    from trainwright.models.saved_config import saved_config

    saved = saved_config(config.model)
    loader = getattr(transformers, text.method.model_class(text))
    known = getattr(loader, "_model_mapping", None)
    if saved is None or known is None or type(saved) in known or hasattr(saved, "auto_map"):
        return
    others = [
        one.name for one in able_of(None) if one.learns_from == text.method.learns_from and one is not text.method
    ]
    raise ConfigError(
        f"{text.method.name} trains models of {loader.__name__}, and '{config.model.model_name}' is a "
        f"{saved.model_type}, which is none{f'; {others[0]} may' if others else ''}"
    )


def _tokenised(config: TrainingConfig, text: Text, table: Any) -> bool:
    """Tokenise a dataset's first rows; return whether there is nothing to learn in any of them.

    Raises:
        ConfigError, DataError: they cannot be tokenised.
    """
    from trainwright.batch import IGNORED

    method = text.method
    made = method.arranged(table, checked_options(config, method))
    own = text.rules.of_table(made, method.format_of(made.column_names, text_column_of(config)))
    rows = own.rows([made[number] for number in range(len(made))], list(range(len(made))))
    method.try_rows(config, text, made, rows)

    def learns(row: dict[str, Any]) -> bool:
        kept = (row[name][1:] if name == "labels" else row[name] for name in own.LEARNED)
        return all(any(one != IGNORED for one in column) for column in kept)

    return not any(map(learns, rows))
