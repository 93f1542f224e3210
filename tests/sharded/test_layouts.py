"""A checkpoint of any layout is resumed in any other one: the same state, the same rows; in the same one, the same
bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ranks import launch
from tests.sharded import runs
from trainwright.checkpoint import check, layout

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
SCRIPT = Path(runs.__file__)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank found, case by case: one process, then two, then four, then one again."""
    folder = tmp_path_factory.mktemp("layouts")
    ranks = {"one": [runs.trained(folder / "one")]}
    for count, names in {2: ["two", "two, stopped", "two from one"], 4: ["four", "four replicated"]}.items():
        launched = launch.launched(SCRIPT, folder, count, names)
        ranks |= {name: [one[name] for one in launched] for name in names}
    ranks["one from two"] = [runs.resumed(folder / "one from two", None, "two")]
    ranks["one from four"] = [runs.resumed(folder / "one from four", None, "four_replicated")]
    ranks["folder"] = folder
    return ranks


def of(found, case):
    """Return what the ranks found, which all must have."""
    for rank in found[case]:
        assert "error" not in rank, rank
    return found[case]
