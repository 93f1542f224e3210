"""Several cases in one launch of some ranks: each writes what it found, or how it failed, as JSON."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.installed import lacking

Case = Callable[[Path], Any]
HANGS = 600  # seconds: no case takes more than one


class Found(dict[str, Any]):
    """What was found, by case; a test that asks for one which the installed versions cannot run is skipped."""

    def __missing__(self, case: str) -> Any:
        if lack := lacking(case):
            pytest.skip(lack)
        raise KeyError(case)


def launched(script: str | Path, folder: Path, ranks: int = 2, cases: Sequence[str] = ()) -> list[Found]:
    """Run all cases of a script on some ranks, or some of them; return what each rank found, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    done = forked.ranks([Path(__file__).parent / script, folder, *cases], ranks, timeout=HANGS)
    assert not any(done.codes), done.said[-5000:]
    return [Found(json.loads((folder / f"rank{rank}.json").read_text())) for rank in range(ranks)]


def run_all(cases: dict[str, Case], only: list[str]) -> None:
    """Run the cases on this rank, in the folder that is the script's argument; further arguments choose some."""
    from torch import distributed

    from trainwright.world import current_world

    folder, found = Path(sys.argv[1]), {}
    for name, case in cases.items():
        if only and name not in only or lacking(name):
            continue
        place = folder / name.replace(" ", "_")
        try:
            found[name] = case(place)
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-2000:]}
        if distributed.is_initialized():
            distributed.barrier()
    (folder / f"rank{current_world().rank}.json").write_text(json.dumps(found))
