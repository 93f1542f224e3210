"""Somebody with a robot: demonstrations, a policy, and the policy acting better than chance, filmed."""

from __future__ import annotations

import re

import pytest

from tests.walks.shell import settle, typed

pytest.importorskip("gymnasium", reason="gymnasium is in the extra `imitation`")
pytestmark = pytest.mark.slow


def test_from_an_experts_demonstrations_to_a_policy_that_acts(tmp_path, monkeypatch):
    folder = settle(tmp_path, monkeypatch)
    typed("trainwright init imitation")
    steps = "train.max_steps=100 train.eval_steps=100 train.save_steps=100 train.eval_on_start=false"
    few = f"{steps} rollout.episodes=4 data.record.episodes=8"
    typed(f"trainwright imitation train imitation.yaml {few}")
    said = typed("trainwright imitation eval runs/demo-imitation --episodes 4 --film pole.gif")
    returns = [float(number) for number in re.findall(r"return (\d+\.?\d*)", said)]
    assert returns, said
    assert max(returns) > 60  # chance holds the pole for 20 steps or so
    assert (folder / "pole.gif").read_bytes()[:4] == b"GIF8"
    assert list((folder / "home/jobs").glob("*/job.jsonl"))
