"""Looking at checkpoints with several processes: each file is read once, by one of them."""

from __future__ import annotations

import socket
from pathlib import Path

from trainwright.checkpoint import check, folder
from trainwright.checkpoint.check import CorruptCheckpoint
from trainwright.errors import ConfigError, TrainwrightError
from trainwright.parallel.strategy import Strategy


def choose(strategy: Strategy, output: Path, wanted: str | Path | bool) -> tuple[Path, list[CorruptCheckpoint]]:
    """Return the checkpoint to go on from, and what is wrong with those passed over; see `check.choose`.

    The first process decides what is looked at, and all of them look. All call it at the same place.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """

    def look(place: Path | None) -> CorruptCheckpoint | None:
        shown: Path | None = strategy.from_main(place)
        found = strategy.gather(None if shown is None else check.damage(shown, strategy.share))
        looked.append(shown)
        return next((one for one in found if one is not None), None)

    looked: list[Path | None] = []
    chosen, error = None, None
    if strategy.is_main:
        try:
            chosen = check.choose(output, wanted, look)
        except TrainwrightError as raised:
            error = raised
        look(None)
    while not looked or looked[-1] is not None:
        look(None)
    found: tuple[Path, list[CorruptCheckpoint]]
    found, error = strategy.from_main((chosen, error))
    if error is not None:
        raise error
    return found


def damage(strategy: Strategy, place: Path) -> CorruptCheckpoint | None:
    """Return what is wrong with a checkpoint, or None; all processes call it at the same place."""
    found = strategy.gather(check.damage(place, strategy.share))
    return next((one for one in found if one is not None), None)


def check_shared(strategy: Strategy, run_folder: Path) -> None:
    """See whether the run's folder is the same for all processes, as each of them writes a part of a checkpoint there.

    Raises:
        ConfigError: it is not.
    """
    made = strategy.on_main(lambda: folder.probe(run_folder))
    seen = strategy.gather((socket.gethostname(), made.is_dir()))
    strategy.on_main(made.rmdir)
    blind = [f"process {number} on {host}" for number, (host, sees) in enumerate(seen) if not sees]
    if blind:
        raise ConfigError(
            f"output_dir '{run_folder}' is not one folder for all processes: {', '.join(blind[:3])}"
            f"{' and others' if len(blind) > 3 else ''} cannot see what the first one writes there. Every process "
            "writes a part of a sharded checkpoint, so give a folder on a disk that all machines share."
        )
