"""`trainwright eval runs/a runs/b --data rows.jsonl`: models measured on the same rows, and beside each other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.numbers import at_least


def run(argv: Sequence[str]) -> int:
    """Measure models on data, show the metrics with their intervals, and keep them beside the runs."""
    parser = argparse.ArgumentParser(
        prog="trainwright eval",
        usage="trainwright eval RUN [RUN ...] [--data FILE] [--split NAME] [--limit N] [--out FOLDER]\n"
        "                        [--dtype FORMAT]",
        description="Measure models on data: loss, perplexity, accuracy of tokens; several beside each other.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, a checkpoint, or a model's folder")
    parser.add_argument(
        "--data", metavar="FILE", help="rows, or a run's YAML file (the first run's test or validation)"
    )
    parser.add_argument("--split", default="train", help="which part of the data (train)")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="the first N rows alone")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results are kept (beside each run)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="the weights' number format")
    args = parser.parse_args(argv)

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.trained.folders import find
    from trainwright.trained.loading import fastest_device
    from trainwright.trained.measuring import evaluating, rows
    from trainwright.trained.measuring.comparing import table

    models = [find(one) for one in args.runs]
    data = rows.read(models[0], args.data, args.split, args.limit)
    print(f"{len(data.rows):,} rows of {data.name}", flush=True)
    found = []
    for trained in models:
        with quiet():
            one = evaluating.by_loss(trained, data, args.dtype, fastest_device())
        file = evaluating.keep(one, data, {"split": args.split, "limit": args.limit}, args.out)
        job = in_job.tell(one, data.name)
        kept = [f"kept in {file}"] if file else []
        print("; ".join([f"Measured: {trained}", *kept, *([f"job {job}"] if job else [])]), flush=True)
        found.append(one)
    found = evaluating.on_the_same_rows(found)
    if len(found[0].rows) < len(data.rows):
        left = len(data.rows) - len(found[0].rows)
        print(f"{left:,} rows have nothing to measure, of one model or all, and are left out.")
    print()
    print("\n".join(table([str(one.trained.folder) for one in found], evaluating.comparable(found))))
    if len({one.vocabulary for one in found}) > 1:
        print("The models have other tokens, so that their losses are compared by bytes alone.")
    return 0
