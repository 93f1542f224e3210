"""LeRobot's folders: tables of steps, images in them or in videos beside them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.data.sources.splits import named_split
from trainwright.errors import DataError, missing_package
from trainwright.tasks.imitation.videos import Frames, frames_at

OBSERVATION = "observation."


class Folder:
    """A folder as LeRobot writes it.

    Attributes:
        path: the folder.
        info: what meta/info.json says; nothing where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "meta" / "info.json"
        self.info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def features(self) -> dict[str, Any]:
        """What the columns are, by name."""
        return self.info.get("features") or {}

    @property
    def videos(self) -> list[str]:
        """The names of what is seen in videos."""
        return [name for name, feature in self.features.items() if feature.get("dtype") == "video"]

    @cached_property
    def episodes(self) -> dict[int, dict[str, Any]]:
        """What meta/episodes says of each episode (version 3), by its number; nothing of older folders."""
        files = sorted((self.path / "meta" / "episodes").rglob("*.parquet"))
        rows = [
            row for file in files for row in _parquet(file).read_table(file, columns=self._places(file)).to_pylist()
        ]
        return {row["episode_index"]: row for row in rows}

    def _places(self, file: Path) -> list[str]:
        names: list[str] = _parquet(file).read_schema(file).names
        return [name for name in names if name == "episode_index" or name.startswith("videos/")]

    def frames(self, name: str, episode: int, seconds: np.ndarray) -> Frames:
        """Return what an episode's video shows.

        Args:
            name: of what is seen.
            episode: its number.
            seconds: of every step, from the episode's beginning.

        Raises:
            DataError: the video is not there, or cannot be decoded.
        """
        given = {"video_key": name, "episode_index": episode,
                 "episode_chunk": episode // int(self.info.get("chunks_size") or 1000)}  # fmt: skip
        first, place = 0.0, self.episodes.get(episode)
        if place is not None:
            first = place[f"videos/{name}/from_timestamp"]
            given |= {key: place[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
        try:
            file = self.path / str(self.info["video_path"]).format(**given)
        except KeyError as error:
            raise DataError(
                f"'{self.path}/meta' does not say where episode {episode} of '{name}' is: {error}."
            ) from None
        if not file.is_file():
            raise DataError(f"The video '{file}' of episode {episode} is not there.")
        return frames_at(file, first + seconds, float(self.info["fps"]))


def lerobot(path: Path) -> Iterator[tuple[dict[str, Any], np.ndarray, dict[str, Any]]]:
    """Yield the episodes of LeRobot's layout: data/**/*.parquet with episode_index, action, observation.<name>, and
    videos where meta/info.json has them (versions 2 and 3); its `splits`, such as `train: 0:8`, name those of a split.

    Raises:
        DataError: something of this is missing, or cannot be read.
    """
    folder = Folder(path)
    parquet = _parquet(path)
    splits = _ranges(folder.info.get("splits") or {}, path / "meta" / "info.json")
    for file in sorted((path / "data").rglob("*.parquet")):
        table = parquet.read_table(file)
        names = [name for name in table.column_names if name.startswith(OBSERVATION)]
        if not [*names, *folder.videos] or not {"action", "episode_index"} <= set(table.column_names):
            raise DataError(
                f"'{file}' needs episode_index, action and observation.<name>; it has {table.column_names}."
            )
        index = table.column("episode_index").to_numpy()
        columns = {
            name: _column(table.column(name), folder.features.get(name, {}).get("shape")) for name in [*names, "action"]
        }
        for number in dict.fromkeys(index.tolist()):
            rows = index == number
            seen: dict[str, Any] = {name.removeprefix(OBSERVATION): columns[name][rows] for name in names}
            if folder.videos:
                seconds = _seconds(table, rows, float(folder.info.get("fps") or 1))
                seen |= {name.removeprefix(OBSERVATION): folder.frames(name, number, seconds) for name in folder.videos}
            said = next((split for split, episodes in splits if number in episodes), None)
            yield seen, columns["action"][rows], {"episode_index": number, **({"split": said} if splits else {})}


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise missing_package("pyarrow", "imitation", f"'{path}'") from error
    return parquet


def _seconds(table: Any, rows: np.ndarray, rate: float) -> np.ndarray:
    """Return when each of an episode's steps is, in seconds from its beginning; shape (steps,)."""
    if "timestamp" in table.column_names:
        seconds: np.ndarray = table.column("timestamp").to_numpy()[rows].astype(np.float64).reshape(-1)
        return seconds
    return np.arange(int(rows.sum())) / rate


def _ranges(splits: dict[str, Any], info: Path) -> list[tuple[str, range]]:
    """Return the splits of a LeRobot folder with the numbers of their episodes."""
    try:
        bounds = [(named_split(name) or name, str(said).split(":")) for name, said in splits.items()]
        return [(name, range(int(first), int(end))) for name, (first, end) in bounds]
    except ValueError:
        raise DataError(f"'{info}': splits are written like train: 0:8, not {splits}.") from None


def _column(column: Any, shape: Any) -> np.ndarray:
    """Return a column of numbers, lists or image files as an array of shape (rows, ...)."""
    values = np.stack([_value(value) for value in column.to_pylist()])
    return values.reshape(len(values), *shape) if shape and values.ndim == 2 and len(shape) > 1 else values


def _value(value: Any) -> np.ndarray:
    """Return a value of a column as an array; of an image file's bytes, as `datasets` keeps them, its pixels."""
    if not isinstance(value, dict):
        return np.asarray(value)
    if not value.get("bytes"):
        raise DataError(
            f"An image is kept as the file {value.get('path')!r} elsewhere; its bytes are expected in place."
        )
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing_package("pillow", "imitation", "images in parquet files") from error
    return np.asarray(Image.open(io.BytesIO(value["bytes"])))
