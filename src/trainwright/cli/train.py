"""`trainwright train -c run.yaml training.max_steps=100`"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Train what a file describes; with --resume, go on from its newest checkpoint."""
    parser = argparse.ArgumentParser(prog="trainwright train", description="Train what a YAML file describes.")
    parser.add_argument("-c", "--config", type=Path, required=True, help="the run's YAML file")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of its output_dir")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as training.max_steps=100")
    args = parser.parse_args(argv)

    from trainwright.config.build import build
    from trainwright.config.load import keep, load

    config = load(args.config, args.overrides)
    trainer = build(config)
    keep(config, trainer.run_folder)
    trainer.train(resume_from_checkpoint=args.resume)
    return 0
