"""What the exchange of a step costs: `torchrun --nproc-per-node 16 -m benchmarks.exchange`, on gloo.

Every rank sends as many numbers as a step does, and has those of all; the first one prints the median of the fastest
half, which other work on the machine disturbs least, and the median of all.
"""

from __future__ import annotations

import statistics
import time

import torch

from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.strategy import ProcessOptions
from trainwright.world import current_world

NUMBERS, TIMES = 14, 200


def main() -> None:
    """Measure, and print a line."""
    torch.set_num_threads(1)
    strategy, world = DataParallel(), current_world()
    strategy.setup(world, torch.device("cpu"), ProcessOptions(backend="gloo"))
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        strategy.agree(*range(NUMBERS))
        taken.append(time.perf_counter() - began)
    taken.sort()
    if strategy.is_main:
        fast, whole = (1e3 * statistics.median(part) for part in (taken[: TIMES // 2], taken))
        print(f"{world.size} ranks: {fast:.2f} ms of the fastest half, {whole:.2f} ms of all")


if __name__ == "__main__":
    main()
