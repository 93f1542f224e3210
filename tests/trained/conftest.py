"""Runs that are over: trained once, and only read by the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_language as tiny
from trainwright.config.composition import ConfiguredTrainer
from trainwright.config.reading.read import load_checked
from trainwright.config.reading.writing import keep
from trainwright.config.schema import TrainingConfig

LORA = {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}


def config_of(place: Path, name: str, data: str = "completion", peft=None, **training) -> TrainingConfig:
    content = tiny.settings(
        place, data, **{"save_strategy": "steps", "save_steps": 3, "disable_tqdm": True, **training}
    )
    content["training"] |= {"output_dir": str(place / name), "save_final_model": True, "learning_rate": 1e-2}
    content["training"]["use_peft"] = peft is not None
    if data == "chat":
        content["model"]["chat_template"] = "chatml"
    if peft is not None:
        content["peft"] = {**LORA, **peft}
    return load_checked(tiny.write_yaml(place / f"{name}.yaml", content)).config


def trained_run(place: Path, name: str, *given, **changes) -> Path:
    """The folder of a run that is over, as the command line leaves it."""
    config = config_of(place, name, *given, **changes)
    trainer = ConfiguredTrainer(config)
    keep(config, place / name)
    trainer.train()
    return place / name


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def whole(place):
    return trained_run(place, "whole")


@pytest.fixture(scope="session")
def lora(place):
    return trained_run(place, "lora", peft={})


@pytest.fixture(scope="session")
def pissa(place):
    return trained_run(place, "pissa", "chat", peft={"lora_init_weights": "pissa"})
