"""Which model a folder means: a run's, a checkpoint's or its own; a whole one, or an adapter on a base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.checkpoint.check import damage, newest_valid
from trainwright.checkpoint.model import adapters
from trainwright.config.reading.read import load
from trainwright.config.reading.writing import RUN_CONFIG
from trainwright.config.schema import TrainingConfig
from trainwright.data.sources.reach import ask_at_once
from trainwright.errors import CheckpointError, ConfigError

SETTINGS = "config.json"
FROM = "base:"
BASE = "base_model"  # beside an adapter, where the base was saved with it
_WHOLE = (layout.WEIGHTS, "pytorch_model.bin")
_INDEX = ".index.json"


@dataclass(frozen=True)
class Trained:
    """A model on disk.

    Attributes:
        folder: where its weights, or those of its adapter, lie.
        run: the folder of the run that it is of, where results are kept; that of the model where there is no run.
        which: of the run's models, in words; empty for a model's own folder.
        config: what the run was begun with; None where it was not begun from a file.
        base: of an adapter: the folder, or the name on the hub, of the model below it; None for a whole model.
    """

    folder: Path
    run: Path
    which: str
    config: TrainingConfig | None
    base: str | None

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter on a base."""
        return self.base is not None

    @property
    def is_of_run(self) -> bool:
        """Whether it is of a run, and no model's own folder alone."""
        return (self.run / RUN_CONFIG).exists() or layout.holds_any(self.run)

    def __str__(self) -> str:
        """Return it in words."""
        on = f", an adapter on {self.base}" if self.is_adapter else ""
        return f"{self.folder}{f' ({self.which})' if self.which else ''}{on}"


def find(place: str | Path) -> Trained:
    """Return the model that a folder means: of a run its finished model, or its newest whole checkpoint where that is
    newer or there is no other; or a name on the hub, which is downloaded.

    Raises:
        ConfigError: there is no such folder, it holds no model, or it holds a whole model and an adapter.
        CheckpointError: the checkpoint is damaged, or all of the run are.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        folder = _from_hub(str(place))
    if layout.step_of(folder) >= 0:
        fault = damage(folder) if (folder / layout.STATE).exists() or (folder / layout.MANIFEST).exists() else None
        if fault is not None:
            raise CheckpointError(f"'{folder}' cannot be used: {fault.reason}. Give another checkpoint, or the run.")
        return _described(folder, "")
    weights = weights_of(folder)
    if not layout.holds_any(folder):
        if weights is None:
            raise ConfigError(f"'{folder}' holds no model: {_lacks(folder)}")
        return _described(folder, "the finished model" if (folder / RUN_CONFIG).exists() else "")
    newest, passed_over = newest_valid(folder)
    if weights is not None and (newest is None or not _is_newer(newest, weights)):
        return _described(folder, "the finished model")
    if newest is None:
        raise CheckpointError(f"No checkpoint in '{folder}' is whole: {'; '.join(map(str, passed_over))}.")
    return _described(newest, "the newest whole checkpoint")


def asked_for(place: str) -> Trained:
    """Return the model that a word means: a folder, as `find` says, or `base:RUN`, what that was trained from.

    Raises:
        ConfigError: there is none, or the run began with random weights.
        CheckpointError: it is damaged.
    """
    if not place.startswith(FROM):
        return find(place)
    trained = find(place.removeprefix(FROM))
    if trained.base is not None:
        return find(trained.base)
    model = trained.config.model if trained.config is not None else None
    if model is None or not model.load_pretrained_weights or not model.model_name:
        raise ConfigError(f"What '{trained.folder}' was trained from is not known, or had random weights.")
    return find(model.model_name)


def weights_of(folder: Path) -> Path | None:
    """Return the file, or the first of those, that holds the weights of a model or an adapter; None for none.

    Raises:
        ConfigError: it holds a whole model and an adapter, so that nobody knows which is meant.
    """
    names = [name for file in _WHOLE for name in (file, file + _INDEX)]
    whole = next((folder / name for name in names if (folder / name).is_file()), None)
    kinds = [f"{adapters.FILE}.{kind}" for kind in ("safetensors", "bin")]
    adapter = next((folder / name for name in kinds if (folder / name).is_file()), None)
    if whole is not None and adapter is not None:
        raise ConfigError(
            f"'{folder}' holds a whole model ({whole.name}) and an adapter ({adapter.name}), so it is unclear which is "
            "meant. Move one of them, with its configuration, into a folder of its own, or give a checkpoint."
        )
    return whole or adapter


def _is_newer(checkpoint: Path, weights: Path) -> bool:
    """Whether a checkpoint was written after a finished model: the run was gone on with since."""
    return (checkpoint / layout.STATE).stat().st_mtime > weights.stat().st_mtime


def _described(folder: Path, which: str) -> Trained:
    weights_of(folder)  # not both
    run = folder
    if not (folder / RUN_CONFIG).exists() and (layout.step_of(folder) >= 0 or (folder.parent / RUN_CONFIG).exists()):
        run = folder.parent
    config = load(run / RUN_CONFIG).config if (run / RUN_CONFIG).exists() else None
    return Trained(folder, run, which, config, _base_of(folder, config))


def _base_of(folder: Path, config: TrainingConfig | None) -> str | None:
    """Return the model below an adapter; None where there is no adapter.

    Raises:
        ConfigError: nothing tells which it is, or it had random weights, which are nowhere.
    """
    if not any((folder / f"{adapters.FILE}.{kind}").exists() for kind in ("safetensors", "bin")):
        return None
    for place in (folder / BASE, folder.parent / BASE):
        if (place / SETTINGS).is_file():
            return str(place)
    if config is not None and not config.model.load_pretrained_weights:
        raise ConfigError(
            f"'{folder}' is an adapter on random weights, which were not kept; with "
            "peft.peft_save_mode: ADAPTER_AND_BASE_MODEL they are, and with MERGED no base is needed."
        )
    told = _read(folder / adapters.SETTINGS).get("base_model_name_or_path")
    name = config.model.model_name if config is not None else told
    name = name or told
    if not name:
        raise ConfigError(f"{folder / adapters.SETTINGS} does not say which model the adapter is for.")
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ConfigError(
            f"The adapter in '{folder}' is for '{name}', which is not there any more. Put the model back there, or "
            f"into '{folder / BASE}'."
        )
    return str(name)


def _lacks(folder: Path) -> str:
    """Return what a folder would need, and where a model may be instead."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    for path in inside:
        if weights_of(path) is not None or layout.holds_any(path):
            return f"neither {layout.WEIGHTS}, {adapters.FILE}.safetensors nor a checkpoint. Did you mean '{path}'?"
    return f"neither {layout.WEIGHTS}, {adapters.FILE}.safetensors nor a checkpoint. Give a run's folder, or a model's."


def _from_hub(name: str) -> Path:
    """Return the folder of a model of the hub, downloaded if it is not there yet.

    Raises:
        ConfigError: it is no name on the hub, or cannot be had.
    """
    if name.count("/") != 1 or name.startswith((".", "/", "~", "runs/")):
        raise ConfigError(
            f"There is no folder '{name}'. Give a run's folder, its job, a checkpoint, or a model's folder."
        )
    from huggingface_hub import snapshot_download

    missing = ask_at_once(name)
    try:
        return Path(snapshot_download(name))
    except Exception as error:  # of the network, of the hub, of a name that cannot be
        reason = missing.rstrip(".") or (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"There is no folder '{name}', and as a name on the hub it cannot be had: {reason}."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is none."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
