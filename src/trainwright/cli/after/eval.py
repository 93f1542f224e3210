"""`trainwright eval runs/a runs/b --data rows.jsonl`: models measured on the same rows, and beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.cli.numbers import at_least

if TYPE_CHECKING:
    from trainwright.trained.folders import Trained
    from trainwright.trained.measuring.evaluating import Evaluation
    from trainwright.trained.measuring.rows import Data

_USAGE = """trainwright eval RUN [RUN ...] [--data FILE] [--split NAME] [--limit N] [--out FOLDER] [--dtype FORMAT]
       trainwright eval RUN [RUN ...] --verify NAME,NAME [--with NAME.KEY=VALUE] [--data FILE] [--max-new-tokens N]
       trainwright eval RUN [RUN ...] --tasks NAME,NAME [--shots N] [--task-folder FOLDER] [--limit N]"""


def run(argv: Sequence[str]) -> int:
    """Measure models, show the metrics with their intervals, and keep them beside the runs."""
    parser = argparse.ArgumentParser(
        prog="trainwright eval", usage=_USAGE,
        description="Measure models on rows, or by tasks of the LM Evaluation Harness; several beside each other.",
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, its job, a checkpoint, or a model's")
    parser.add_argument(
        "--data", metavar="FILE", help="rows, or a run's YAML file (the first run's test or validation)"
    )
    parser.add_argument("--split", default="train", help="which part of the data (train)")
    parser.add_argument("--chat-template", metavar="NAME", help="of conversations, for models that have none")
    parser.add_argument(
        "--limit", type=at_least(1), metavar="N", help="the first N rows, or questions of a task, alone"
    )
    parser.add_argument(
        "--verify", metavar="NAMES", help="judge what is written: exact_match, numeric, algebra, or file.py:function"
    )
    parser.add_argument("--with", action="append", default=[], metavar="NAME.KEY=VALUE", help="settings of a verifier")
    parser.add_argument("--count", type=at_least(1), default=1, metavar="N", help="with --verify: answers to a row (1)")
    parser.add_argument("--tasks", metavar="NAMES", help="tasks of lm_eval, where it is installed: hellaswag,arc_easy")
    parser.add_argument(
        "--shots", type=at_least(0), metavar="N", help="with --tasks: solved examples before a question"
    )
    parser.add_argument("--task-folder", type=Path, metavar="FOLDER", help="with --tasks: YAML files of your own tasks")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results are kept (beside each run)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="the weights' number format")
    from trainwright.cli.after import sampling

    sampling.add_arguments(parser, temperature=0.0, top_p=1.0, tokens=256)
    args = parser.parse_args(argv)
    if args.tasks and (args.data or args.verify):
        parser.error("--tasks bring data and judgement of their own; leave out --data and --verify.")

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.trained.folders import find
    from trainwright.trained.measuring import evaluating
    from trainwright.trained.measuring.comparing import table

    models = [find(in_job.place_of(one)) for one in args.runs]
    data, measure, settings = _measurement(args, models)
    found = []
    for trained in models:
        with quiet():
            one = measure(trained)
        file = evaluating.keep(one, data, settings, args.out)
        job = in_job.tell(one, data)
        kept = [f"kept in {file}"] if file else []
        print("; ".join([f"Measured: {trained}", *kept, *([f"job {job}"] if job else [])]), flush=True)
        found.append(one)
    most, found = max(len(one.rows) for one in found), evaluating.on_the_same_rows(found)
    if len(found[0].rows) < most:
        print(f"{most - len(found[0].rows):,} rows cannot be measured of every model, and are left out.")
    print()
    print("\n".join(table([str(one.trained.folder) for one in found], evaluating.comparable(found))))
    if len({one.vocabulary for one in found}) > 1:
        print("The models have other tokens: losses are compared by bytes alone.")
    return 0


def _measurement(
    args: argparse.Namespace, models: Sequence[Trained]
) -> tuple[str, Callable[[Trained], Evaluation], dict[str, Any]]:
    """Return what is measured on, how, and with which settings, as a command line asks."""
    from trainwright.trained.loading import fastest_device
    from trainwright.trained.measuring import evaluating, rows, tasks

    device = fastest_device()
    if args.tasks:
        names = [name.strip() for name in args.tasks.split(",") if name.strip()]
        given = {"limit": args.limit, "shots": args.shots}
        by_tasks = tasks.by_tasks
        return (
            "-".join(names),
            lambda one: by_tasks(one, names, folder=args.task_folder, dtype=args.dtype, device=device, **given),
            {"tasks": names, **given},
        )
    data = rows.read(models[0], args.data, args.split, args.limit)
    print(f"{len(data.rows):,} rows of {data.name}", flush=True)
    settings = {"split": args.split, "limit": args.limit}
    if not args.verify:
        return data.name, lambda one: evaluating.by_loss(one, data, args.dtype, device, args.chat_template), settings
    return f"{data.name} answers", _by_answers(args, data, device), {**settings, "verify": args.verify}


def _by_answers(args: argparse.Namespace, data: Data, device: Any) -> Callable[[Trained], Evaluation]:
    """Return what has a model answer the rows and judges it; the answers are kept beside the results."""
    import tempfile

    from trainwright.cli.after import sampling
    from trainwright.rewards.functions import of_names
    from trainwright.trained.asking.writer import writer
    from trainwright.trained.measuring.answers import by_answers
    from trainwright.trained.measuring.evaluating import file_name
    from trainwright.trained.measuring.results import FOLDER

    verifiers = of_names([name.strip() for name in args.verify.split(",")], _settings(getattr(args, "with")))
    chosen = sampling.asked(args)

    def measure(trained: Trained) -> Evaluation:
        writing = writer(trained, chosen, dtype=args.dtype, device=device)
        with tempfile.TemporaryDirectory() as nowhere:
            place = args.out or (trained.run if trained.is_of_run else Path(nowhere))
            file = place / FOLDER / f"{file_name(trained, data.name)}.answers.jsonl"
            return by_answers(trained, writing, data, verifiers, file, count=args.count, seed=args.seed)

    return measure


def _settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of verifiers that a command line gives as NAME.KEY=VALUE, values as YAML.

    Raises:
        ConfigError: one is written otherwise.
    """
    import yaml

    from trainwright.errors import ConfigError

    found: dict[str, dict[str, Any]] = {}
    for word in given:
        key, equals, value = word.partition("=")
        name, dot, setting = key.rpartition(".")
        if not (equals and dot):
            raise ConfigError(f"--with {word}: NAME.KEY=VALUE is expected, such as numeric.tolerance=0.01.")
        found.setdefault(name, {})[setting] = yaml.safe_load(value)
    return found
