"""`trainwright replay RUN --step N`: the rows that a past step read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.numbers import at_least
from trainwright.errors import ConfigError


def run(argv: Sequence[str]) -> int:
    """Print the rows of a past step; with --loss, each row's loss under the nearest earlier checkpoint."""
    parser = argparse.ArgumentParser(prog="trainwright replay", description="Show the rows that a past step read.")
    parser.add_argument("run", type=Path, help="the run's folder (its output_dir)")
    parser.add_argument("--step", type=at_least(1), required=True, help="number of the step, from 1")
    parser.add_argument("--loss", action="store_true", help="each row's loss under the nearest earlier checkpoint")
    args = parser.parse_args(argv)
    if not args.run.is_dir():
        raise ConfigError(f"There is no folder '{args.run}'; give the output_dir of a run.")

    from trainwright.config.composition import build_trainer
    from trainwright.config.reading.read import load
    from trainwright.config.reading.writing import RUN_CONFIG
    from trainwright.evaluation.replay import find_step

    config = args.run / RUN_CONFIG
    if config.exists():
        here = [f"training.output_dir={args.run}", "training.push_to_hub=false"]
        trainer = build_trainer(load(config, here).config)
        step = trainer.replay(args.step, args.loss)
    elif args.loss:
        raise ConfigError(
            f"'{args.run}' was started by a script, which alone knows its model and data: call "
            f"trainer.replay({args.step}, loss=True) there."
        )
    else:
        step = find_step(args.run, args.step)
    print(f"Step {step.number}: {len(step.rows)} rows of pass {step.epoch}")
    for row in step.rows:
        loss = "" if row.loss is None else f"  loss {row.loss:.4f}"
        print(f"row {row.index}{loss}  {row.shown}".rstrip())
    if args.loss:
        print(f"Losses under {step.checkpoint}, without dropout.")
    return 0
