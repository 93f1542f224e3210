"""What a run will do and need, told before it begins: against what it did and left on the disk."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_language as tiny
from trainwright.cli.main import main
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.training.disk import Disk, bytes_in_words, kept


def run_file(tmp_path, data="completion", peft=False, **training):
    place = tiny.make_place(tmp_path / "place")
    content = tiny.settings(place, data, **{"save_strategy": "steps", "save_steps": 3, **training})
    content["training"]["output_dir"] = str(tmp_path / "out")
    if peft:
        content["training"]["use_peft"], content["peft"] = True, {"lora_r": 4, "lora_target_modules": ["q_proj"]}
    return tiny.write_yaml(tmp_path / "run.yaml", content)


def plan(capsys):
    out = capsys.readouterr().out
    assert all(len(line) < 140 for line in out.splitlines()[1:])
    return dict(re.findall(r"^(\w+) {2,}(.*)$", out, flags=re.MULTILINE))


def size(tensors):
    return sum(one.numel() * one.element_size() for one in tensors)


@pytest.mark.slow
@pytest.mark.parametrize("peft", [False, True])
def test_the_plan_is_what_the_run_does_and_leaves(tmp_path, capsys, peft):
    file = run_file(tmp_path, peft=peft, max_steps=-1, num_train_epochs=0.3, gradient_accumulation_steps=2)
    assert main(["check", str(file)]) == 0
    told = plan(capsys)
    trainer = build_trainer(load_checked(file).config)
    trainer.train()
    folders = sorted((tmp_path / "out").glob("checkpoint-*"))
    assert told["steps"].startswith(f"{trainer.state.global_step}, each of 8 rows (4 × 2 micro-batches); 0.3 passes")
    state = torch.load(folders[-1] / "optimizer.pt", weights_only=True)["state"]
    optimizer = size(value for one in state.values() for value in one.values() if value.dim())
    weights = size(load_file(folders[-1] / f"{'adapter_' * peft}model.safetensors").values())
    assert told["disk"].startswith(f"{len(folders)} checkpoint")
    assert f"of {bytes_in_words(weights + optimizer)}" in told["disk"]
    trained = size(p for p in trainer.model.parameters() if p.requires_grad)
    assert f"gradients {bytes_in_words(trained)}, optimizer {bytes_in_words(optimizer)}, " in told["memory"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["peft.lora_target_modules=q_prj"], "peft: Target modules q_prj not found in the base model"),
        (["peft.lora_target_modules=*("], "peft: '*(' is no pattern of layers: nothing to repeat"),
        (["peft.lora_target_modules=[q_prj]"], "the model has no layer 'q_prj'. Did you mean 'q_proj'?"),
        (
            ["training.use_peft=true", "model.adapter_model={folder}"],
            "model.adapter_model: Can't find 'adapter_config.json' at",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_mistakes_of_the_file(tmp_path, capsys, words, told):
    file = run_file(tmp_path, peft="model.adapter_model" not in words[-1])
    folder = file.parent / "place" / "model"
    assert main(["check", str(file), *(word.format(folder=folder) for word in words)]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert "is valid" not in said.out


@pytest.mark.slow
def test_a_measured_plan_has_the_time_and_leaves_nothing(tmp_path, capsys):
    file = run_file(tmp_path, max_steps=100, gradient_accumulation_steps=3)
    assert main(["check", str(file), "--measure"]) == 0
    told = plan(capsys)
    match = re.fullmatch(r"(.*) of training: 300 micro-batches of ([\d.e-]+) s; evaluations .*", told["time"])
    assert match
    assert 0 < float(match[2]) < 60
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rows_that_are_packed_or_streamed_are_counted_as_far_as_they_can_be(tmp_path, capsys):
    file = run_file(tmp_path, max_steps=-1)
    assert main(["check", str(file), "data.train.pack=true"]) == 0
    told = plan(capsys)
    assert told["steps"].startswith("as many as the data give")
    assert told["steps"].endswith("80 rows before they are packed")
    assert main(["check", str(file), "data.train.pack=true", "--measure"]) == 0
    rows = len(build_trainer(load_checked(file, ["data.train.pack=true"]).config).train_dataset)
    assert plan(capsys)["steps"].endswith(f"which have {rows} packed rows")
    assert main(["check", str(file), "data.train.stream=true", "training.max_steps=7"]) == 0
    assert plan(capsys)["steps"] == "7, each of 4 rows"


def test_no_plan_is_made_where_a_hub_would_be_asked(tmp_path, capsys):
    file = run_file(tmp_path)
    assert main(["check", str(file), "model.model_name=some/model"]) == 0
    assert plan(capsys) == {}


@pytest.mark.parametrize(
    ("saving", "many"),
    [
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "steps", "save_steps": 3}, 4),  # 3, 6, 9, and the last
        ({"save_strategy": "steps", "save_steps": 5}, 2),
        ({"save_strategy": "steps", "save_steps": 0.2}, 5),
        ({"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}, 2),
        ({"save_strategy": "steps", "save_steps": 50, "save_total_limit": 2}, 1),
        ({"save_strategy": "epoch"}, 3),
        ({"save_strategy": "best"}, None),
        ({"save_strategy": "best", "save_total_limit": 2}, 2),
    ],
)
def test_checkpoints_are_counted(saving, many):
    args = SimpleNamespace(**{"save_total_limit": None, "save_steps": 500, **saving})
    assert kept(args, 10, 2.5) == many


def test_room_that_is_too_little_is_told():
    assert str(Disk(3_000_000_000, 2, 5_000_000_000)) == (
        "2 checkpoints of 3.00 GB, 6.00 GB; 5.00 GB free, which is too little"
    )
    assert str(Disk(3_000, 0, 5_000_000_000)) == "no checkpoint; 5.00 GB free"
    assert str(Disk(3_000, None, 5_000_000_000)) == "3.00 kB a checkpoint; 5.00 GB free"
