"""Somebody from computer algebra: problems of their own, a small model, and a wrong answer explained."""

from __future__ import annotations

import re

import pytest

from tests.walks.shell import settle, typed

pytestmark = pytest.mark.slow
PROBLEMS = """import random


def sums(seed):
    chance = random.Random(seed)
    first, second = chance.randrange(100), chance.randrange(100)
    return f"{first} + {second}", first + second
"""


def test_from_a_function_of_a_seed_to_a_wrong_answer_explained(tmp_path, monkeypatch):
    folder = settle(tmp_path, monkeypatch)
    (folder / "mine.py").write_text(PROBLEMS)
    typed("trainwright algebra generate mine:sums data/sums --train 600 --test 40")
    assert "trainwright algebra train" in typed("trainwright init algebra --data data/sums")
    few = "train.max_steps=30 train.eval_steps=30 train.save_steps=30 model.d_model=32"
    said = typed(f"trainwright algebra train algebra.yaml {few}")
    assert re.search(r"^problem +\d+ \+ \d+\nexpected +\d+\nwritten ", said, re.MULTILINE), said
    assert list((folder / "home/jobs").glob("*/job.jsonl"))
