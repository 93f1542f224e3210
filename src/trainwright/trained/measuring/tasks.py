"""Benchmarks of the LM Evaluation Harness (`lm_eval`), where that package is installed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainwright.errors import ConfigError
from trainwright.trained.folders import Trained
from trainwright.trained.loading import load
from trainwright.trained.measuring.comparing import Scores
from trainwright.trained.measuring.evaluating import Evaluation, vocabulary_of


def by_tasks(
    trained: Trained,
    names: Sequence[str],
    *,
    limit: int | None = None,
    shots: int | None = None,
    folder: Path | None = None,
    dtype: str | None = None,
    device: torch.device | None = None,
) -> Evaluation:
    """Return what tasks of the harness find of a model, question by question.

    Args:
        trained: the model.
        names: of the tasks.
        limit: the first so many questions of each alone.
        shots: solved examples before each question; as the task has it when not given.
        folder: of tasks of one's own, as YAML files.
        dtype: the weights' number format; as they are saved when not given.
        device: where the model computes.

    Raises:
        ConfigError: the package is not installed, there is no such task, or the model cannot be loaded.
    """
    harness = _module("lm_eval")
    manager = _module("lm_eval.tasks").TaskManager(include_path=None if folder is None else str(folder))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(f"lm_eval has no task '{unknown[0]}'. `lm_eval ls tasks` lists them.")
    model, tokenizer = load(trained, dtype, device)
    wrapped = _module("lm_eval.models.huggingface").HFLM(pretrained=model, tokenizer=tokenizer)
    found = harness.simple_evaluate(
        wrapped, tasks=list(names), limit=limit, num_fewshot=shots, task_manager=manager, log_samples=True,
        verbosity="ERROR",
    )  # fmt: skip
    rows = [{"task": task, **sample} for task, samples in found["samples"].items() for sample in samples]
    return Evaluation(trained, _scores(rows), _kept(rows), vocabulary_of(tokenizer))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise ConfigError("--tasks needs the package 'lm_eval', which is not installed: pip install lm_eval.") from None


def _scores(rows: Sequence[dict[str, Any]]) -> list[Scores]:
    """Return the metrics that every question of a task has a number for; a task may read an answer in several ways."""
    found = []
    for task, way in dict.fromkeys((row["task"], row["filter"]) for row in rows):
        own = np.array([(row["task"], row["filter"]) == (task, way) for row in rows])
        some = [row for row, mine in zip(rows, own, strict=True) if mine]
        for name in some[0]["metrics"]:
            if all(isinstance(row.get(name), int | float) for row in some):
                amounts = np.zeros(len(rows))
                amounts[own] = [row[name] for row in some]
                label = f"{task} {name}" + ("" if way == "none" else f" ({way})")
                found.append(Scores(label, amounts, own.astype(float)))
    return found


def _kept(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"row": number, "task": row["task"], "question": row["doc_id"], "filter": row["filter"]}
        | {name: row.get(name) for name in row["metrics"]}
        for number, row in enumerate(rows)
    ]
