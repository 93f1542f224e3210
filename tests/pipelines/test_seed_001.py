"""The two scripts of seed 001, with only their import lines changed."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.tasks.algebra import task
from trainwright import ConfigError, TrainerState

TRAINING = """
from omegaconf import OmegaConf
from trainwright.pipelines import IOPipeline, ModelPipeline, TrainerPipeline

cfg = OmegaConf.load("configs/train.yaml")

io_dict = IOPipeline.from_config(cfg.data).build()
model = ModelPipeline.from_io_dict(cfg.model, io_dict).build()
# wandb_config is optional - if not provided, TrainerPipeline will try to get it from cfg.train.wandb
trainer_pipeline = TrainerPipeline.from_io_dict(cfg.train, model, io_dict).build()

trainer_pipeline.train()
success_rate = trainer_pipeline.evaluate_and_save_generation()
print(f"Success rate: {100 * success_rate:.1f}%")
"""
RESUMING = """
from trainwright.pipelines import TrainerPipeline

# Resume training from a saved directory
trainer_pipeline = TrainerPipeline.resume_from_checkpoint(
    save_dir="./results/my_experiment",
    resume_from_checkpoint=True  # Load saved model weights
)
trainer_pipeline.build()
trainer_pipeline.train()  # Continue training
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(text):
    names = {}
    exec(compile(text, "script", "exec"), names)
    return names


@pytest.mark.slow
def test_training_and_resuming_straight_after(place, capsys):
    task.write(place)
    names = script(TRAINING)
    assert capsys.readouterr().out.splitlines()[-1].startswith("Success rate: ")
    folder = place / "results" / "my_experiment"
    for name in ("train.yaml", "data.yaml", "lexer.yaml", "pipeline.json", "model", "tokenizer", "checkpoint-20"):
        assert (folder / name).exists(), name
    written = json.loads((folder / "eval_results" / "step_20.json").read_text())
    assert len(written) == 20
    assert {"input", "generated", "reference", "correct"} <= written[0].keys()
    assert written[0]["input"] == task.problems(1, 2)[0][0]
    history = names["trainer_pipeline"].trainer.log_history
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert [entry["eval_generation_step"] for entry in evaluated] == [10, 20]
    assert {"eval_token_accuracy", "eval_success_rate", "eval_generation_success_rate"} <= evaluated[0].keys()
    assert evaluated[0]["eval_success_rate"] == evaluated[0]["eval_generation_success_rate"]

    resumed = script(RESUMING)["trainer_pipeline"]
    assert resumed.trainer.state.global_step == 20  # complete: nothing is left to train


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_another_directory_as_if_it_had_not_been(place, monkeypatch):
    task.write(place)
    straight = script(TRAINING)["trainer_pipeline"].trainer
    folder = place / "results" / "my_experiment"
    for later in ("checkpoint-15", "checkpoint-20", "model"):
        shutil.rmtree(folder / later)
    (place / "elsewhere" / "results").mkdir(parents=True)
    shutil.move(folder, place / "elsewhere" / "results" / "my_experiment")
    monkeypatch.chdir(place / "elsewhere")
    resumed = script(RESUMING)["trainer_pipeline"].trainer
    assert resumed.state.global_step == 20
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (straight, resumed)
    ]
    assert losses[0] == losses[1]
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry]
    assert rates[-1] < rates[0] / 10  # cosine is cosine


@pytest.mark.slow
def test_data_that_changed_are_refused(place):
    task.write(place)
    script(TRAINING)
    with (place / "data" / "train_raw.txt").open("a") as file:
        file.write("1 | 2 | 3 # 1 | 3 | 6\n")
    with pytest.raises(ValueError, match="have changed since the run began"):
        script(RESUMING)


MISTAKES = {
    "an argument": (
        ("train", "lerning_rate", 1),
        "cfg.train: unknown key 'lerning_rate'. Did you mean 'learning_rate'?",
    ),
    "a schedule": (
        ("train", "lr_scheduler_type", "cosin"),
        "lr_scheduler_type='cosin' is not known. Did you mean 'cos",
    ),
    "a size": (("train", "batch_size", None), "cfg.train: batch_size must be given"),
    "CALT's model": (
        ("model", "model_type", "monomial"),
        "'monomial' is CALT's, and not built here: model_type generic",
    ),
    "a model": (("model", "model_type", "brat"), "model.model_type 'brat' is not known. Did you mean 'bart'?"),
    "a model key": (("model", "d_modl", 3), "unknown key model.d_modl. Did you mean 'd_model'?"),
    "heads": (("model", "num_encoder_heads", 5), "model.d_model 32 is not a multiple of 5 heads"),
    "a data key": (("data", "train_path", "x"), "cfg.data: unknown key 'train_path'"),
    "a lexer": (("data", "lexer_config", "lexr.yaml"), "there is no file 'lexr.yaml'"),
    "a data file": (("data", "test_dataset_path", "t.txt"), "There is no data file 't.txt'"),
    "an activation": (("model", "activation", 7), "cfg.model.activation is 7, but a text is expected"),
    "a truth": (("model", "embedding_layer_norm", "no"), "embedding_layer_norm is 'no', but true or false is expected"),
    "a seed": (("model", "seed", "x"), "cfg.model.seed is 'x', but a whole number of at least 0 is expected"),
    "a path": (("data", "train_dataset_path", 7), "cfg.data.train_dataset_path is 7, but a path is expected"),
    "a checkpoint": (("train", "resume_from_checkpoint", True), "is True, but a run goes on with --resume"),
    "a preprocessor": (("data", "dataset_load_preprocessor", "revers"), "'revers' is not known. Did you mean"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(place, name):
    (section, key, value), message = MISTAKES[name]
    config = task.write(place)
    import yaml

    config[section][key] = value
    (place / "configs" / "train.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with pytest.raises(ValueError) as caught:
        script(TRAINING)
    assert message in str(caught.value)
    assert not (place / "results").exists()


def test_no_folder_of_a_run(place):
    from trainwright.pipelines import TrainerPipeline

    with pytest.raises(ValueError, match="holds no train.yaml"):
        TrainerPipeline.resume_from_checkpoint("nowhere")
    with pytest.raises(ConfigError, match="call build"):
        TrainerPipeline({}).train()
    assert TrainerState().global_step == 0
