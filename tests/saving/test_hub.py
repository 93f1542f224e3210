"""Pushing to the hub: a hub on this machine tells what was really sent, where to, and who may see it."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import yaml
from safetensors.torch import load

from tests import fake_hub, tiny
from trainwright import ConfigError, Trainer, TrainerCallback, TrainingArguments
from trainwright.data.sources import reach

MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors", "training_args.bin"}
RESUMABLE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "trainwright.json", "manifest.json"}


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub.running() as one:
        yield one


def made(folder, kind=Trainer, callbacks=(), model=None, **changes):
    settings = {
        "max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True,
        "report_to": "none", "hub_model_id": "me/model", "hub_token": fake_hub.WRITING,
    }  # fmt: skip
    args = TrainingArguments(str(folder), **{**settings, **changes})
    return kind(model or tiny.llama(), args, train_dataset=tiny.tokens(16), callbacks=list(callbacks))


class Listener(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_push_begin(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("end", []),
        ("every_save", []),
        ("checkpoint", ["last-checkpoint"]),
        ("all_checkpoints", ["checkpoint-2", "checkpoint-4"]),
    ],
)
def test_what_a_strategy_names_is_sent_and_nothing_else(tmp_path, hub, strategy, places):
    (tmp_path / "notes.txt").write_text("mine")
    made(tmp_path, save_steps=1).train()  # whose checkpoints are set aside
    listener = Listener()
    trainer = made(tmp_path, callbacks=[listener], push_to_hub=True, hub_strategy=strategy, hub_always_push=True)
    trainer.train()
    expected = set() if strategy == "end" else MODEL.copy()
    for place in places:
        expected |= {f"{place}/{name}" for name in (MODEL - {"README.md"}) | RESUMABLE}
    assert set(hub.sent()) == expected
    assert not any(fake_hub.WRITING.encode() in content for content in hub.sent().values())
    assert listener.steps == ([] if strategy == "end" else [2, 4])
    assert list(tmp_path.glob("previous-*"))
    assert not list(tmp_path.glob(".*"))  # what was sent lay there
    if strategy != "end":
        weights = load(hub.sent()["model.safetensors"])
        assert all(
            (weights[name] == value).all() for name, value in trainer.model.state_dict().items() if name in weights
        )


def test_a_push_at_the_end_sends_model_and_card(tmp_path, hub):
    (tmp_path / "notes.txt").write_text("mine")
    made(tmp_path, save_steps=1).train()
    listener = Listener()
    trainer = made(tmp_path, callbacks=[listener], ema_decay=0.9)
    trainer.train()
    trainer.push_to_hub("done", license="mit", revision="main")
    [(name, branch, message, files)] = hub.commits
    assert (name, branch, message, set(files)) == ("me/model", "main", "done", MODEL)
    assert files["README.md"] == (tmp_path / "README.md").read_bytes()
    assert files["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
    assert listener.steps == [4]


@pytest.mark.parametrize(
    ("argument", "asked", "private"),
    [
        (None, None, False), (None, True, True), (True, None, True), (True, True, True), (True, False, False),
        (False, True, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("early", [False, True])
def test_private_means_private(tmp_path, hub, argument, asked, private, early):
    trainer = made(tmp_path, hub_private_repo=argument)
    if early:
        trainer.init_hf_repo(private=asked)
    trainer.push_to_hub(private=asked)
    assert hub.repositories == {"me/model": private}
    assert hub.commits


@pytest.mark.parametrize("way", ["construction", "argument", "push"])
def test_what_should_be_private_is_never_sent_where_everyone_sees_it(tmp_path, hub, way):
    hub.repositories["me/model"] = False
    with pytest.raises(ConfigError, match="should be private, but it is there already and everyone can see it"):
        if way == "construction":
            made(tmp_path, hub_private_repo=True, push_to_hub=True)
        made(tmp_path, hub_private_repo=way == "argument" or None).push_to_hub(private=way == "push" or None)
    assert not hub.commits


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hub_token": "hf_of_nobody"}, "the hub does not accept the token"),
        ({"hub_token": fake_hub.READING}, "the token may not write there"),
        ({"hub_model_id": "a/b/c"}, "a/b/c"),
    ],
)
def test_a_token_that_is_of_no_use_is_noticed_before_a_step(tmp_path, hub, changes, why, there):
    if there:
        hub.repositories["me/model"] = True
    with pytest.raises(ConfigError, match=f"Nothing can be pushed to the repository .*{re.escape(why)}") as raised:
        made(tmp_path, push_to_hub=True, **changes)
    assert changes.get("hub_token", "none") not in str(raised.value)


def test_a_hub_that_cannot_be_reached_is_noticed_before_a_step(tmp_path, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="Nothing can be pushed to the repository 'me/model': .*refused"):
        made(tmp_path, push_to_hub=True)


def test_a_run_that_began_where_the_hub_was_out_of_reach_pushes_when_it_is_there(tmp_path, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(reach, "_switched_off", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made(tmp_path, push_to_hub=True).train()
    assert set(hub.sent()) >= MODEL


def test_a_push_that_fails_ends_no_run(tmp_path, hub, caplog):
    trainer = made(tmp_path, push_to_hub=True)
    hub.refused = True
    trainer.train()
    assert trainer.state.global_step == 4
    assert "A push to 'me/model' failed" in caplog.text
    assert "The disk of the hub is full" in caplog.text


class LetsGo(logging.Handler):
    """Lets the hub go on when the run says that it waits for it."""

    def __init__(self, hub):
        super().__init__()
        self.hub = hub

    def emit(self, record):
        if "Waiting for the push" in record.getMessage():
            self.hub.busy.set()


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_a_push_outlives_its_checkpoint_and_the_run_waits_for_it(tmp_path, hub, caplog, monkeypatch, always):
    trainer = made(tmp_path, push_to_hub=True, hub_strategy="all_checkpoints", max_steps=8, save_total_limit=1,
                   hub_always_push=always)  # fmt: skip
    logger = logging.getLogger("trainwright")
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, LetsGo(hub)])
    hub.busy.clear()
    trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-8"]
    sent = {path.split("/")[0] for path in hub.sent() if "/" in path}
    assert sent == {f"checkpoint-{step}" for step in ((2, 4, 6, 8) if always else (2,))}
    assert ("checkpoint-8 is not pushed: the push before goes on" in caplog.text) is not always
    assert "Waiting for the push to 'me/model'." in caplog.text


def test_files_of_a_save_of_the_users_own_are_the_model(tmp_path, hub):
    class Own(Trainer):
        def save_model(self, output_dir=None, _internal_call=False):
            super().save_model(output_dir, _internal_call)
            with open(f"{output_dir or self.args.output_dir}/labels.txt", "w") as file:
                file.write("a b c")

    trainer = made(tmp_path, kind=Own, push_to_hub=True)
    trainer.train()
    trainer.push_to_hub()
    assert all(set(files) == MODEL | {"labels.txt"} for *_, files in hub.commits)
    assert (tmp_path / "labels.txt").read_text() == "a b c"


def test_a_card_says_nothing_of_this_machine_and_is_valid(tmp_path, hub):
    trainer = made(tmp_path, run_name="secret run", eval_strategy="no", learning_rate=1e-3)
    trainer.eval_dataset = tiny.tokens(4)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.state.log_history[-1] |= {"eval_far": np.float64(2.5), "eval_lost": float("nan")}
    trainer.create_model_card(
        "en", "apache-2.0", ["x"], "m: n", "a/b", "text-generation", dataset_tags="d/s", dataset="D",
        dataset_args="c: 1",
    )  # fmt: skip
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    index = header.pop("model-index")
    assert header == {
        "library_name": "transformers", "language": ["en"], "license": "apache-2.0", "base_model": "a/b",
        "tags": ["x", "trainwright"], "datasets": ["d/s"],
    }  # fmt: skip
    assert index[0]["name"] == "m: n"
    assert index[0]["results"][0]["dataset"] == {"type": "d/s", "name": "D", "args": "c: 1"}
    assert index[0]["results"][0]["metrics"] == [
        {"type": name, "name": name, "value": value} for name, value in (("loss", loss), ("far", 2.5))
    ]
    assert "learning_rate: 0.001" in text
    for private in (str(tmp_path), fake_hub.WRITING, "secret run", "hub_"):
        assert private not in text


def test_nothing_is_pushed_unless_asked_for(tmp_path, hub):
    made(tmp_path).train()
    assert not hub.repositories
    assert not hub.commits


def test_comparing_engines_pushes_nothing():
    from trainwright.config.params import TrainingParams
    from trainwright.config.schema import TrainingConfig
    from trainwright.upstream.compare import frozen

    config = TrainingConfig(training=TrainingParams(output_dir="out", push_to_hub=True))
    assert not frozen(config, "HF", 2, "out").training.push_to_hub
