"""Two real processes share the episodes of a rollout, whose results are those of one, and fail together."""

from __future__ import annotations

import json

import pytest

from tests import forked
from tests.tasks.imitation import point, two_ranks
from trainwright.tasks.imitation.episodes import write_npz

pytestmark = pytest.mark.ranks


def test_two_ranks_share_the_episodes(tmp_path):
    write_npz(tmp_path / "point.npz", point.episodes(6), {})
    done = forked.ranks(["-m", "tests.tasks.imitation.two_ranks", tmp_path], cwd=tmp_path)
    assert not any(done.codes), done.said[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    one = two_ranks.run(tmp_path, tmp_path / "one")
    assert first["before"] == second["before"] == one["before"]
    assert first["after"] == second["after"]
    rows = [json.loads((tmp_path / folder / "rollouts" / "step_0.json").read_text()) for folder in ("one", "two")]
    assert rows[0] == rows[1]
    assert [row["seed"] for row in rows[1]] == list(range(10_000, 10_005))
    assert (tmp_path / "two" / "rollouts" / "step_2.gif").exists()
    assert first["told"].startswith("The evaluation failed on rank 1: RuntimeError('no world on this rank')")
    assert second["told"] == one["told"] == "no world on this rank"
