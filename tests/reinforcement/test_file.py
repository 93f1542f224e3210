"""GRPO and RLOO from a file: every setting arrives, and what cannot be is told in one sentence before work starts."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import yaml

from tests.reinforcement import tiny_prompts as tiny
from tests.tiny_language import write_rows
from trainwright.cli.main import main
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.errors import DataError, TrainwrightError
from trainwright.reinforcement.samples import shown
from trainwright.session.symptoms import Symptoms
from trainwright.tasks.language.synced import Syncing
from trainwright.trainer.face import session_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("file"))


def built(place, out, kind="GRPO", training=None, **kwargs):
    told = tiny.settings(place, output_dir=str(out), trainer_kwargs=kwargs, gradient_accumulation_steps=2)
    told["training"] |= {"trainer_type": kind, **(training or {})}
    if kind == "RLOO":
        told["training"]["trainer_kwargs"].pop("loss_type")
    file = out / "run.yaml"
    file.write_text(yaml.safe_dump(told))
    return build_trainer(load_checked(file).config)


GIVEN = {
    "num_generations": 2, "max_completion_length": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 7, "min_p": 0.01,
    "repetition_penalty": 1.1, "stop": ["dog"], "generation_batch_size": 16, "num_iterations": 3,
    "reward_weights": [0.5, 2.0], "reward_timeout": 3.0, "reward_processes": 2, "beta": 0.2, "epsilon": 0.1,
    "epsilon_high": 0.3, "mask_truncated_completions": True, "disable_dropout": False, "shuffle_dataset": False,
    "sync_ref_model": True, "ref_model_mixup_alpha": 0.3, "ref_model_sync_steps": 7,
    "pad_to_multiple_of": 16, "pad_token": "<|im_start|>",
}  # fmt: skip
OF_GRPO = {
    "loss_type": "cispo", "importance_sampling_level": "sequence", "delta": 2.0, "cispo_high": 4.0,
    "scale_rewards": "batch", "kl_estimator": "k2", "use_bias_correction_kl": False, "off_policy_mask_threshold": 0.5,
    "top_entropy_quantile": 0.5, "entropy_coef": 0.01, "sampler_correction": "token_mask",
    "sampler_correction_max": 2.0, "sampler_correction_min": 0.5, "sapo_temperature_pos": 1.1,
    "sapo_temperature_neg": 1.2, "vespo_k_pos": 2.1, "vespo_lambda_pos": 3.1, "vespo_k_neg": 3.2,
    "vespo_lambda_neg": 2.2,
}  # fmt: skip
OF_RLOO = {"reward_clip_range": [-1.0, 0.5], "normalize_advantages": True}


@pytest.mark.parametrize(("kind", "own"), [("GRPO", OF_GRPO), ("RLOO", OF_RLOO)])
def test_every_setting_arrives(place, tmp_path, kind, own):
    session = session_of(built(place, tmp_path, kind, **GIVEN, **own))
    stage, settings = session.stage, session.stage.rollouts.settings
    assert {name: getattr(session.objective.options, name) for name in own} == own  # of which the losses are functions
    sampled = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    assert {name: getattr(settings, name) for name in sampled} == {name: GIVEN[name] for name in sampled}
    assert (settings.max_new_tokens, settings.stop) == (9, ("dog",))
    schedule = stage.schedule
    assert (schedule.completions, schedule.group, schedule.iterations) == (16, 2, 3)
    assert schedule.order.sampling == session.args.train_sampling_strategy == "sequential"
    assert len(stage.pool._workers) == 2
    assert stage.pool._workers[0].timeout == 3.0
    assert [one.name for one in stage.pool.rewards] == ["lucky", "letters"]
    assert (stage.multiple, stage.pad) == (16, session.processing_class.convert_tokens_to_ids("<|im_start|>"))
    assert session.objective.reference is not None
    assert stage.options is session.objective.options
    syncing = [one for one in session.callback_handler.callbacks if isinstance(one, Syncing)]
    assert [(one.steps, one.synced.alpha) for one in syncing] == [(7, 0.3)]


def test_a_named_reference_is_the_reference(place, tmp_path):
    session = session_of(built(place, tmp_path, beta=0.1, ref_model=str(place / "model")))
    assert session.objective.reference is not session.model


def test_generations_are_as_many_micro_batches_as_asked_for(place, tmp_path):
    assert session_of(built(place, tmp_path, steps_per_generation=6)).stage.schedule.completions == 24
    assert session_of(built(place, tmp_path)).stage.schedule.completions == 8  # those of a step


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_generations": 1}, "leaves nothing to compare a completion with"),
        ({"num_generations": 3}, "does not divide into groups of num_generations=3"),
        ({"steps_per_generation": 2, "generation_batch_size": 8}, "say one thing"),
        ({"generation_batch_size": 800}, "A generation has 200 prompts, but the data has 12 alone"),
        ({"max_completion_length": 500}, "the model has 128 positions"),
        ({"loss_type": "grpp"}, "loss_type 'grpp' is not known"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": 0}, "with temperature 0 all completions of a prompt would be the same"),
        ({"reward_functions": []}, "there is no reward"),
        ({"reward_functions": ["exact_mach"]}, "Did you mean 'exact_match'"),
        ({"reward_functions": ["json:dumps"]}, "it must take `completions`"),
        ({"reward_functions": ["nowhere.at.all:f"]}, "cannot be imported"),
        ({"reward_functions": ["numeric"], "reward_function_kwargs": {"numeric": {"tol": 1}}}, "takes no 'tol'"),
        ({"reward_functions": ["matches"], "reward_function_kwargs": {"match": {}}}, "none of reward_functions"),
        ({"reward_weights": [1.0]}, "1 reward_weights for 2 reward_functions"),
        ({"epsilon": 2.0}, "epsilon is not between"),
        ({"delta": 1.1}, "delta 1.1 is within what is clipped anyway"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_work_starts(place, tmp_path, changes, told):
    with pytest.raises(TrainwrightError) as caught:
        built(place, tmp_path, **changes)
    assert told in str(caught.value)


def test_the_steps_that_check_tells_are_those_of_a_pass(place, tmp_path, capsys):
    training = {"max_steps": -1, "num_train_epochs": 1}
    trainer = built(place, tmp_path, training=training, num_iterations=2, steps_per_generation=5)
    assert len(trainer.train_dataset) == 2 * 20 * 2  # generations of 20 completions, of 5 prompts; 2 prompts are left
    assert main(["check", str(tmp_path / "run.yaml")]) == 0
    told = capsys.readouterr().out
    assert "10, each of 8 rows (4 × 2 micro-batches); 1 pass over the data, which have 12 rows" in told


ROWS = {
    "prompts": [{"prompt": f"the cat {n}", "answer": "1"} for n in range(8)],
    "long": [{"prompt": "the cat " * 60, "answer": "1"}] * 8,
    "empty": [{"prompt": "", "answer": "1"}] * 8,
}


@pytest.mark.parametrize(
    ("rows", "changes", "told"),
    [
        ("prompts", {"max_completion_length": 500}, "the model has 128 positions. Make either shorter"),
        ("long", {}, "and max_completion_length is 12, but the model has 128 positions"),
        ("empty", {}, "The prompt of row 0 is empty"),
        ("prompts", {"reward_functions": ["algebra"]}, "'algebra' takes 'task', and neither the rows nor"),
        ("prompts", {"reward_functions": ["{place}/rewards.py:letter"]}, "has no 'letter'. Did you mean 'letters'?"),
        ("prompts", {"num_generations": 3}, "does not divide into groups of num_generations=3"),
        ("prompts", {"num_generations": 1}, "leaves nothing to compare a completion with"),
        ("prompts", {"endless": True}, "Neither the tokenizer nor the model has an end token"),
        ("prompts", {"best": "loss"}, "measures no 'loss' on prompts that are held out"),
        ("prompts", {"best": "eval_rewards/letter/mean"}, "measured are reward, reward_std, rewards/lucky/mean"),
        ("prompts", {"beta": 0.1, "ref_model": "/not/there"}, "there is no folder '/not/there'"),
    ],
)  # fmt: skip
def test_check_tells_what_the_first_rows_and_the_folder_of_the_model_show(place, tmp_path, capsys, rows, changes, told):
    kwargs = {**changes, "reward_functions": [one.format(place=place) for one in changes.get("reward_functions", ())]}
    kwargs = {name: value for name, value in kwargs.items() if name not in ("endless", "best") and value != []}
    given = tiny.settings(place, output_dir=str(tmp_path / "out"), trainer_kwargs=kwargs, gradient_accumulation_steps=2)
    given["data"]["train"]["datasets"] = [{"dataset_name": str(write_rows(tmp_path / "rows.jsonl", ROWS[rows]))}]
    if changes.get("best"):
        given["training"] |= {"save_strategy": "best", "eval_strategy": "steps"}
        given["training"]["metric_for_best_model"] = changes["best"]
        given["data"]["validation"] = given["data"]["train"]
    if changes.get("endless"):
        shutil.copytree(place / "model", tmp_path / "model")
        for file in (tmp_path / "model").glob("*config.json"):
            told_of = json.loads(file.read_text())
            kept = {name: value for name, value in told_of.items() if name != "eos_token"}
            file.write_text(json.dumps(kept | {"eos_token_id": None}))
        given["model"]["model_name"] = str(tmp_path / "model")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    assert main(["check", str(tmp_path / "run.yaml")]) == 2
    assert told in capsys.readouterr().err


def test_data_without_prompts_is_refused(place, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "w", "answer": "x"}\n' * 4)
    data = {"train": {"datasets": [{"dataset_name": str(tmp_path / "rows.jsonl")}]}}
    told = tiny.settings(place, output_dir=str(tmp_path)) | {"data": data}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(DataError, match="question: prompt"):
        build_trainer(load_checked(tmp_path / "run.yaml").config)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_the_file_of_init_is_right(place, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    assert main(["init", kind, "run.yaml"]) == 0
    changes = [
        "training.trainer_kwargs.max_completion_length=64",
        f"model.model_name={place / 'model'}",
        f"data.train.datasets.0.dataset_name={place / 'prompts.jsonl'}",
    ]
    assert main(["check", "run.yaml", *changes]) == 0, capsys.readouterr().err
    assert f"{kind.upper()}" in capsys.readouterr().out
    assert main(["data", "show", "run.yaml", "-n", "1", *changes]) == 0
    assert "prompts" in capsys.readouterr().out


def test_a_conversation_is_written_after_where_the_assistant_begins(place, tmp_path):
    told = tiny.settings(place, output_dir=str(tmp_path), trainer_kwargs={"reward_functions": ["matches"],
                         "reward_function_kwargs": {"matches": {"pattern": ".*"}}})  # fmt: skip
    rows = "".join(f'{{"prompt": [{{"role": "user", "content": "the cat {n}"}}]}}\n' for n in range(4))
    (tmp_path / "chats.jsonl").write_text(rows)
    told["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "chats.jsonl")}]
    told["model"]["chat_template"] = "chatml"
    told["training"] |= {"max_steps": 1, "gradient_accumulation_steps": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(told))
    trainer = build_trainer(load_checked(tmp_path / "run.yaml").config)
    prompt = session_of(trainer).stage.prompts[0]["prompt_ids"]
    assert trainer.processing_class.decode(prompt).endswith("<|im_start|>assistant\n")
    trainer.train()


def test_what_was_written_is_shown_group_by_group(place, tmp_path, capsys):
    built(place, tmp_path, training={"max_steps": 3}).train()
    cards = capsys.readouterr().err
    assert "data: 12 rows; learned: what the model writes after the prompts;" in cards
    assert "Done: 3 steps: reward: " in cards
    assert main(["rl", "show", str(tmp_path), "--step", "2", "-n", "1"]) == 0
    head, group, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{tmp_path}/completions/step-1-0-1.jsonl: 8 completions"
    assert group.startswith("--- row ")
    assert len(lines) == 2 * 4
    worth = [float(line.split()[0]) for line in lines[::2]]
    assert worth == sorted(worth, reverse=True)
    assert "reward" in lines[0]
    assert "lucky" in lines[0]
    assert "12 tokens, cut off" in lines[0]
    assert main(["rl", "show", str(place)]) == 2
    assert "has no completions" in capsys.readouterr().err


def test_a_run_in_which_nothing_is_earned_says_so(place, tmp_path, caplog):
    never = {"reward_functions": ["matches"], "reward_function_kwargs": {"matches": {"pattern": "never this"}},
             "mask_truncated_completions": True}  # fmt: skip
    with caplog.at_level(logging.INFO, logger="trainwright"):
        trainer = built(place, tmp_path, training={"max_steps": 6}, **never)
        trainer.train()
    assert caplog.text.count("were all equal: nothing is learned") == 1
    assert caplog.text.count("were cut off at max_completion_length=12, and mask_truncated_completions leaves") == 1
    assert "The gradient is 0" not in caplog.text  # of which the rewards are the reason
    watch = Symptoms(session_of(trainer))
    for loss in (1e-8, 0.1, 0.2):  # which says nothing of what is learned
        watch.look({"loss": loss, "grad_norm": 1.0})
    assert "goes the wrong way" not in caplog.text


def test_a_completion_is_shown_on_one_line_whatever_it_holds():
    one = {"row": 0, "prompt": "the\ncat", "completion": "sat\r\x1b[2J\x00 über\u2028", "tokens": 3, "finished": True,
           "rewards": {"right": None}, "reward": None, "advantage": 0.0}  # fmt: skip
    group, _, text = shown([one], 1)
    assert group == "--- row 0: the\\ncat"
    assert text.strip() == "sat\\r\\x1b[2J\\x00 über\\u2028"
