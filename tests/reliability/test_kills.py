"""SIGKILL at any instant: every resume succeeds, and no more is lost than promised."""

from __future__ import annotations

import pytest
import torch

from tests.reliability import kills, victim
from trainwright.checkpoint import layout

pytestmark = pytest.mark.slow
WIDTH = 2560  # 6.6 million parameters: checkpoints of 79 MB


@pytest.mark.parametrize(
    ("foreign", "interval", "limit", "bound"), [(False, 1, 1, 2), (True, 2, 2, 2)], ids=["background", "synchronous"]
)
def test_kill_and_resume(tmp_path, foreign, interval, limit, bound):
    settings = {"max_steps": 10**6, "save_steps": interval, "save_total_limit": limit}
    given = {"settings": settings, "width": WIDTH, "foreign": foreign}
    tally = kills.kill_again_and_again(tmp_path / "run", given, kills=4, seed=limit)
    assert tally.most_lost <= bound  # one interval; in the background, also the steps trained during one write
    reached = layout.step_of(layout.checkpoints(tmp_path / "run")[-1])
    settings = {**settings, "max_steps": reached + 3}
    resumed = victim.run(tmp_path / "run", settings, width=WIDTH)
    straight = victim.run(tmp_path / "straight", {**settings, "save_strategy": "no"}, width=WIDTH)
    pairs = zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not list((tmp_path / "run").glob(".checkpoint*"))
