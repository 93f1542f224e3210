"""`trainwright plan run.yaml --gpus 32 --memory 80`: what each layout of some GPUs needs, and which is best."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.cli.numbers import at_least

if TYPE_CHECKING:
    from trainwright.tasks.language.planning.layouts import Need

_PARTS = ("parameters", "moments", "gradients", "activations", "logits", "buffers")


def run(argv: Sequence[str]) -> int:
    """Print a table of layouts with their memory by parts and what they send, and the settings of the best."""
    parser = argparse.ArgumentParser(
        prog="trainwright plan", usage="trainwright plan FILE --gpus N --memory GB [--per-machine N] [KEY=VALUE ...]",
        description="Tell what each layout of some GPUs needs; no GPU and no weights are read.",
    )  # fmt: skip
    parser.add_argument("-c", "--config", type=Path, help="the run's YAML file; -c may be left out")
    parser.add_argument("--gpus", type=at_least(1), required=True, help="processes, each with a GPU")
    parser.add_argument("--memory", type=at_least(0.001), required=True, help="of a GPU, in GB (10^9 bytes)")
    parser.add_argument("--per-machine", type=at_least(1), default=8, help="GPUs of a machine (8)")
    args, words = parser.parse_known_args(argv)

    from trainwright.cli.after.quiet import quiet
    from trainwright.cli.files import file_and_overrides
    from trainwright.config.reading.read import load_checked
    from trainwright.tasks.language.planning import layouts
    from trainwright.tasks.language.planning.sizes import by_tensor

    file, overrides = file_and_overrides(args.config, words, "plan")
    config = load_checked(file, overrides).config
    params, room = config.training, args.memory * 1e9
    rows, micro_batches = params.per_device_train_batch_size, params.gradient_accumulation_steps
    with quiet():
        sizes = {one.tensor: one for one in by_tensor(config, args.gpus, args.per_machine)}
    found = [need for one in sizes.values() for need in layouts.needs(one, args.gpus, args.per_machine, rows)]
    print(f"GB of one process, at the peak of a step of {micro_batches} micro-batches of {rows} rows:")
    print("  ".join(f"{name:>11}" for name in (*_PARTS, "at the peak", "sent a step")) + "  fits  layout")
    for one in found:
        print(_line(one, layouts.fits(one, room)))
    best = layouts.best(found, room)
    if best is None:
        print(f"None fits {args.memory:g} GB: take more GPUs, fewer rows in a micro-batch, or recompute activations.")
        return 1
    most = layouts.most_rows(sizes[best.layout.tensor], best.layout, room)
    print(f"Best: {' '.join(layouts.overrides(best)) or 'nothing to set'}; up to {most} rows in a micro-batch.")
    return 0


def _line(one: Need, fits: bool) -> str:
    values = [*(getattr(one, name) for name in _PARTS), one.peak, one.sent]
    each = "  ".join(f"{value / 1e9:>11.3f}" for value in values)
    reduced = ", gradients reduced in every micro-batch" if one.reduce_often else ""
    return f"{each}  {'yes' if fits else 'no':<4}  {_name(one)}{reduced}"


def _name(one: Need) -> str:
    whole = one.layout.shard == one.layout.tensor == 1
    return f"{one.layout.size} whole copies (DDP)" if whole else one.layout.describe()
