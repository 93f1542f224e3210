"""Going on from a second place: the newest whole checkpoint there, where the run's own folder has none as new."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainwright.checkpoint import check, folder, layout
from trainwright.checkpoint.check import CorruptCheckpoint
from trainwright.checkpoint.mirror.remote import NotWholeError, Remote
from trainwright.checkpoint.sharded import verify
from trainwright.checkpoint.writer import reason_of
from trainwright.errors import CheckpointError, TrainwrightError
from trainwright.parallel.strategy import Strategy

Note = Callable[[str], None]
T = TypeVar("T")


def holds_any(address: str) -> bool:
    """Whether a run has written to a place.

    Raises:
        CheckpointError: it cannot be read.
    """
    return _read(Remote(address), Remote.latest) is not None


def choose(
    strategy: Strategy, output: Path, wanted: str | Path | bool, address: str | None, note: Note
) -> tuple[Path, list[CorruptCheckpoint]]:
    """Return the checkpoint to go on from, and what is wrong with those passed over: as `verify.choose`, unless a newer
    one of the run lies at the address, which is brought into the run's folder. All processes call it at the same place.

    Raises:
        CheckpointError: there is none, or it is damaged, or the address cannot be read.
    """
    if address is None or not isinstance(wanted, bool):
        return verify.choose(strategy, output, wanted)
    chosen: Path | None = None
    passed_over: list[CorruptCheckpoint] = []
    none: CheckpointError | None = None
    try:
        chosen, passed_over = verify.choose(strategy, output, wanted)
    except CheckpointError as error:
        none = error
    brought: Path | None = strategy.on_main(lambda: newest(Remote(address), output, chosen, note))
    if brought is None:
        if none is not None:
            raise CheckpointError(f"{none} Nor does {address} hold one.")
        assert chosen is not None
        return chosen, passed_over
    strategy.on_all(lambda: _bring_here(strategy, Remote(address), output, brought, note))
    return brought, passed_over


def newest(remote: Remote, output: Path, own: Path | None, note: Note) -> Path | None:
    """Bring the newest whole checkpoint of the run that wrote last into a run's folder, and the best one with it.

    Args:
        remote: the place.
        output: the run's folder.
        own: the newest whole checkpoint in it, if there is one: then only a newer one of the same run is brought.
        note: is told which were passed over, and which is brought.

    Returns:
        Where it lies now; None where there is none, or none that is newer.

    Raises:
        CheckpointError: the place cannot be read.
    """
    latest = _read(remote, Remote.latest)
    if latest is None or (own is not None and folder.run_of(own) != latest[0]):
        return None
    run_id, there = latest[0], _read(remote, lambda remote: remote.checkpoints(latest[0]))
    steps = {layout.step_of(Path(name)): name for name in there}
    least, most = -1 if own is None else layout.step_of(own), layout.step_of(Path(latest[1]))
    for step in sorted(steps, reverse=True):
        name = steps[step]
        if not least < step <= most:  # what comes after the newest is of another past
            continue
        fault = bring(remote, run_id, name, there[name], output)
        if fault is None:
            note(f"{name} was copied from {remote.address}.")
            _bring_best(remote, run_id, there, output / name, note)
            return output / name
        note(f"Passed over {name} of {remote.address}: it {fault}.")
    return None


def bring(remote: Remote, run_id: str, name: str, sizes: dict[str, int], output: Path) -> str | None:
    """Copy a checkpoint into a run's folder, where it appears once it was compared with its checksums.

    Returns:
        Why it cannot be used, as the end of a sentence; None where it lies there.

    Raises:
        CheckpointError: the place cannot be read, or the folder not be written.
    """
    temporary = folder.open_temporary(output / name)
    try:
        files = _read(remote, lambda remote: remote.manifest(run_id, name, sizes))["files"]
        _read(remote, lambda remote: remote.bring(run_id, name, list(files), temporary))
        damage = check.damage(temporary)
        if damage is not None:
            return f"is damaged: {damage.reason}"
        folder.publish(temporary, output / name)
    except NotWholeError as error:
        return str(error)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None


def _bring_best(remote: Remote, run_id: str, there: dict[str, dict[str, int]], chosen: Path, note: Note) -> None:
    """Bring the best checkpoint so far, where the chosen one names another."""
    best = json.loads((chosen / layout.RUN).read_text(encoding="utf-8")).get("best")
    if best in (None, chosen.name) or best not in there or (chosen.parent / best).exists():
        return
    fault = bring(remote, run_id, best, there[best], chosen.parent)
    if fault is not None:
        note(f"The best checkpoint, {best} of {remote.address}, cannot be used: it {fault}.")


def _bring_here(strategy: Strategy, remote: Remote, output: Path, brought: Path, note: Note) -> None:
    """Bring what the first process has chosen to a machine that does not see its folder."""
    if brought.exists() or not strategy.is_local_main:
        return
    output.mkdir(parents=True, exist_ok=True)
    if newest(remote, output, None, note) != brought:
        raise CheckpointError(f"{brought} could not be copied from {remote.address} to every machine. Start again.")


def _read(remote: Remote, call: Callable[[Remote], T]) -> T:
    """Return what a place answers.

    Raises:
        CheckpointError: it does not.
        NotWholeError: what is asked for is not whole.
    """
    try:
        return call(remote)
    except (TrainwrightError, NotWholeError):
        raise
    except Exception as error:  # what a file system raises is its own
        raise CheckpointError(
            f"checkpoint_mirror='{remote.address}' cannot be read: {reason_of(error)}. Whether the run has begun is "
            "not known without it: mend that, or leave checkpoint_mirror out to begin anew."
        ) from error
