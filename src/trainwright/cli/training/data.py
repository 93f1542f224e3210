"""`trainwright data show run.yaml`: the first rows as the model sees them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.numbers import at_least


def run(argv: Sequence[str]) -> int:
    """Show the first rows of the training data, with what is learned marked."""
    parser = argparse.ArgumentParser(
        prog="trainwright data", usage="trainwright data show FILE [-n ROWS] [KEY=VALUE ...]",
        description="Show the rows of a run's YAML file.",
    )  # fmt: skip
    parser.add_argument("action", choices=["show"], help="show: the first rows, with what is learned marked")
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    parser.add_argument("-n", "--rows", type=at_least(1), default=3, help="how many rows (3)")
    args, words = parser.parse_known_args(argv)

    from trainwright.cli.files import file_and_overrides
    from trainwright.config.reading.read import load_checked

    config = load_checked(*file_and_overrides(args.config, words, "data show")).config

    from trainwright.tasks.language.show import LEGEND, show_rows
    from trainwright.tasks.language.text import load_text

    text = load_text(config)
    print(f"{text.method.name} on {text.rules.format.value}. {LEGEND}")
    print(show_rows(text, args.rows))
    for note in text.notes:
        print(f"Note: {note}")
    return 0
