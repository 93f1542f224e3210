"""`trainwright demo rl` and the files of its page, at toy size: problems, both runs, a kill between, what is shown."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import yaml

from trainwright.cli.main import main
from trainwright.tasks.practice import show, start
from trainwright.verifiers.algebra import algebra

FEW = ["training.max_steps=2", "training.per_device_train_batch_size=16", "training.eval_steps=1",
       "training.save_steps=1", "training.save_total_limit=2"]  # fmt: skip
PAGE = Path(__file__).parents[3] / "docs" / "reinforcement.md"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "make_start", partial(start.make_start, worked=32, problems=32, unseen=12))
    return tmp_path


def test_no_problem_is_in_two_files_and_every_answer_is_right_by_the_checker(tmp_path):
    start.make_start(tmp_path, 3, worked=50, problems=60, unseen=40)
    names = ("worked", "problems", "unseen")
    each = {name: rows_of(tmp_path / f"{name}.jsonl") for name in names}
    prompts = [row["prompt"] for name in names for row in each[name]]
    assert len(prompts) == len(set(prompts)) == 150
    assert all(algebra(row["answer"], row["answer"], row["task"]) == 1 for row in each["unseen"])
    assert all(algebra(row["answer"] + " + x^7", row["answer"], row["task"]) == 0 for row in each["unseen"])
    tokenizer = start.new_tokenizer()
    for row in each["problems"]:
        text = row["prompt"] + row["answer"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.pad_token_id not in ids  # which stands for what is no token


def test_problems_and_weights_follow_from_the_seed():
    assert start.different_problems(1, 20) == start.different_problems(1, 20)
    assert start.different_problems(1, 20) != start.different_problems(2, 20)
    one, same, other = (start.new_model(seed).lm_head.weight for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.slow
def test_both_runs_go_on_where_they_were_killed_and_end_as_they_would_have(place, capsys):
    assert main(["demo", "rl", *FEW]) == 0
    out = capsys.readouterr().out
    folder, grpo = place / "runs" / "demo-rl", place / "runs" / "demo-rl" / "grpo"
    assert re.search(r"Of 12 problems never seen \d+\.\d% were right after supervised training and \d+\.\d% are", out)
    assert re.search(r"Where the likeliest token is always written, it is \d+\.\d% and \d+\.\d%\.", out)
    assert len(re.findall(r"^d/dx \(.+\)\n  before wrong  .*\n  after  (wrong|right)  ", out, re.MULTILINE)) == 10
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    last = (grpo / "completions" / "held-out-2-0-0.jsonl").read_text()
    weights = (grpo / "model.safetensors").read_bytes()

    for name in ("checkpoint-2", "model.safetensors", "config.json", "completions/held-out-2-0-0.jsonl"):
        path = grpo / name
        for file in path.iterdir() if path.is_dir() else [path]:
            file.unlink()
    (grpo / "checkpoint-2").rmdir()
    assert main(["demo", "rl", *FEW]) == 0
    assert (grpo / "completions" / "held-out-2-0-0.jsonl").read_text() == last
    assert (grpo / "model.safetensors").read_bytes() == weights
    capsys.readouterr()
    assert main(["demo", "rl", *FEW]) == 0
    assert (
        "Both runs are complete. Start anew with: rm -r runs/demo-rl && trainwright demo rl" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_the_files_of_the_page_train_one_after_the_other(place, capsys):
    start.make_start(place / "runs" / "demo-rl", 1)
    for name, text in re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (place / name).write_text(text)
        told = yaml.safe_load(text)["training"]
        few = [word for word in FEW if "eval_steps" not in word or "eval_steps" in told]
        assert main(["train", name, "training.use_cpu=true", *few]) == 0
    capsys.readouterr()
    assert main(["rl", "show", "runs/mine-grpo", "--step", "2", "-n", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * 8


def test_a_folder_of_ones_own_is_refused(place, capsys):
    assert main(["demo", "rl", "training.output_dir=there"]) == 2
    assert "demo rl has two runs" in capsys.readouterr().err


def test_the_curve_is_of_the_problems_that_were_never_seen():
    history = [{"step": 0, "eval_reward": 0.4}, {"step": 5, "reward": 0.3}, {"step": 10, "eval_reward": 0.9}]
    assert show.numbers(history, "eval_reward") == [(0, 0.4), (10, 0.9)]
    lines = show.in_letters(history)
    assert lines[0].strip().startswith("0.9 ┤")
    assert sum(line.count("●") for line in lines[:-1]) == 2
