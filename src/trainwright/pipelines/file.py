"""A run of the three pipelines from one YAML file, as the command line does it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trainwright.checkpoint.check import newest_valid
from trainwright.checkpoint.lock import RunLock, owned
from trainwright.config.keys.task_uses import ALGEBRA
from trainwright.config.sections import read_sections, required
from trainwright.errors import ConfigError
from trainwright.evaluation.generation import results_file
from trainwright.pipelines.dataset import DatasetPipeline
from trainwright.pipelines.io import IOPipeline, is_earlier, load_lexer
from trainwright.pipelines.model import ModelPipeline
from trainwright.pipelines.trainer import LEXER, TRAIN, TrainerPipeline, load_from_checkpoint
from trainwright.tasks.algebra.models.models import check_model
from trainwright.tasks.algebra.preprocess import described

SECTIONS = ("dataset", "data", "model", "train")
_ONLY_SHOWN = ("display_samples", "validate_train_tokens", "validate_test_tokens")
_PATHS = (
    "lexer_config",
    *(f"{split}_dataset_{kind}" for split in ("train", "test") for kind in ("path", "jsonl", "pickle")),
)


def read_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sections of a file, dotted overrides applied; the folder of `dataset` and the paths of `data` are from
    its own folder where they are there, and what lies in the folder of `dataset` is read where it is made.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it has other sections.
    """
    sections = read_sections(path, overrides, SECTIONS)
    required(sections, SECTIONS[1:], str(path))
    made = str((sections.get("dataset") or {}).get("save_dir") or "")
    place = path.parent / made if made and (path.parent / made).is_dir() else Path(made)
    if made:
        sections["dataset"]["save_dir"] = str(place)
    for key in _PATHS:
        given = sections["data"].get(key)
        if isinstance(given, str) and made and Path(given).is_relative_to(made):
            sections["data"][key] = str(place / Path(given).relative_to(made))
        elif isinstance(given, str) and (path.parent / given).is_file():
            sections["data"][key] = str(path.parent / given)
    return sections


def train_file(
    path: Path, overrides: Sequence[str] = (), resume: bool = False, goes_on: str | None = None
) -> TrainerPipeline:
    """Train what a file describes, its problems made first where it says how; return the pipeline.

    Args:
        resume: go on with the run in `train.save_dir`, with the section `train` as it is now; the problems may lie
            elsewhere, if they are the same, as the model must be.
        goes_on: the command that does so; `trainwright algebra train` with this file when not given.

    Raises:
        ConfigError: the file holds a mistake, or its folder another run.
    """
    goes_on = goes_on or shlex.join(["trainwright", "algebra", "train", str(path), *overrides, "--resume"])
    sections = read_file(path, overrides)
    with owned(_folder(sections).expanduser()) as lock:
        pipeline = (_going_on if resume else _beginning)(sections)
        return _trained(pipeline, goes_on, lock)


def _going_on(sections: dict[str, Any]) -> TrainerPipeline:
    folder = _folder(sections)
    check_unchanged(folder.expanduser(), sections)
    return load_from_checkpoint(str(folder), data=sections["data"], train=sections["train"])[2]


def _beginning(sections: dict[str, Any]) -> TrainerPipeline:
    folder = _folder(sections)
    if newest_valid(folder.expanduser())[0] is not None:
        raise ConfigError(
            f"train.save_dir '{folder}' holds another run. --resume goes on with it; else give another folder: "
            "train.save_dir=FOLDER."
        )
    if sections.get("dataset") is not None:
        _make_problems(sections["dataset"])
    io_dict = IOPipeline.from_config(sections["data"]).build()
    model = ModelPipeline.from_io_dict(sections["model"], io_dict).build()
    return TrainerPipeline.from_io_dict(sections["train"], model, io_dict)


def check_unchanged(folder: Path, sections: dict[str, Any]) -> None:
    """Raise a ConfigError where a file asks for another model, or reads its problems in another way, than the run in a
    folder, or for other problems than those that are there."""
    if sections.get("dataset") is not None:
        DatasetPipeline.from_config(sections["dataset"]).check_unchanged()
    if not (folder / TRAIN).is_file():
        return  # which is told when it is loaded
    began = yaml.safe_load((folder / TRAIN).read_text(encoding="utf-8"))
    model = [{**check_model(one, "cfg.model")} for one in (sections["model"], began["model"])]
    data = [
        {name: one.get(name) for name in ALGEBRA["data"] if name not in (*_PATHS, *_ONLY_SHOWN)}
        for one in (sections["data"], began["data"])
    ]
    for one in data:
        one["dataset_load_preprocessor"] = described(one["dataset_load_preprocessor"])
    for section, (now, then) in {"model": model, "data": data}.items():
        name = next((name for name in now if now[name] != then.get(name)), None)
        if name is not None:
            raise ConfigError(
                f"{section}.{name} is {now[name]!r}, but the run in '{folder}' began with {then.get(name)!r}, and goes "
                "on with that alone. Take it back, or begin another run: train.save_dir=FOLDER."
            )
    lexer = sections["data"].get("lexer_config")
    if lexer is not None and Path(str(lexer)).expanduser().is_file():
        earlier = is_earlier(folder / LEXER)
        here, there = (load_lexer(one, earlier) for one in (lexer, folder / LEXER))
        if here != there:
            raise ConfigError(
                f"data.lexer_config '{lexer}' is another lexer than that of the run in '{folder}', which goes on with "
                "its own alone. Take it back, or begin another run: train.save_dir=FOLDER."
            )


def has_begun(path: Path, overrides: Sequence[str] = ()) -> bool:
    """Whether the run that a file describes has saved something to go on from."""
    return newest_valid(_folder(read_file(path, overrides)).expanduser())[0] is not None


def _folder(sections: dict[str, Any]) -> Path:
    return Path(sections["train"].get("save_dir") or sections["train"].get("output_dir") or "tmp")


def _trained(pipeline: TrainerPipeline, goes_on: str, lock: RunLock) -> TrainerPipeline:
    """Train, and generate at the end where the last evaluation was earlier."""
    trainer = pipeline.build().trainer
    assert trainer is not None
    trainer.goes_on, trainer.folder_lock = goes_on, lock
    pipeline.train()
    if not results_file(pipeline.run_folder, trainer.state.global_step).is_file():
        pipeline.evaluate_and_save_generation()
    return pipeline


def _make_problems(section: Any) -> None:
    """Write the problems of a section `dataset` that are not there yet.

    Raises:
        ConfigError: others are there.
    """
    pipeline = DatasetPipeline.from_config(section)
    pipeline.check_unchanged()
    if not pipeline.is_done:
        pipeline.run()
