"""`trainwright algebra generate TASK FOLDER`, `trainwright algebra eval RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Make the problems of a task, or look at what a run's model wrote."""
    parser = argparse.ArgumentParser(prog="trainwright algebra", description="Computer algebra with transformers.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("generate", help="write train_raw.txt, test_raw.txt and lexer.yaml of a task")
    make.add_argument("task", help="such as gf17_sum or derivative")
    make.add_argument("folder", type=Path)
    make.add_argument("--train", type=int, default=50_000, help="training problems (50000)")
    make.add_argument("--test", type=int, default=1000, help="test problems, none of them in the training data (1000)")
    make.add_argument("--seed", type=int, default=42, help="of everything (42)")
    make.add_argument("--processes", type=int, help="that make them (all processors)")
    look = actions.add_parser("eval", help="success by length, tokens taken for others, wrong answers")
    look.add_argument("run", type=Path, help="the run's folder")
    look.add_argument("--plot", action="store_true", help="write success.png into it")
    args = parser.parse_args(argv)
    if args.action == "generate":
        from trainwright.tasks.algebra.generate import write_task

        write_task(args.task, args.folder, args.train, args.test, args.seed, args.processes)
        print(f"{args.folder}: {args.train} training and {args.test} test problems of {args.task}, and lexer.yaml")
        return 0

    from trainwright.tasks.algebra.inspect import describe, newest_results, plot, read_results

    path = newest_results(args.run)
    results = read_results(path)
    print(f"{path}\n{describe(results)}")
    if args.plot:
        print(f"Written: {plot(args.run, results)}")
    return 0
