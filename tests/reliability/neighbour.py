"""Another process on the disk: `python -m tests.reliability.neighbour FILE TIMES` fills it and makes room again."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def main(path: Path, times: int, most_full: float = 0.1, most_free: float = 0.02) -> None:
    """Fill the disk `times` times, each for a random while; print a line for each."""
    chance = random.Random(0)
    for _ in range(times):
        fill(path)
        print("full", flush=True)
        time.sleep(chance.uniform(0, most_full))
        path.unlink()
        time.sleep(chance.uniform(0, most_free))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
