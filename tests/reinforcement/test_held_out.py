"""Rewards on prompts that are held out: what the policy earns there, at the same random numbers every time."""

from __future__ import annotations

import math

import pytest
import torch
import yaml

from tests.reinforcement import tiny_prompts as tiny
from trainwright import randomness
from trainwright.cli.main import main
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.errors import ConfigError, DataError
from trainwright.trainer.face import session_of

LETTERS = "letters"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("held-out"))


def built(place, out, validation=True, training=None, **kwargs):
    kwargs = {"reward_functions": [f"{place / 'rewards.py'}:{LETTERS}"], **kwargs}
    told = tiny.settings(place, output_dir=str(out), trainer_kwargs=kwargs, gradient_accumulation_steps=2)
    told["training"] |= {"max_steps": 2, "learning_rate": 1e-2, **(training or {})}
    if validation:
        told["data"]["validation"] = {"datasets": [{"dataset_name": str(place / "prompts.jsonl"), "sample_count": 5}]}
        told["training"] |= {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    out.mkdir(exist_ok=True)
    (out / "run.yaml").write_text(yaml.safe_dump(told))
    return build_trainer(load_checked(out / "run.yaml").config)


def test_the_mean_is_that_of_completions_made_by_transformers(place, tmp_path):
    trainer = built(place, tmp_path, temperature_eval=0.0)
    found = trainer.evaluate()
    model, tokenizer, earned, lengths = trainer.model.eval(), trainer.processing_class, [], []
    for row in session_of(trainer).stage.held_out.rows:
        ids = tokenizer(row["prompt"], return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        lengths.append(len(made))
        if row["answer"] != "none":  # of which there is no reward
            earned.append(tokenizer.decode(made, skip_special_tokens=True).count("a") / 10)
    assert len(earned) == 4
    assert math.isclose(found["eval_reward"], sum(earned) / 4, abs_tol=1e-12)
    assert found["eval_rewards/letters/mean"] == found["eval_reward"]
    assert found["eval_completions/mean_length"] == sum(lengths) / 5


def test_an_evaluation_moves_no_number_of_training(place, tmp_path):
    weights, rewards = [], []
    for name in (True, False):
        trainer = built(place, tmp_path / str(name), validation=name)
        trainer.train()
        weights.append(torch.cat([value.flatten() for value in trainer.model.state_dict().values()]))
        rewards.append([one["reward"] for one in trainer.state.log_history if "reward" in one])
        if name:
            evaluations = [one for one in trainer.state.log_history if "eval_reward" in one]
            assert [one["step"] for one in evaluations] == [0, 1, 2]
    assert torch.equal(*weights)
    assert rewards[0] == rewards[1]


def test_two_evaluations_of_a_policy_are_the_same_and_the_streams_stay(place, tmp_path):
    trainer = built(place, tmp_path, num_generations_eval=3, temperature=2.0)
    before = randomness.host_states()
    one, other = trainer.evaluate(), trainer.evaluate()
    assert {name: value for name, value in one.items() if "per_second" not in name and "runtime" not in name} == {
        name: other[name] for name in one if "per_second" not in name and "runtime" not in name
    }
    assert str(randomness.host_states()) == str(before)


def test_what_was_written_after_them_is_shown(place, tmp_path, capsys):
    built(place, tmp_path, temperature_eval=0.0).train()
    capsys.readouterr()
    assert main(["rl", "show", str(tmp_path), "--held-out", "--step", "1", "-n", "9"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path}/completions/held-out-1-0-0.jsonl: 5 completions"
    assert [line.split()[2] for line in lines if line.startswith("---")] == [f"{n}:" for n in range(5)]


def test_other_prompts_than_those_of_the_file_are_refused(place, tmp_path):
    trainer = built(place, tmp_path)
    with pytest.raises(DataError, match="data.validation"):
        trainer.evaluate(trainer.train_dataset)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature_eval": -1.0}, "temperature_eval -1 is not 0 or above"),
        ({"num_generations_eval": 0}, "num_generations_eval 0 is less than 1"),
        ({"num_generations_eval": 2, "temperature_eval": 0.0}, "all 2 completions of a prompt would be the same"),
    ],
)
def test_what_cannot_be_evaluated_is_told(place, tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        built(place, tmp_path, **changes)
