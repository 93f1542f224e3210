"""Which model a folder means, and what is said where it means none."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from trainwright import CheckpointError, ConfigError
from trainwright.trained.folders import find
from trainwright.trained.loading import load

pytestmark = pytest.mark.slow


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_is_its_finished_model(run):
    found = find(run)
    assert (found.folder, found.run, found.which, found.base) == (run, run, "the finished model", None)
    assert found.config is not None


def test_a_run_that_was_gone_on_with_is_its_newest_whole_checkpoint(run):
    later = time.time() + 60
    os.utime(run / "checkpoint-6" / "trainer_state.json", (later, later))
    assert find(run).folder == run / "checkpoint-6"
    (run / "checkpoint-6" / "model.safetensors").write_bytes(b"cut")
    found = find(run)  # the finished model is newer than the one before
    assert found.folder == run
    (run / "model.safetensors").unlink()
    found = find(run)
    assert (found.folder, found.which) == (run / "checkpoint-3", "the newest whole checkpoint")


def test_a_checkpoint_that_is_damaged_is_told(run):
    assert find(run / "checkpoint-3").folder == run / "checkpoint-3"
    assert find(run / "checkpoint-3").run == run
    (run / "checkpoint-3" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="checkpoint-3' cannot be used: model.safetensors has 3 bytes"):
        find(run / "checkpoint-3")


def test_an_adapter_finds_its_base(lora, place, tmp_path):
    assert find(lora).base == str(place / "model")
    assert find(lora / "checkpoint-3").base == str(place / "model")
    shutil.copytree(lora, tmp_path / "lora")
    shutil.copytree(place / "model", tmp_path / "lora" / "base_model")
    assert find(tmp_path / "lora").base == str(tmp_path / "lora" / "base_model")


def test_an_adapter_whose_base_is_gone_is_told(lora, place, tmp_path):
    shutil.copytree(lora, tmp_path / "lora")
    for name in ("run.yaml", "adapter_config.json"):
        text = (tmp_path / "lora" / name).read_text()
        (tmp_path / "lora" / name).write_text(text.replace(str(place / "model"), "/gone/model"))
    with pytest.raises(ConfigError, match="is for '/gone/model', which is not there any more"):
        find(tmp_path / "lora")


def test_a_folder_with_an_adapter_and_a_whole_model_is_refused(lora, place, tmp_path):
    shutil.copytree(lora, tmp_path / "both")
    shutil.copy(place / "model" / "model.safetensors", tmp_path / "both")
    with pytest.raises(ConfigError, match="holds a whole model .* and an adapter .*, so it is unclear"):
        find(tmp_path / "both")


def test_what_holds_no_model_is_told(place, tmp_path):
    with pytest.raises(ConfigError, match=r"There is no folder 'nowhere'\."):
        find("nowhere")
    with pytest.raises(ConfigError, match="holds no model: .* Give a run's folder, or a model's"):
        find(tmp_path)
    shutil.copytree(place / "model", tmp_path / "some" / "model")
    with pytest.raises(ConfigError, match=f"Did you mean '{tmp_path}/some/model'"):
        find(tmp_path / "some")


def test_a_model_that_transformers_does_not_know_is_told(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    for name in ("config.json", "checkpoint-3/config.json"):
        text = (tmp_path / "run" / name).read_text()
        (tmp_path / "run" / name).write_text(text.replace('"model_type": "llama"', '"model_type": "ngram_llama"'))
    with pytest.raises(ConfigError, match="of the type 'ngram_llama', which transformers does not know"):
        load(find(tmp_path / "run"))
