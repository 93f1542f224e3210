"""Two real processes generate what one does, every row once, and fail together."""

from __future__ import annotations

import json

import pytest

from tests import forked
from tests.tasks.algebra import task, two_ranks

pytestmark = pytest.mark.ranks


def test_two_ranks_generate_what_one_does_and_fail_together(tmp_path, monkeypatch):
    task.write(tmp_path)
    done = forked.ranks(["-m", "tests.tasks.algebra.two_ranks", tmp_path], cwd=tmp_path)
    assert not any(done.codes), done.said[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    monkeypatch.chdir(tmp_path)
    one = two_ranks.run(tmp_path, tmp_path / "one")
    assert ranks[0]["metrics"] == ranks[1]["metrics"] == one["metrics"]
    for name, count in (("all", 20), ("few", 5)):
        single, both = (
            json.loads((tmp_path / folder / "eval_results" / name / "step_0.json").read_text())
            for folder in ("one", "two")
        )
        assert both == single
        assert [row["row"] for row in both] == list(range(count))
    assert ranks[0]["told"].startswith("The evaluation failed on rank 1: RuntimeError('no generation on this rank')")
    assert ranks[1]["told"] == "no generation on this rank"
