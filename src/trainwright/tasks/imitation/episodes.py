"""Demonstrations: episodes from npz files, robomimic's HDF5 and LeRobot's parquet folders."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from trainwright.data.sources.files import reason
from trainwright.data.sources.splits import TRAIN, VALIDATION, named_split
from trainwright.errors import DataError, missing_package
from trainwright.tasks.imitation.lerobot import OBSERVATION, lerobot
from trainwright.tasks.imitation.observations import plain
from trainwright.tasks.imitation.videos import Frames

Seen = Mapping[str, np.ndarray | Frames]
Parts = tuple[Seen, np.ndarray, dict[str, Any]]


@dataclass
class Episode:
    """One demonstration.

    Attributes:
        observations: by name, (steps, ...): numbers as float32 (size,), images as uint8, or floats from 0 to 1,
            (height, width, channels); other forms are brought to these. Frames of a video stay there.
        actions: float32, shape (steps, size).
        about: what is known of it, such as its return; `split` where the file says which one it belongs to.

    Raises:
        DataError: an observation that is no number, or an image of another shape or range.
    """

    observations: Seen
    actions: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observations = {
            name: values if isinstance(values, Frames) else plain(name, values)
            for name, values in self.observations.items()
        }
        actions = np.asarray(self.actions, dtype=np.float32)
        self.actions = actions.reshape(len(actions), -1) if actions.size else actions

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
    for given in _reader(path):
        if len(found) == count:
            break
        try:
            episode = Episode(*given)
        except (DataError, ValueError, TypeError) as error:
            raise DataError(f"Episode {len(found)} of '{path}': {error}") from error
        _check(episode, path, len(found))
        found.append(episode)
    if not found:
        raise DataError(f"'{path}' holds no episode.")
    return found


def _reader(path: Path) -> Iterator[Parts]:
    if path.is_file() and path.suffix == ".npz":
        return _whole(path, _npz(path))
    if path.is_file() and path.suffix in (".hdf5", ".h5"):
        return _whole(path, _robomimic(path))
    if path.is_dir() and (path / "data").is_dir():
        return _whole(path, lerobot(path))
    if path.is_dir():
        return chain.from_iterable(_whole(file, _npz(file)) for file in sorted(path.glob("*.npz")))
    raise DataError(f"'{path}' is neither .npz, .hdf5, a folder of .npz files, nor a LeRobot folder with data/.")


def _whole(path: Path, episodes: Iterator[Parts]) -> Iterator[Parts]:
    """Yield the episodes of a file or folder.

    Raises:
        DataError: it cannot be read.
    """
    try:
        yield from episodes
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' cannot be read: {reason(error)}") from error


def _check(episode: Episode, path: Path, number: int) -> None:
    for name, values in episode.observations.items():
        if len(values) != len(episode):
            raise DataError(
                f"Episode {number} of '{path}': {len(values)} observations '{name}', but {len(episode)} actions."
            )
    if len(episode) == 0 or episode.actions.ndim != 2:
        shape = episode.actions.shape
        raise DataError(f"Episode {number} of '{path}': actions of shape (steps, size) are expected, not {shape}.")


def _npz(file: Path) -> Iterator[Parts]:
    """Yield episodes: a file's arrays `action` and `observation.<name>`, with `episode_ends` where it holds several."""
    with np.load(file, allow_pickle=False) as content:
        names = [name for name in content.files if name.startswith(OBSERVATION)]
        if "action" not in content.files or not names:
            raise DataError(f"'{file}' needs the arrays 'action' and 'observation.<name>'; it has {content.files}.")
        arrays = {name: content[name] for name in [*names, "action"]}
        ends = content["episode_ends"].tolist() if "episode_ends" in content.files else [len(arrays["action"])]
        about = json.loads(str(content["about"])) if "about" in content.files else {}
    steps = len(arrays["action"])
    if ends != sorted(set(ends)) or not ends or ends[0] < 1 or ends[-1] < steps:
        raise DataError(
            f"'{file}': episode_ends is {str(ends)[:60]}, and there are {steps} actions; where each episode ends is "
            "expected, in order, the last at the end of all."
        )
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        observations = {name.removeprefix(OBSERVATION): arrays[name][start:end] for name in names}
        yield observations, arrays["action"][start:end], dict(about)


def write_npz(path: Path, episodes: Sequence[Episode], about: dict[str, Any]) -> None:
    """Write episodes into one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = episodes[0].observations
    arrays: dict[str, Any] = {
        f"{OBSERVATION}{name}": np.concatenate([np.asarray(one.observations[name]) for one in episodes])
        for name in names
    }
    arrays |= {
        "action": np.concatenate([one.actions for one in episodes]),
        "episode_ends": np.cumsum([len(one) for one in episodes]),
        "about": json.dumps(about),
    }
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        np.savez_compressed(file, **arrays)
    new.replace(path)  # it is there whole or not at all


def _robomimic(path: Path) -> Iterator[Parts]:
    """Yield the episodes of robomimic's layout: data/demo_<n>/obs/<name> and data/demo_<n>/actions; mask/train and
    mask/valid name those of a split."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise missing_package("h5py", "imitation", f"'{path}'") from error
    with h5py.File(path, "r") as file:
        if "data" not in file:
            raise DataError(f"'{path}' has no group 'data' as robomimic's files have; it has {list(file)}.")
        masks = {split: file["mask"][key][:] for key in file.get("mask", ()) if (split := named_split(key))}
        splits = {name.decode(): split for split, names in masks.items() for name in names.tolist()}
        for name in sorted(file["data"], key=lambda one: int(one.rpartition("_")[2] or 0)):
            demo = file["data"][name]
            if "obs" not in demo or "actions" not in demo:
                raise DataError(f"'{path}': data/{name} needs 'obs' and 'actions'; it has {list(demo)}.")
            about = {"name": name, **({"split": splits.get(name)} if masks else {})}
            yield {key: demo["obs"][key][:] for key in demo["obs"]}, demo["actions"][:], about


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Return (training, held-out) episodes, whole ones: as their file says, else drawn by a seed.

    A file that names the training episodes alone holds out the others; where these are none, the share is drawn.

    Args:
        share: of the episodes that is held out, at least one where it is not 0.

    Raises:
        DataError: none is left to train on.
    """
    said = [one.about.get("split") for one in episodes]
    if any(said):
        train = [one for one, name in zip(episodes, said, strict=True) if name == (TRAIN if TRAIN in said else None)]
        if not train:
            raise DataError(f"The demonstrations are of the splits {', '.join(sorted(set(filter(None, said))))}, so "
                            "none is left to train on.")  # fmt: skip
        others = VALIDATION if VALIDATION in said else None
        held_out = [one for one, name in zip(episodes, said, strict=True) if name == others]
        if held_out and (TRAIN in said or others):
            return train, held_out
        episodes = train
    count = 0 if share <= 0 else max(1, round(len(episodes) * share))
    if count >= len(episodes):
        raise DataError(f"Holding out {count} of {len(episodes)} episodes leaves none to train on; record more.")
    order = np.random.default_rng(seed).permutation(len(episodes))
    held = set(order[:count].tolist())
    return ([one for i, one in enumerate(episodes) if i not in held], [episodes[i] for i in sorted(held)])


def as_classes(episodes: Sequence[Episode]) -> list[Episode]:
    """Return episodes of discrete actions with one column per action, 1 for the one that was taken.

    Args:
        episodes: whose actions are so already, or one column of class numbers from 0 on.

    Raises:
        DataError: they are neither.
    """
    taken = np.concatenate([one.actions for one in episodes])
    if taken.shape[1] > 1:
        if not (np.isin(taken, (0, 1)).all() and (taken.sum(axis=1) == 1).all()):
            raise DataError(
                f"data.discrete is true, but the actions are {taken.shape[1]} numbers that are no classes, such as "
                f"{taken[0].tolist()}; one number of a class is expected, or one column per class with a single 1."
            )
        return list(episodes)
    if not ((taken >= 0) & (taken == np.rint(taken))).all():
        wrong = taken[(taken < 0) | (taken != np.rint(taken))][0]
        raise DataError(f"data.discrete is true, but an action is {wrong:g}; whole numbers from 0 on are expected.")
    kinds = np.eye(int(taken.max()) + 1, dtype=np.float32)
    return [Episode(one.observations, kinds[one.actions[:, 0].astype(np.int64)], one.about) for one in episodes]
