"""`trainwright data show -c run.yaml`: the first rows as the model sees them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Show the first rows of the training data, with what is learned marked."""
    parser = argparse.ArgumentParser(prog="trainwright data", description="Show the rows of a run's YAML file.")
    parser.add_argument("action", choices=["show"], help="show: the first rows, with what is learned marked")
    parser.add_argument("-c", "--config", type=Path, required=True, help="the run's YAML file")
    parser.add_argument("-n", "--rows", type=int, default=3, help="how many rows (3)")
    args, overrides = parser.parse_known_args(argv)

    from trainwright.config.load import load_checked

    config = load_checked(args.config, overrides).config

    from trainwright.tasks.language.show import LEGEND, show_rows
    from trainwright.tasks.language.text import load_text

    text = load_text(config)
    print(f"{text.kind.name} on {text.rules.format.value}. {LEGEND}")
    print(show_rows(text.tokenizer, text.train, args.rows))
    for note in text.notes:
        print(f"Note: {note}")
    return 0
