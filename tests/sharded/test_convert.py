"""Distributed checkpoints of torch, as FSDP in accelerate and transformers leaves them, become ones to go on from."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import checkpoint as dcp

from tests import tiny
from trainwright import Trainer, TrainingArguments
from trainwright.checkpoint import check, layout
from trainwright.checkpoint.sharded import convert
from trainwright.cli.main import main
from trainwright.errors import CheckpointError


def settings(place, **changes):
    return TrainingArguments(
        str(place), max_steps=4, per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True, report_to="none",
        optim="adamw_torch", weight_decay=0.1, lr_scheduler_type="constant", **{"save_steps": 2, **changes},
    )  # fmt: skip


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint of step 2 as accelerate lays it out, of a run of ours that goes on to step 4; and its weights."""
    trainer = Trainer(tiny.llama(tie_word_embeddings=True), settings(tmp_path / "run"), train_dataset=tiny.tokens())
    trainer.train()
    source, place = tmp_path / "run" / "checkpoint-2", tmp_path / "foreign" / "checkpoint-2"
    place.mkdir(parents=True)
    model = tiny.llama(tie_word_embeddings=True)
    model = type(model).from_pretrained(source)
    state = torch.load(source / layout.OPTIMIZER, weights_only=True)
    names = [name for group in trainer.optimizer.param_groups for name in names_of(trainer.model, group["params"])]
    moments = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [{**g, "params": [names[n] for n in g["params"]]} for g in state["param_groups"]],
    }
    dcp.save({"model": model.state_dict()}, checkpoint_id=place / convert.MODEL, no_dist=True)
    dcp.save({"optimizer": moments}, checkpoint_id=place / convert.OPTIMIZER, no_dist=True)
    for name in ("config.json", layout.STATE, layout.SCHEDULER, layout.of_rank(0, 1)):
        (place / name).write_bytes((source / name).read_bytes())
    return place, trainer


def names_of(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in parameters]


def test_a_converted_checkpoint_goes_on_bitwise(foreign, tmp_path, capsys):
    place, straight = foreign
    converted = tmp_path / "converted" / "checkpoint-2"
    assert main(["checkpoint", "convert", str(place), str(converted)]) == 0
    assert str(converted) in capsys.readouterr().out
    assert check.damage(converted) is None
    torch.manual_seed(9)
    trainer = Trainer(tiny.llama(5, tie_word_embeddings=True), settings(tmp_path / "on"), train_dataset=tiny.tokens())
    trainer.train(resume_from_checkpoint=str(converted))
    for one, other in zip(trainer.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(one, other)
    states = (trainer.optimizer.state_dict()["state"], straight.optimizer.state_dict()["state"])
    for number, values in states[0].items():
        assert all(torch.equal(values[key], states[1][number][key]) for key in values)


def test_large_states_lie_in_several_files(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "_LARGEST", 20_000)
    place, straight = foreign
    converted = tmp_path / "converted"
    convert.convert(place, converted)
    assert len(layout.shares_of(converted, layout.WEIGHTS)) > 2
    assert len(layout.shares_of(converted, layout.OPTIMIZER)) > 2
    for path in layout.shares_of(converted, layout.WEIGHTS):
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
    read = type(straight.model).from_pretrained(converted)
    saved = type(straight.model).from_pretrained(tmp_path / "run" / "checkpoint-2")
    expected = saved.state_dict()
    assert read.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in read.state_dict().items())


@pytest.mark.parametrize("named", [True, False])
def test_a_run_goes_on_from_shards_of_torch(foreign, tmp_path, named):
    """By name, or as the newest checkpoint of its folder, which then is set aside."""
    place, straight = foreign
    trainer = Trainer(tiny.llama(5, tie_word_embeddings=True), settings(place.parent), train_dataset=tiny.tokens())
    trainer.train(resume_from_checkpoint=str(place) if named else True)
    for one, other in zip(trainer.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert check.damage(place.parent / "converted" / "checkpoint-2") is None
    assert len(list(place.parent.glob("previous-*/checkpoint-2/*/.metadata"))) == 2


def test_what_is_no_distributed_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="holds no distributed checkpoint"):
        convert.convert(tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_code_in_a_distributed_checkpoint_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(CheckpointError, match="mkdir, which is no part of it"):
        convert.convert(tmp_path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".metadata"]
