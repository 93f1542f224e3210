"""`trainwright rl show RUN`: what a model wrote in reinforcement learning, and what it earned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.files import parsed
from trainwright.cli.numbers import at_least
from trainwright.reinforcement import samples


def run(argv: Sequence[str]) -> int:
    """Show the completions of a step, group by group."""
    parser = argparse.ArgumentParser(prog="trainwright rl", description="look at runs of reinforcement learning")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    show = commands.add_parser("show", help="the completions of a step, with what each earned and was worth")
    show.add_argument("run", type=Path, help="the run's folder")
    show.add_argument("--step", type=at_least(1), help="whose completions; the last ones when not given")
    show.add_argument(
        "--held-out", action="store_true", help="those of prompts held out, at the last evaluation up to the step"
    )
    show.add_argument("-n", "--groups", type=at_least(1), default=4, help="prompts that are shown (4)")
    args = parsed(parser, list(argv))
    path = samples.newest(args.run, args.step, samples.HELD_OUT if args.held_out else samples.TRAINED)
    completions = samples.read(path)
    print(f"{path}: {len(completions)} completions")
    for line in samples.shown(completions, args.groups):
        print(line)
    return 0
