"""`trainwright checkpoint convert FSDP-CHECKPOINT FOLDER`: another engine's shards as a checkpoint to go on from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Convert a distributed checkpoint."""
    parser = argparse.ArgumentParser(
        prog="trainwright checkpoint", description="Write another engine's checkpoint as one that a run goes on from."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "torch's distributed checkpoints, as FSDP in accelerate and transformers writes them, as safetensors"
    convert = actions.add_parser("convert", help=text, description=text)
    convert.add_argument("source", type=Path, help="the folder that holds them, such as checkpoint-500")
    convert.add_argument("folder", type=Path, help="the folder to write, which must not be there")
    args = parser.parse_args(argv)

    from trainwright.checkpoint.sharded.convert import convert as write

    write(args.source, args.folder)
    print(f"Written: {args.folder}.")
    return 0
