"""Pushing what was exported: a hub on this machine tells what was really sent, and who may see it."""

from __future__ import annotations

import pytest

from tests import fake_hub
from trainwright import ConfigError
from trainwright.trained.folders import find
from trainwright.trained.making.exporting import export, push

pytestmark = pytest.mark.slow
MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def hub(monkeypatch):
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", fake_hub.WRITING)
    with fake_hub.running() as one:
        yield one


@pytest.mark.parametrize("public", [False, True])
def test_a_model_is_private_unless_everyone_may_see_it(whole, tmp_path, hub, public):
    exported = export(find(whole), tmp_path / "model", name="mine")
    assert push(exported, "me/mine", public) == "me/mine"
    assert hub.repositories == {"me/mine": not public}
    assert set(hub.sent()) == MODEL | TOKENIZER
    assert b"# mine\n" in hub.sent()["README.md"]
    assert hub.sent()["model.safetensors"] == (tmp_path / "model" / "model.safetensors").read_bytes()


def test_nothing_is_sent_where_everyone_would_see_it(whole, tmp_path, hub):
    hub.repositories["me/mine"] = False
    with pytest.raises(ConfigError, match="should be private, but it is there already and everyone can see it"):
        push(export(find(whole), tmp_path / "model"), "me/mine")
    assert not hub.commits


def test_an_adapter_on_a_folder_of_this_machine_is_not_pushed(lora, tmp_path, hub):
    with pytest.raises(ConfigError, match="a folder of this machine, which nobody else has"):
        push(export(find(lora), tmp_path / "adapter", adapter=True), "me/mine")
    assert not hub.repositories
