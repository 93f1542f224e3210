"""All rows of a file that is not too long, looked at by their columns alone, without torch and without a tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from trainwright.config.methods import Fault
from trainwright.config.reading.read import text_column_of
from trainwright.config.schema import DatasetParams, TrainingConfig
from trainwright.data.sources import files
from trainwright.data.sources.formats import canonical, learned_in
from trainwright.errors import ConfigError, DataError
from trainwright.tasks.language.checking.raw_rows import file_of, learned_from, rows_in
from trainwright.tasks.language.method import able_of, chosen

MOST = 50_000
_SHORT = 8  # names that are listed


def faults(config: TrainingConfig, notes: list[str]) -> Iterator[Fault]:
    """Yield the first row of each dataset that training would stop at, by where it is named.

    Args:
        notes: takes what to say of empty texts, and of columns that are not read.
    """
    able = able_of(config.training.trainer_type)
    if any(one.library for one in able):  # which reads rows in its own way
        return
    for name in ("train", "validation"):
        for number, one in enumerate(getattr(config.data, name).datasets):
            path = f"data.{name}.datasets.{number}.{'dataset_name' if one.dataset_path is None else 'dataset_path'}"
            try:
                notes += _looked_at(config, one, path.rpartition(".")[0])
            except (ConfigError, DataError) as error:
                yield path, str(error).rstrip("."), ""


def _looked_at(config: TrainingConfig, one: DatasetParams, where: str) -> list[str]:
    """Return what to say of a dataset's rows.

    Raises:
        DataError: training would stop at one of them.
    """
    file, column = file_of(one), text_column_of(config)
    if file is None or "[" in one.split or not _is_all(one):
        return []
    wanted = MOST if one.sample_count is None or one.shuffle else min(MOST, one.sample_count)
    table = learned_from(rows_in(file), one, column)
    found = able_of(config.training.trainer_type)[0].format_of(table.columns, column)
    method = chosen(config.training.trainer_type, found)
    empty: Counter[str] = Counter()
    for number, given in enumerate(islice(table.rows, wanted)):
        row = {**dict.fromkeys(table.columns), **given}
        method.check_row(row, number, found, column)
        canonical(row, number)
        empty.update(name for name in learned_in(found, column) if row.get(name) == "")
    said = [f"{where}: {count:,} of {number + 1:,} rows have nothing in '{name}'." for name, count in empty.items()]
    read = method.read_in(found, column)
    taken = {name.partition(".")[0] for name in one.column_map}
    left = [name for name in table.columns if read is not None and name not in (*read, *taken)]
    left = [] if table.is_shaped else left
    return [*said, *([f"{where}: nothing reads the column{'s' * (len(left) > 1)} {_listed(left)}."] if left else [])]


def _is_all(one: DatasetParams) -> bool:
    """Whether one file is all of a dataset."""
    where = Path(one.dataset_path or one.dataset_name or "").expanduser()
    if where.is_file():
        return True
    return len([one for one in files.rows_files(where) if one.name != "state.json"]) == 1  # which save_to_disk writes


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHORT]) + (f" and {len(names) - _SHORT} more" if len(names) > _SHORT else "")
