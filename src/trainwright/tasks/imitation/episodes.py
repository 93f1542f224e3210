"""Demonstrations: episodes from npz files, robomimic's HDF5 and LeRobot's parquet folders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.errors import DataError, missing_package

STATE = "state"
_LEROBOT = "observation."


@dataclass
class Episode:
    """One demonstration.

    Attributes:
        observations: by name, (steps, ...): numbers as float32, images as uint8 (height, width, channels).
        actions: float32, shape (steps, size); of discrete actions, one column per action, 1 for the one that was taken.
        about: what is known of it, such as its return.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


def read_episodes(path: Path, count: int | None = None) -> list[Episode]:
    """Return the episodes of a file or folder.

    Args:
        path: an .npz file or a folder of them, robomimic's .hdf5, or LeRobot's folder with data/*.parquet.
        count: of the first episodes.

    Raises:
        DataError: there is no such data, or an episode's parts are of different lengths.
    """
    if not path.exists():
        raise DataError(f"There are no demonstrations at '{path}' (looked for from {Path.cwd()}).")
    found: list[Episode] = []
    for episode in _reader(path):
        if len(found) == count:
            break
        _check(episode, path, len(found))
        found.append(episode)
    if not found:
        raise DataError(f"'{path}' holds no episode.")
    return found


def _reader(path: Path) -> Iterator[Episode]:
    if path.is_file() and path.suffix == ".npz":
        return _npz([path])
    if path.is_file() and path.suffix in (".hdf5", ".h5"):
        return _robomimic(path)
    if path.is_dir() and (path / "data").is_dir():
        return _lerobot(path)
    if path.is_dir():
        return _npz(sorted(path.glob("*.npz")))
    raise DataError(f"'{path}' is neither .npz, .hdf5, a folder of .npz files, nor a LeRobot folder with data/.")


def _check(episode: Episode, path: Path, number: int) -> None:
    for name, values in episode.observations.items():
        if len(values) != len(episode):
            raise DataError(
                f"Episode {number} of '{path}': {len(values)} observations '{name}', but {len(episode)} actions."
            )
    if len(episode) == 0 or episode.actions.ndim != 2:
        shape = episode.actions.shape
        raise DataError(f"Episode {number} of '{path}': actions of shape (steps, size) are expected, not {shape}.")


def _number(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else values.astype(np.float32)


def _actions(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    return values.astype(np.float32).reshape(len(values), -1)


def _npz(files: Sequence[Path]) -> Iterator[Episode]:
    """Yield episodes: a file's arrays `action` and `observation.<name>`, with `episode_ends` where it holds several."""
    for file in files:
        with np.load(file, allow_pickle=False) as content:
            names = [name for name in content.files if name.startswith(_LEROBOT)]
            if "action" not in content.files or not names:
                raise DataError(f"'{file}' needs the arrays 'action' and 'observation.<name>'; it has {content.files}.")
            arrays = {name: content[name] for name in [*names, "action"]}
            ends = content["episode_ends"].tolist() if "episode_ends" in content.files else [len(arrays["action"])]
            about = json.loads(str(content["about"])) if "about" in content.files else {}
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            observations = {name.removeprefix(_LEROBOT): _number(arrays[name][start:end]) for name in names}
            yield Episode(observations, _actions(arrays["action"][start:end]), dict(about))


def write_npz(path: Path, episodes: Sequence[Episode], about: dict[str, Any]) -> None:
    """Write episodes into one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = episodes[0].observations
    arrays: dict[str, Any] = {
        f"{_LEROBOT}{name}": np.concatenate([one.observations[name] for one in episodes]) for name in names
    }
    arrays |= {
        "action": np.concatenate([one.actions for one in episodes]),
        "episode_ends": np.cumsum([len(one) for one in episodes]),
        "about": json.dumps(about),
    }
    np.savez_compressed(path, **arrays)


def _robomimic(path: Path) -> Iterator[Episode]:
    """Yield the episodes of robomimic's layout: data/demo_<n>/obs/<name> and data/demo_<n>/actions."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_package("h5py", "imitation", f"'{path}'") from error
    with h5py.File(path, "r") as file:
        if "data" not in file:
            raise DataError(f"'{path}' has no group 'data' as robomimic's files have; it has {list(file)}.")
        for name in sorted(file["data"], key=lambda one: int(one.rpartition("_")[2] or 0)):
            demo = file["data"][name]
            if "obs" not in demo or "actions" not in demo:
                raise DataError(f"'{path}': data/{name} needs 'obs' and 'actions'; it has {list(demo)}.")
            observations = {key: _number(demo["obs"][key][:]) for key in demo["obs"]}
            yield Episode(observations, _actions(demo["actions"][:]), {"name": name})


def _lerobot(path: Path) -> Iterator[Episode]:
    """Yield the episodes of LeRobot's layout: data/**/*.parquet with episode_index, action, observation.<name>."""
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise missing_package("pyarrow", "imitation", f"'{path}'") from error
    info = path / "meta" / "info.json"
    features = json.loads(info.read_text(encoding="utf-8")).get("features", {}) if info.is_file() else {}
    videos = [name for name, feature in features.items() if feature.get("dtype") == "video"]
    if videos:
        raise DataError(f"'{path}' keeps {', '.join(videos)} as video, which is not read; image arrays are.")
    for file in sorted((path / "data").rglob("*.parquet")):
        table = parquet.read_table(file)
        names = [name for name in table.column_names if name.startswith(_LEROBOT)]
        if not names or not {"action", "episode_index"} <= set(table.column_names):
            raise DataError(
                f"'{file}' needs episode_index, action and observation.<name>; it has {table.column_names}."
            )
        index = table.column("episode_index").to_numpy()
        columns = {
            name: _column(table.column(name), features.get(name, {}).get("shape")) for name in [*names, "action"]
        }
        for number in dict.fromkeys(index.tolist()):
            rows = index == number
            observations = {name.removeprefix(_LEROBOT): _number(columns[name][rows]) for name in names}
            yield Episode(observations, _actions(columns["action"][rows]), {"episode_index": number})


def _column(column: Any, shape: Any) -> np.ndarray:
    """Return a column of lists as an array of shape (rows, ...)."""
    values = np.stack([np.asarray(value) for value in column.to_pylist()])
    if shape and values.ndim == 2 and len(shape) > 1:
        values = values.reshape(len(values), *shape)
    return values.astype(np.uint8) if shape and len(shape) == 3 and values.dtype.kind == "i" else values


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Return (training, held-out) episodes: whole ones, drawn by a seed.

    Args:
        share: of the episodes that is held out, at least one where it is not 0.
    """
    count = 0 if share <= 0 else max(1, round(len(episodes) * share))
    if count >= len(episodes):
        raise DataError(f"Holding out {count} of {len(episodes)} episodes leaves none to train on; record more.")
    order = np.random.default_rng(seed).permutation(len(episodes))
    held = set(order[:count].tolist())
    return ([one for i, one in enumerate(episodes) if i not in held], [episodes[i] for i in sorted(held)])
