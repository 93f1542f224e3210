"""Files of rows: which of a path are read, which split they are, and what `datasets` makes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from trainwright import bars
from trainwright.data.sources import splits
from trainwright.data.sources.as_text import text_columns, without_dates
from trainwright.errors import DataError, missing_package

KINDS = {
    ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow",
    ".txt": "text",
}  # fmt: skip
_PIECE, _PIECES = 1 << 20, 64  # of a large file, for its digest
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
_SAVED = ("dataset_info.json", "dataset_dict.json")
_NOT_ROWS = (*_SAVED, "dataset_infos.json", "config.json")
_OF_CARDS = ("config_name", "data_files", "data_dir", "default", "description", "version")


@dataclass(frozen=True)
class Found:
    """What a path holds.

    Attributes:
        names: of its splits.
        load: gives the `datasets.Dataset` of one, or its stream.
        whole: whether it is one file or table, which whoever names it means, whatever it is called.
    """

    names: list[str]
    load: Callable[[str], Any]
    whole: bool = False


@dataclass(frozen=True)
class Reader:
    """How files are read.

    Attributes:
        stream: as a stream.
        to_the_letter: columns of CSV files are text, and no text of JSON is a date; else types are what they look like.
        settings: of the reader of `datasets`.
    """

    stream: bool = False
    to_the_letter: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self, kind: str, files: Sequence[str]) -> Any:
        """Return the rows of some files of one kind.

        Raises:
            DataError: they hold none, or one of them, which is named, cannot be read.
        """
        if not any(Path(file).stat().st_size for file in files):
            raise DataError(f"'{files[0]}' is empty: it has no row.")
        try:
            return self._read(kind, files)
        except Exception as error:
            columns: dict[str, list[str]] = {}
            for file in files if len(files) > 1 else ():
                try:
                    columns[file] = sorted(replace(self, stream=False)._read(kind, [file]).column_names)
                except Exception as cause:
                    raise DataError(f"'{file}' cannot be read: {reason(cause)}") from error
            for file, names in columns.items():
                others = columns[files[0]]
                if names != others:
                    raise DataError(
                        f"'{file}' has the columns {', '.join(names)}, and '{files[0]}' {', '.join(others)}. Name "
                        "files with other columns as datasets of their own."
                    ) from error
            raise DataError(
                f"'{files[0]}'{' and others' * (len(files) > 1)} cannot be read: {reason(error)}"
            ) from error

    def _read(self, kind: str, files: Sequence[str]) -> Any:
        builder = "csv" if kind == "tsv" else kind
        given: dict[str, Any] = {**({"sep": "\t"} if kind == "tsv" else {}), **self.settings}
        if builder == "csv" and self.to_the_letter:
            given = {**text_columns(files, given), **given}
        if "delimiter" in given:
            given.pop("sep", None)
        # the cache of `datasets` goes by paths and times: the name of a configuration is a part of its key
        name = None if self.stream else f"content-{digest(files)}"
        load = partial(library().load_dataset, builder, name, data_files=list(files), split="train")
        load = partial(load, streaming=self.stream)
        load = partial(read_or_anew, load, partial(load, download_mode="force_redownload"))
        rows = load(**given)
        dated = None
        if builder == "json" and self.to_the_letter and "features" not in given:
            dated = without_dates(rows.features)
        return rows if dated is None else load(**given, features=dated)


def read_or_anew(read: Callable[..., Any], anew: Callable[..., Any], **given: Any) -> Any:
    """Return what `datasets` keeps, or what it makes anew where half of that is left, as of a disk that was full."""
    import pyarrow

    try:
        return read(**given)
    except (pyarrow.ArrowInvalid, OSError):
        return anew(**given)


def digest(files: Sequence[str]) -> str:
    """Return a digest of what files hold; of large ones, of their sizes and of pieces."""
    found = hashlib.blake2b(digest_size=12)
    for name in files:
        size = Path(name).stat().st_size
        found.update(str(size).encode())
        with Path(name).open("rb") as file:
            for start in range(0, size, max(_PIECE, size // _PIECES // _PIECE * _PIECE)):
                file.seek(start)
                found.update(file.read(_PIECE))
    return found.hexdigest()


def library() -> Any:
    """Return the module `datasets`, with its progress bars where bars are shown.

    Raises:
        DataError: it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise missing_package("datasets", "llm", "Reading data from a file") from None
    (datasets.enable_progress_bars if bars.shown() else datasets.disable_progress_bars)()
    return datasets


def find(where: Path, reader: Reader, kind: str | None = None, subset: str | None = None) -> Found:
    """Return the splits of a file, a folder, or a dataset saved by `datasets`.

    A folder's README.md with `configs`, as on the hub, says which files are which; else they go by their names.

    Args:
        where: there it is.
        reader: how it is read.
        kind: of files that are read; None for the one kind that a folder holds.
        subset: a configuration of the README.md, or a folder below.

    Raises:
        DataError: it cannot be read, or not as one.
    """
    described = _described(where, reader, subset)
    if described is not None:
        return described
    if subset not in (None, "default"):
        if not (where / subset).is_dir():
            raise DataError(f"subset '{subset}' is no folder in '{where}'; leave it out, or name one that is there.")
        where /= subset
    _check_not_listed(where)
    if any((where / name).exists() for name in _SAVED):
        if reader.settings:
            raise DataError(
                f"dataset_kwargs {', '.join(reader.settings)}: nothing reads them, for '{where}' is a table that "
                "save_to_disk wrote; leave them out."
            )
        return _saved(where, reader.stream)
    kind, files = _of_one_kind(where, kind)
    if where.is_file():
        name = splits.split_of([where.name]) or splits.TRAIN
        return Found([name], lambda _: reader.load(kind, [str(where)]), whole=True)
    found = splits.by_split(where, files)
    return Found(list(found), lambda name: reader.load(kind, found[name]))


def _check_not_listed(where: Path) -> None:
    """Raise a DataError for a folder whose files are listed as LLaMA-Factory does it, with what to write."""
    file = where / "dataset_info.json"
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    listed = {name: entry for name, entry in held.items() if isinstance(entry, dict) and "file_name" in entry}
    if not listed:
        return
    first, entry = next(iter(listed.items()))
    ours = {"prompt": "instruction", "query": "input", "response": "output", "messages": "messages"}
    columns = entry.get("columns") or {}
    named = {theirs: ours.get(name, name) for name, theirs in columns.items()}
    renamed = {one: other for one, other in named.items() if one not in (other, "conversations")}
    also = f", column_map: {{{', '.join(f'{one}: {other}' for one, other in renamed.items())}}}" if renamed else ""
    raise DataError(
        f"'{file}' lists datasets as LLaMA-Factory's do: {', '.join(listed)}. Name a file of theirs itself, such as "
        f"{first}: {{dataset_name: {where / entry['file_name']}{also}}}."
    )


def rows_files(folder: Path) -> list[Path]:
    """Return the files of rows in a folder and below, plain and compressed, as `datasets` does without those of hidden
    folders and of editors."""
    return sorted(
        path
        for path in folder.rglob("*")
        if kind_of(path) and path.name not in _NOT_ROWS and path.is_file()
        and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )  # fmt: skip


def kind_of(path: Path) -> str | None:
    """Return what a file holds, by its name without that of a compression; None for what is not read."""
    name = Path(path.stem) if path.suffix.lower() in _COMPRESSED else path
    return KINDS.get(name.suffix.lower())


def _of_one_kind(where: Path, kind: str | None) -> tuple[str, list[Path]]:
    """Return the kind and the files of a path: of a folder, all files of the one kind that it holds."""
    if where.is_file():
        chosen = kind or kind_of(where)
        if chosen is None:
            raise DataError(f"'{where}' ends with '{where.suffix}'; known are {', '.join(KINDS)}.")
        return chosen, [where]
    found = rows_files(where)
    kinds = dict.fromkeys(kind_of(path) for path in found)
    if kind is not None:
        found, kinds = [path for path in found if kind_of(path) == kind], {kind: None}
    if not found or len(kinds) > 1:
        what = f"files of {', '.join(map(str, kinds))}" if found else "no file of a known kind"
        raise DataError(
            f"The folder '{where}' holds {what}; it must hold files of one kind ({', '.join(KINDS)}). Name the "
            "kind by dataset_name and the folder by dataset_path."
        )
    return str(next(iter(kinds))), found


def _saved(where: Path, stream: bool) -> Found:
    """Return the splits of what `save_to_disk` wrote."""
    saved = library().load_from_disk(str(where))
    tables = dict(saved) if isinstance(saved, dict) else {str(saved.split or splits.TRAIN): saved}
    return Found(
        list(tables),
        lambda name: tables[name].to_iterable_dataset() if stream else tables[name],
        whole=not isinstance(saved, dict),
    )


def _described(where: Path, reader: Reader, subset: str | None) -> Found | None:
    """Return the splits that a folder's README.md names; None where there is none, or it names none."""
    import yaml

    card = where / "README.md"
    head = card.read_text(encoding="utf-8").split("---\n", 2) if card.is_file() else []
    try:
        configs = yaml.safe_load(head[1]).get("configs") if len(head) == 3 and not head[0].strip() else None
    except (yaml.YAMLError, AttributeError):
        return None  # a README.md of people
    if not configs:
        return None
    builder = library().load_dataset_builder(str(where), subset)
    files = {str(name): [str(file) for file in some] for name, some in builder.config.data_files.items()}
    own: dict[str, Any] = next((one for one in configs if one.get("config_name", "default") == builder.config.name), {})
    given = {name: value for name, value in own.items() if name not in _OF_CARDS}
    reader = replace(reader, settings={**given, **reader.settings})
    kinds = {kind_of(Path(file)) for some in files.values() for file in some}
    if len(kinds) > 1 or None in kinds:
        raise DataError(f"'{card}' names files of {', '.join(sorted(map(str, kinds)))}; one kind is expected.")
    kind = str(kinds.pop())
    return Found(list(files), lambda name: reader.load(kind, files[name]))


def reason(error: BaseException) -> str:
    """Return in a line why `datasets` could not read something."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {(str(cause).strip() or 'no reason given').splitlines()[0]}"
