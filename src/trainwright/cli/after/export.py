"""`trainwright export runs/sft-1`: a model for others, in a folder of its own or on the hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from trainwright.cli.numbers import size


def run(argv: Sequence[str]) -> int:
    """Write the model of a run with a card, and push it where that is asked for."""
    parser = argparse.ArgumentParser(
        prog="trainwright export",
        description="Write a model for others: safetensors in shards, tokenizer and card; an adapter is merged.",
    )
    parser.add_argument("run", help="a run's folder, the name of its job, a checkpoint, or a model's folder")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="where to (export, in the run's folder)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="the weights' number format (that of the training)"
    )
    parser.add_argument(
        "--shard", type=size, default="5GB", metavar="SIZE", help="the most that a file of weights holds (5GB)"
    )
    parser.add_argument("--adapter", action="store_true", help="the adapter alone, to be loaded onto its base")
    parser.add_argument("--overwrite", action="store_true", help="a model that lies there gives way")
    parser.add_argument("--push", metavar="NAME", help="also to this repository of the Hugging Face hub, private")
    parser.add_argument("--public", action="store_true", help="with --push: everyone may see it")
    args = parser.parse_args(argv)
    if args.public and not args.push:
        parser.error("--public is of --push NAME, which is not given.")

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.jobs.store import masking
    from trainwright.trained.folders import find
    from trainwright.trained.making.exporting import export, push

    trained = find(in_job.place_of(args.run))
    print(f"Exporting {trained} ...", flush=True)
    with quiet():
        exported = export(
            trained, args.out, dtype=args.dtype, shard=args.shard, adapter=args.adapter, anew=args.overwrite,
            name=args.push and args.push.rpartition("/")[2], shown=masking.params,
        )  # fmt: skip
    files = f"{exported.files} file{'' if exported.files == 1 else 's'}"
    print(f"Written: {exported.folder}, {exported.size / 1e6:.3g} MB of weights in {files}, and README.md.")
    if exported.agreement is not None:
        print(f"Compared: {exported.agreement}.")
    if args.push:
        made = push(exported, args.push, args.public)
        print(f"Pushed: https://huggingface.co/{made}, {'for everyone' if args.public else 'private'}.")
    return 0
