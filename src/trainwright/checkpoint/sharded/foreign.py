"""Going on from what other engines have written in shards: as a copy that a run reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainwright.checkpoint import layout

CONVERTED = "converted"  # in a run's folder


def readable(output: Path, wanted: str | Path | bool, note: Callable[[str], None]) -> str | Path | bool:
    """Return what is to be gone on from, once torch's shards are ones that a run reads: a folder of them, or the newest
    checkpoint of the run's folder where it is one, is converted into `converted/` there, unless that was done before.

    Raises:
        CheckpointError: it cannot be converted.
    """
    own = layout.checkpoints(output)
    chosen = Path(wanted) if not isinstance(wanted, bool) else own[-1] if own else None
    if chosen is None or not [*chosen.glob(".metadata"), *chosen.glob("*/.metadata")]:
        return wanted
    place = output / CONVERTED / chosen.name
    if not place.exists():
        from trainwright.checkpoint.sharded.convert import convert  # which loads torch's own checkpoints

        place.parent.mkdir(exist_ok=True)
        convert(chosen, place)
        note(f"'{chosen}' holds torch's shards, and was converted to '{place}', from where the run goes on.")
    return place
