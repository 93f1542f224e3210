"""`trainwright check run.yaml`: every mistake that can be found before a model is loaded, all at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Look at a file and at the first rows of its data; say that it is right, or everything that is wrong with it."""
    parser = argparse.ArgumentParser(
        prog="trainwright check", usage="trainwright check FILE [--memory] [KEY=VALUE ...]",
        description="Look for mistakes in a run's YAML file.",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    parser.add_argument("--memory", action="store_true", help="estimate the memory and the tokens of a step")
    args, words = parser.parse_known_args(argv)

    from trainwright.cli.files import file_and_overrides
    from trainwright.config import methods
    from trainwright.config.reading.read import load_checked
    from trainwright.tasks.language.first_rows import look

    file, overrides = file_and_overrides(args.config, words, "check")
    loaded = load_checked(file, overrides)
    look(loaded)
    config = loaded.config
    kind = config.training.trainer_type
    length = config.training.max_steps
    many, one = (length, "step") if length > 0 else (config.training.num_train_epochs, "epoch")
    what = f"{many:g} {one}" + ("" if many == 1 else "s")
    who = kind or f"{' or '.join(one.name for one in methods.candidates(kind))}, by the data"
    print(f"{file} is valid: {who}, {config.model.model_name}, {what}.")
    if args.memory:
        from trainwright.tasks.language.memory import describe, for_config

        print(describe(for_config(config)))
    return 0
