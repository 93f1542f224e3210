"""A team that writes YAML: from a commented file to a merged model that answers.

Every command is a process of its own with default settings, in an empty folder with a model and two files of rows.
"""

from __future__ import annotations

import json
import os
import re

import pytest

from tests import forked
from tests import tiny_language as tiny

pytest.importorskip("peft", reason="peft is in the extra `llm`")
pytestmark = pytest.mark.slow

ANSWERS = {
    "where is the cat": "on the mat",
    "where is the ball": "in the house",
    "who is happy": "the red dog",
    "who is sad": "the big cat",
}
EDITS = {  # what they change in the commented file
    "use_peft: false": "use_peft: true",
    "# chat_template: chatml  ": "chat_template: chatml  ",
    "# lora_target_modules: [q_proj, v_proj]": "lora_target_modules: all-linear",
    "learning_rate: 2e-5": "learning_rate: 2e-2",
    "num_train_epochs: 1": "num_train_epochs: 20",
    "# assistant_only_loss: true": "assistant_only_loss: true",
    "pack: true ": "pack: false",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINWRIGHT_JOBS")  # tests have it off; a person has not
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the tests' machine is shared
    tiny.new_model(initializer_range=0.1).save_pretrained("my-model")
    tiny.new_tokenizer().save_pretrained("my-model")
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in ANSWERS.items()
    ]
    tiny.write_rows(tmp_path / "train.jsonl", rows * 8)
    tiny.write_rows(tmp_path / "validation.jsonl", rows)
    return tmp_path


def typed(command, given=None, code=0):
    """Return what a command prints."""
    done = forked.run(["-m", "trainwright.cli.main", *command.split()], cwd=os.getcwd(), given=given)
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def test_from_a_commented_file_to_a_merged_model_that_answers(folder):
    assert "trainwright check sft.yaml && trainwright train sft.yaml" in typed("init sft sft.yaml")
    file = folder / "sft.yaml"
    text = file.read_text()
    for before, after in EDITS.items():
        assert before in text
        text = text.replace(before, after)
    file.write_text(text.replace("learning_rate", "learning_rte"))
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "learning_rate" in one)
    said = typed("check sft.yaml", code=2)
    assert f"sft.yaml:{line}" in said
    assert "learning_rate" in said

    file.write_text(text)
    said = typed("check sft.yaml")
    assert re.search(r"^steps +80, each of 8 rows; 20 passes over the data, which have 32 rows$", said, re.MULTILINE)
    assert re.search(r"^memory +.* weights .* optimizer ", said, re.MULTILINE)

    said = typed("train sft.yaml")
    history = json.loads((folder / "runs/sft-1/checkpoint-80/trainer_state.json").read_text())["log_history"]
    losses = [one["eval_loss"] for one in history if "eval_loss" in one]
    assert losses[-1] < losses[0]

    said = typed("merge runs/sft-1")
    assert "Written: runs/sft-1/merged." in said
    assert not list((folder / "runs/sft-1/merged").glob("adapter*"))

    said = typed("chat runs/sft-1/merged --temperature 0", "\n/reset\n".join(ANSWERS))
    assert said.splitlines()[-2 * len(ANSWERS) + 1 :: 2] == list(ANSWERS.values())

    said = typed("eval my-model runs/sft-1/merged --data validation.jsonl --chat-template chatml")
    assert "4/0/0" in said  # the merged model is better in every row
    assert list((folder / "runs/sft-1/evaluations").glob("*.json"))
    assert "eval/validation.jsonl/loss" in typed(f"jobs metrics {job_of(folder)}")


def job_of(folder):
    return json.loads(typed("jobs list --json"))[0]["id"]
