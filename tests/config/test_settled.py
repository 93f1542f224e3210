"""What public recipes say and a run need not refuse: it goes on, in the way that it says in one sentence."""

from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
import torch

from tests import tiny_language as tiny
from tests.installed import with_trl
from trainwright import ConfigError
from trainwright.config.composition import build, built
from trainwright.config.reading.read import load_checked
from trainwright.config.reading.translate import argument_values
from trainwright.tasks.language.kernels import liger


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    return tiny.make_place(tmp_path_factory.mktemp("settled"))


@pytest.fixture
def checked(place, tmp_path, capsys):
    """A function that reads a file and returns its configuration and what was said."""

    def read(data="text", model=None, sections=None, **training):
        content = tiny.settings(place, data, output_dir=str(tmp_path / "out"), **training)
        content["model"] |= model or {}
        content |= sections or {}
        config = load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config
        return config, capsys.readouterr().err

    return read


WARM_UPS = {  # what is given, what the arguments hold, what is said
    "longer than a trial": ({"warmup_steps": 100, "max_steps": 2}, 2, "warmup_steps 100 is longer than the run, so it"),
    "steps beside a share": ({"warmup_steps": 3, "warmup_ratio": 0.5}, 3, "warmup_ratio has no effect: warmup_steps 3"),
    "no steps beside a share": ({"warmup_steps": 0, "warmup_ratio": 0.5}, 0.5, ""),
    "a share": ({"warmup_ratio": 0.5, "max_steps": 2}, 0.5, ""),
    "as long as the run": ({"warmup_steps": 6}, 6, ""),
}


@pytest.mark.parametrize("name", WARM_UPS)
def test_a_warm_up_is_that_of_the_steps_and_no_longer_than_the_run(checked, name):
    given, taken, said = WARM_UPS[name]
    config, warned = checked(**given)
    assert argument_values(config.training)["warmup_steps"] == taken
    assert said in warned if said else "warmup" not in warned


@pytest.mark.parametrize("given", [None, 30, 10])
def test_the_models_length_goes_before_that_of_the_trainer(checked, given):
    config, warned = checked(model={"model_max_length": 20}, trainer_kwargs={"max_length": given})
    trainer = build(config).trainer
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == 20
    shown = "null" if given is None else given
    assert f"max_length {shown} has no effect: model.model_max_length 20 goes before it." in warned


def test_workers_settings_without_workers_are_told_and_passed_over(checked):
    config, warned = checked(dataloader_prefetch_factor=4, dataloader_main_process_only=True)
    assert argument_values(config.training)["dataloader_prefetch_factor"] is None
    assert "dataloader_prefetch_factor has no effect without dataloader_num_workers" in warned
    assert "dataloader_main_process_only has no effect: every process reads its own rows" in warned


@pytest.mark.parametrize("start", ["DEFAULT", "RANDOM", "Gaussian"])
def test_names_of_beginnings_of_adapters_may_be_in_capitals(checked, start):
    config, warned = checked(use_peft=True, sections={"peft": {"lora_init_weights": start}})
    assert config.peft.lora_init_weights == start.lower()
    assert warned == ""


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("trainer_type", ["SFT", pytest.param("HF", marks=with_trl)])
def test_disable_dropout_leaves_none_in_the_model_and_in_what_is_saved(checked, place, trainer_type, loaded):
    tiny.new_model(attention_dropout=0.1).save_pretrained(place / "dropping")
    model = {"model_name": str(place / "dropping"), "tokenizer_name": str(place / "model"),
             "model_kwargs": {"disable_dropout": True}, "load_pretrained_weights": loaded}  # fmt: skip
    config, _ = checked(trainer_type=trainer_type, model=model)
    made = build(config).trainer.model
    assert made.config.attention_dropout == 0
    assert {part.self_attn.attention_dropout for part in made.model.layers} == {0.0}
    config.model.model_kwargs = {"disable_dropout": False}
    assert build(config).trainer.model.model.layers[0].self_attn.attention_dropout == 0.1


def test_a_section_that_shards_is_told_on_one_process(checked, monkeypatch):
    _, warned = checked(sections={"fsdp": {"enable_fsdp": True}})
    assert "fsdp.enable_fsdp has no effect without several processes, which torchrun starts" in warned
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not checked(sections={"fsdp": {"enable_fsdp": True}})[1]


def test_deepspeed_is_told_on_one_process_and_refused_on_several(checked, monkeypatch):
    _, warned = checked(sections={"deepspeed": {"enable_deepspeed": True}})
    assert "deepspeed.enable_deepspeed has no effect: one process trains the whole model" in warned
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="enable_deepspeed: .* several processes") as caught:
        checked(sections={"deepspeed": {"enable_deepspeed": True}})
    assert "leave deepspeed out, and write fsdp.enable_fsdp: true to shard" in str(caught.value)


def test_recipes_of_images_are_declined_by_name(checked, place):
    for name in ("HuggingFaceM4/the_cauldron", "vl_sft"):
        with pytest.raises(ConfigError, match=f"the dataset '{name}' is of images"):
            checked(sections={"data": {"train": {"datasets": [{"dataset_name": name}]}}})
    data = {"train": {"datasets": [{"dataset_name": "x/y"}], "collator_name": "vision_language_sft"}}
    with pytest.raises(ConfigError, match="collator vision_language_sft is for images, and only text"):
        checked(sections={"data": data})


@pytest.mark.parametrize("is_there", [False, True])
def test_ligers_kernels_are_ours_where_they_are_installed_and_can_run(checked, monkeypatch, caplog, is_there):
    config, warned = checked(trainer_type="SFT", model={"enable_liger_kernel": True})
    assert "enable_liger_kernel has no effect without the package liger-kernel" in warned
    assert liger(config) == {}
    package = ModuleType("liger_kernel")
    package.__spec__ = ModuleType("spec")  # which find_spec returns
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    assert checked(trainer_type="SFT", model={"enable_liger_kernel": True})[1] == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    config.training.use_cpu = False
    assert liger(config) == ({"use_liger_kernel": True} if is_there else {})
    assert ("Liger's kernels run on GPUs alone" in caplog.text) is not is_there


@with_trl
def test_other_libraries_get_ligers_kernels_where_they_are_installed(checked, monkeypatch, caplog):
    from transformers import TrainingArguments

    from trainwright.upstream.build import foreign_arguments

    config, warned = checked(trainer_type="HF", model={"enable_liger_kernel": True})
    assert "enable_liger_kernel has no effect without the package liger-kernel" in warned
    assert not foreign_arguments(config, TrainingArguments, {}).use_liger_kernel
    package = ModuleType("liger_kernel")
    package.__spec__ = ModuleType("spec")  # which find_spec returns
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    assert checked(trainer_type="HF", model={"enable_liger_kernel": True})[1] == ""
    assert not foreign_arguments(config, TrainingArguments, {}).use_liger_kernel
    assert "Liger's kernels run on GPUs alone" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config.training.use_cpu = False
    given = []
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: given.append(self.use_liger_kernel))
    foreign_arguments(config, TrainingArguments, {})
    assert given == [True]


@with_trl
def test_losses_of_trls_own_train(checked):
    config, _ = checked(
        "completion", trainer_type="TRL_SFT", max_steps=1, bf16=False, trainer_kwargs={"loss_type": "dft"}
    )
    assert built(config).train().training_loss > 0
    with pytest.raises(ConfigError, match="loss_type 'dtf' is not known"):
        checked("completion", trainer_type="TRL_SFT", trainer_kwargs={"loss_type": "dtf"})


@with_trl
def test_trls_reference_follows_the_model_where_it_is_asked_to(checked):
    kwargs = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    config, warned = checked("preference", trainer_type="TRL_DPO", max_steps=2, bf16=False, trainer_kwargs=kwargs)
    assert warned == ""
    trainer = built(config)
    trainer.train()
    mine, reference = trainer.trainer.model.state_dict(), trainer.trainer.ref_model.state_dict()
    assert all(torch.equal(mine[name], reference[name]) for name in mine)
    with pytest.raises(ConfigError, match="sync_ref_model needs a reference that is a model"):
        checked("preference", trainer_type="TRL_DPO", use_peft=True, trainer_kwargs={"sync_ref_model": True})
