"""TRL's further trainers by the same file: settings arrive, they train, and `compare` sets them beside ours."""

from __future__ import annotations

import json
import logging

import pytest

from tests import installed
from tests import tiny_language as tiny
from trainwright import ConfigError
from trainwright.cli.main import main
from trainwright.config.composition import build
from trainwright.config.reading.read import load_checked

pytestmark = installed.with_trl
USUAL = {"max_steps": 2, "learning_rate": 1e-4, "logging_steps": 1}
# By trainer: (data, settings, what of the arguments of TRL must be)
RUNS = {
    "TRL_KTO": (
        "judged", {"beta": 0.2, "desirable_weight": 1.5, "loss_type": "apo_zero_unpaired"},
        {"train_sampling_strategy": "sequential"},
    ),
    "TRL_GKD": (
        "chat", {"teacher_model_name_or_path": "teacher", "lmbda": 0.0, "beta": 0.3, "seq_kd": True},
        {"max_length": 1024},
    ),
    "TRL_GOLD": (
        "chat",
        {"teacher_model_name_or_path": "teacher", "lmbda": 0.0, "top_p": 0.9, "top_k": 5,
         "temperature": 0.7},
        {"max_length": 1024},
    ),
    "TRL_REWARD": ("preference", {"center_rewards_coefficient": 0.1}, {"max_length": 1024}),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    return tiny.make_place(tmp_path_factory.mktemp("upstream"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_settings_arrive_and_it_trains(place, tmp_path, name):
    data, kwargs, further = RUNS[name]
    kwargs = {key: str(place / "teacher") if value == "teacher" else value for key, value in kwargs.items()}
    content = tiny.settings(
        place, data, output_dir=str(tmp_path / "out"), trainer_type=name, trainer_kwargs=kwargs, **USUAL
    )
    content["model"]["chat_template"] = "chatml"
    holder = build(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    assert {key: getattr(holder.trainer.args, key) for key in {**kwargs, **further}} == {**kwargs, **further}
    holder.train()
    assert holder.trainer.state.global_step == 2


@pytest.mark.slow
def test_trls_grpo_has_the_rewards_and_the_section_of_a_file(place, tmp_path):
    tiny.write_rows(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in tiny.rows_of("completion", 16)])
    (tmp_path / "mine.py").write_text(
        "def count_words(completion, least=0):\n    return float(max(len(completion.split()), least))\n"
    )
    content = tiny.settings(
        place, "completion", output_dir=str(tmp_path / "out"), trainer_type="TRL_GRPO", **USUAL,
        reward_functions=[f"{tmp_path / 'mine.py'}:count_words"], reward_function_kwargs={"count_words": {"least": 2}},
        grpo={"num_generations": 2, "max_completion_length": 6, "temperature": 0.8},
        trainer_kwargs={"beta": 0.1, "loss_type": "dr_grpo", "num_iterations": 2},
    )  # fmt: skip
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "prompts.jsonl")}]
    holder = build(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    args = holder.trainer.args
    assert (args.num_generations, args.max_completion_length, args.temperature) == (2, 6, 0.8)
    assert (args.beta, args.loss_type, args.num_iterations, args.disable_dropout) == (0.1, "dr_grpo", 2, True)
    holder.train()
    logged = [one for one in holder.trainer.state.log_history if "rewards/count_words/mean" in one]
    assert logged
    assert all(one["rewards/count_words/mean"] >= 2 for one in logged)


PAIRS = {
    "KTO": ("judged", {"trl_compatible": True}, {"train_sampling_strategy": "sequential"}),
    "REWARD": ("preference", {}, {}),
}  # fmt: skip


@pytest.mark.slow
def test_oumis_sections_are_the_settings_of_their_trainers(place, tmp_path):
    teacher = str(place / "teacher")
    section = {"teacher_model_name_or_path": teacher, "lmbda": 0.0, "beta": 0.3}
    section["teacher_model_init_kwargs"] = {"dtype": "float32"}
    content = tiny.settings(
        place, "chat", output_dir=str(tmp_path / "out"), trainer_type="TRL_GKD", gkd=section, **USUAL
    )
    content["model"]["chat_template"] = "chatml"
    trainer = build(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config).trainer
    assert (trainer.args.beta, trainer.args.lmbda, trainer.args.temperature) == (0.3, 0.0, 0.9)
    assert trainer.teacher_model.config.hidden_size == 48
    with pytest.raises(ConfigError, match="beta stands in training.gkd too"):
        load_checked(tmp_path / "run.yaml", ["training.trainer_kwargs.beta=0.4"])
    with pytest.raises(ConfigError, match="training.gkd: it is of trainer_type TRL_GKD"):
        load_checked(tmp_path / "run.yaml", ["training.trainer_type=DISTILL"])


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_compare_sets_both_side_by_side(place, tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, kwargs, more = PAIRS[name]
    content = tiny.settings(place, data, trainer_type=name, trainer_kwargs=kwargs, **{**USUAL, **more})
    file = str(tiny.write_yaml(tmp_path / "run.yaml", content))
    for engine in (name, f"TRL_{name}"):
        assert main(["compare", file, "--one", engine, "--steps", "2"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{"')]
    one, other = (entry for entry in found if "losses" in entry)
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)
    assert one["norms"] == pytest.approx(other["norms"], rel=1e-4)
