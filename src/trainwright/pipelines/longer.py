"""How a run's model does on problems longer than any that it was trained on."""

from __future__ import annotations

import random
from pathlib import Path

from trainwright.errors import DataError
from trainwright.evaluation.generation import results_file, success
from trainwright.pipelines.io import load_lexer
from trainwright.pipelines.trainer import LEXER, load_from_checkpoint
from trainwright.tasks.algebra.data import tokens_of
from trainwright.tasks.algebra.problems import task_named
from trainwright.trainer.face import session_of

NAME = "longer"


def evaluate_longer(folder: Path, step: int, count: int = 200) -> Path | None:
    """Let the model of a run answer longer problems of its task; return the file of results, None where it has none.

    Args:
        folder: of the run.
        step: at which its model was saved, for the file's name.
        count: problems.

    Raises:
        DataError: they would not be longer than all that it was trained on.
    """
    path = results_file(folder, step, NAME)
    if path.is_file():
        return path
    io_pipeline, _, pipeline = load_from_checkpoint(str(folder))
    name = io_pipeline.config.get("task")
    make = task_named(name).longer if name else None
    if make is None:
        return None
    trainer = pipeline.build().trainer
    assert trainer is not None
    assert trainer.generation is not None
    assert pipeline.train_dataset is not None
    rng = random.Random(0)
    asked = tokens_of((make(rng) for _ in range(count)), load_lexer(str(folder / LEXER)), lambda pair: pair, NAME)
    longest = max(map(len, pipeline.train_dataset.problems()))
    if min(map(len, asked.problems())) <= longest:
        raise DataError("Some of the longer problems are no longer than all that the model was trained on.")
    success(session_of(trainer), asked, prefix=f"eval_{NAME}", settings=trainer.generation, step=step)
    return path
