"""`trainwright algebra generate TASK FOLDER`, `train FILE`, `eval RUN`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.files import parsed, to_write
from trainwright.cli.numbers import at_least


def run(argv: Sequence[str]) -> int:
    """Make the problems of a task, or look at what a run's model wrote."""
    parser = argparse.ArgumentParser(prog="trainwright algebra", description="Computer algebra with transformers.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("generate", help="write train_raw.txt, test_raw.txt and lexer.yaml of a task")
    make.add_argument("task", help="such as gf17_sum or derivative; or module:function, your own f(seed)")
    make.add_argument("folder", type=Path)
    make.add_argument("--train", type=at_least(1), default=50_000, help="training problems (50000)")
    make.add_argument(
        "--test", type=at_least(0), default=1000, help="test problems, none of them in the training data (1000)"
    )
    make.add_argument("--seed", type=int, default=42, help="of everything (42)")
    make.add_argument("--processes", type=at_least(1), help="that make them (all processors)")
    train = actions.add_parser("train", help="train what a YAML file describes, and look at the wrong answers")
    train.add_argument("file", type=Path, help="with the sections data, model and train")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.learning_rate=0.002")
    train.add_argument("--resume", action="store_true", help="go on with the run in train.save_dir")
    look = actions.add_parser("eval", help="success by length, tokens taken for others, wrong answers")
    look.add_argument("run", type=Path, help="the run's folder")
    look.add_argument("--plot", action="store_true", help="write success.png into it")
    args = parsed(parser, argv)
    return {"generate": _generate, "train": _train, "eval": _eval}[args.action](args)


def _generate(args: argparse.Namespace) -> int:
    from trainwright.tasks.algebra.generate import write_problems, write_task
    from trainwright.tasks.algebra.preprocess import imported

    to_write(args.folder / "lexer.yaml")
    if ":" in args.task:
        sys.path.insert(0, str(Path.cwd()))  # where a script's own modules lie
        counts = {"train": args.train, "test": args.test}
        write_problems(imported(args.task, "TASK"), args.folder, counts, args.seed, processes=args.processes)
    else:
        write_task(args.task, args.folder, args.train, args.test, args.seed, processes=args.processes)
    print(f"{args.folder}: {args.train} training and {args.test} test problems of {args.task}, and lexer.yaml")
    return 0


def _train(args: argparse.Namespace) -> int:
    from trainwright.cli import as_job
    from trainwright.config.reading.writing import by_name
    from trainwright.jobs import paths
    from trainwright.pipelines.file import has_begun, read_file, train_file

    begun_again = paths.resumes() and has_begun(args.file, args.overrides)
    with as_job.running(args.file.stem, by_name(read_file(args.file, args.overrides))):
        folder = train_file(args.file, args.overrides, args.resume or begun_again).run_folder
    show(folder)
    return 0


def _eval(args: argparse.Namespace) -> int:
    show(args.run)
    if args.plot:
        from trainwright.tasks.algebra.inspect import newest_results, plot, read_results

        print(f"Written: {plot(args.run, read_results(newest_results(args.run)))}")
    return 0


def show(folder: Path) -> None:
    """Print what the model of a run wrote at its newest evaluation."""
    from trainwright.tasks.algebra.inspect import describe, newest_results, read_results

    path = newest_results(folder)
    print(f"{path}\n{describe(read_results(path))}")
