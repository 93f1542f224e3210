"""`trainwright demo`: the packaged recipe through the same doors as any other run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

_AGAIN = "Start anew with: rm -r {folder} && trainwright demo"


def run(argv: Sequence[str]) -> int:
    """Train the demo, go on with an interrupted one, or say that it is complete."""
    parser = argparse.ArgumentParser(
        prog="trainwright demo",
        description="Train a small language model of Python code, from random weights, on Python's own library.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.learning_rate=0.003")
    args = parser.parse_args(argv)

    from trainwright.checkpoint.check import newest_valid
    from trainwright.config.build import build_trainer
    from trainwright.config.load import keep, load_checked
    from trainwright.state import TrainerState

    with as_file(files("trainwright") / "recipes" / "demo.yaml") as recipe:
        config = load_checked(recipe, args.overrides).config
    folder = Path(config.training.output_dir or "runs/demo")
    newest, _ = newest_valid(folder)
    if newest is not None:
        state = TrainerState.load_from_json(newest / "trainer_state.json")
        if state.global_step >= state.max_steps:
            print(f"This run is complete: {state.global_step} steps, in {folder}/. {_AGAIN.format(folder=folder)}")
            return 0
    trainer = build_trainer(config)
    keep(config, trainer.run_folder)
    trainer.train(resume_from_checkpoint=newest is not None)
    return 0
