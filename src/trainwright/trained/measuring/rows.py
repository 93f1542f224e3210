"""The rows that a model is measured on, as they lie in files and as the model's run would tokenise them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trainwright.config.reading.read import load, options_of, text_column_of
from trainwright.config.schema import DatasetParams, DatasetSplitParams, ModelParams, TrainingConfig
from trainwright.data import mixture
from trainwright.data.sources.formats import Format
from trainwright.data.token_rows import ROW_COLUMNS
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language.method import LanguageMethod, able_of, chosen
from trainwright.tasks.language.text import columns_of
from trainwright.trained.folders import Trained

_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Data:
    """Rows to measure on.

    Attributes:
        name: what they are called.
        split: where they come from.
        rows: as mappings of the columns that are learned from.
        columns: of all rows.
    """

    name: str
    split: DatasetSplitParams
    rows: list[dict[str, Any]]
    columns: list[str]


def config_of(trained: Trained) -> TrainingConfig:
    """Return what a model's run was begun with; of a model without a run the defaults."""
    return trained.config or TrainingConfig(model=ModelParams(model_name=str(trained.folder)))


def read(trained: Trained, given: str | None = None, split: str = "train", limit: int | None = None) -> Data:
    """Return the rows of a file, a folder or a name on the hub; of a run's YAML file its test data, else those of its
    validation.

    Args:
        trained: whose run's own test or validation data are read where nothing is given.
        given: what to read.
        split: which part of it.
        limit: at most so many rows.

    Raises:
        ConfigError: nothing is given, and the run has no such data.
        DataError: they cannot be read, or there is no row.
    """
    config = config_of(trained)
    if given is not None and not given.endswith(_YAML):
        chosen_split = DatasetSplitParams(datasets=[DatasetParams(dataset_name=given, split=split)])
    else:
        chosen_split = held_out(load(Path(given)).config if given is not None else config, given or str(trained.run))
    column = text_column_of(config)
    parts = mixture.read_parts(chosen_split, config.training.seed, column)
    rows = list(islice((dict(row) for part in parts for row in part), limit))
    name = ", ".join(Path(one).name or one for one in mixture.names_of(chosen_split))
    if not rows:
        raise DataError(f"'{name}' has no row to measure on.")
    return Data(name, chosen_split, rows, list(dict.fromkeys(name for part in parts for name in columns_of(part))))


def held_out(config: TrainingConfig, where: str) -> DatasetSplitParams:
    """Return the data of a file that were kept for measuring: those for a test, else those for validation.

    Raises:
        ConfigError: there are none.
    """
    for split in (config.data.test, config.data.validation):
        if split.datasets:
            return split
    raise ConfigError(
        f"'{where}' keeps no data for measuring (data.test or data.validation). Give some: --data FILE, whose rows "
        "have the columns of the training data."
    )


def tokenised(trained: Trained, tokenizer: Any, data: Data) -> list[dict[str, list[int]]]:
    """Return every row as `input_ids` and `labels`, cut and learned as in the model's run.

    Raises:
        DataError: a row cannot be tokenised, or has columns that no loss of a language model is measured on.
    """
    config = config_of(trained)
    method, found = _method_for(config, data)
    options = method.options(**options_of(config, method.options))
    rules = method.rules(config, options, tokenizer, found)
    if rules.COLUMNS != ROW_COLUMNS:
        raise DataError(
            f"'{data.name}' holds {found.value}, of which {method.name} learns no tokens; a loss is measured on texts, "
            "prompts with completions, and conversations."
        )
    return rules.rows(data.rows, range(len(data.rows)))


def _method_for(config: TrainingConfig, data: Data) -> tuple[LanguageMethod, Format]:
    """Return the method of a model's run where it learns from such rows, else the one that they are for."""
    own, column = able_of(config.training.trainer_type), text_column_of(config)
    one = own[0] if own else able_of(None)[0]
    found = one.format_of(data.columns, column)
    fits = found in one.accepts and not one.library and config.training.trainer_type is not None
    return (one if fits else chosen(None, found)), found
