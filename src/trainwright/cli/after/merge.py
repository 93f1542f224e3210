"""`trainwright merge runs/lora-1`: an adapter merged into its base, and compared with what it was made of."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def run(argv: Sequence[str]) -> int:
    """Write the model that needs neither base nor adapter, and say how close it is to both together."""
    parser = argparse.ArgumentParser(
        prog="trainwright merge",
        description="Merge an adapter into its base, into a folder of its own, and compare the logits of both.",
    )
    parser.add_argument("run", help="a run's folder, the name of its job, a checkpoint, or the folder of an adapter")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="where to (merged, in the run's folder)")
    parser.add_argument("--dtype", choices=DTYPES, help="the weights' number format (that of the training)")
    parser.add_argument("--overwrite", action="store_true", help="a model that lies there gives way")
    args = parser.parse_args(argv)

    from trainwright.cli.after import in_job
    from trainwright.cli.after.quiet import quiet
    from trainwright.trained.folders import find
    from trainwright.trained.making.merging import merge_adapter

    trained = find(in_job.place_of(args.run))
    print(f"Merging {trained} ...", flush=True)
    with quiet():
        merged = merge_adapter(trained, args.out, args.dtype, args.overwrite)
    print(f"Written: {merged.folder}.")
    print(f"Compared: {merged.agreement}.")
    print(f"Next: {shlex.join(['trainwright', 'chat', str(merged.folder)])}")
    return 0
