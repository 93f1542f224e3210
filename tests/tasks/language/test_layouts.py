"""The plan of layouts: against the tensors that live on real ranks, and as a table for people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import forked, installed
from tests import tiny_language as tiny
from tests.tasks.language import peaks
from trainwright.cli.main import main
from trainwright.config.reading.read import load_checked
from trainwright.errors import ConfigError
from trainwright.parallel.layouts.layout import Layout
from trainwright.tasks.language.planning import layouts, memory
from trainwright.tasks.language.planning.sizes import Sizes, by_tensor, sizes_of
from trainwright.world import World

ROOT = Path(__file__).parents[3]
WIDE = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    place = tiny.make_place(tmp_path / "place")
    tiny.write_rows(place / "long.jsonl", [{"text": " ".join(tiny.WORDS * 8)} for _ in range(64)])
    content = tiny.settings(place, "text")
    content["model"] |= {"load_pretrained_weights": False, "model_name": "llama", "model_kwargs": WIDE,
                         "tokenizer_name": str(place / "model"), "model_max_length": 128}  # fmt: skip
    content["data"]["train"]["datasets"] = [{"dataset_name": str(place / "long.jsonl")}]
    content["training"] |= {"max_steps": 2, "save_strategy": "no", "save_final_model": False, "eval_strategy": "no",
                            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
                            "output_dir": str(tmp_path / "out")}  # fmt: skip
    return tiny.write_yaml(tmp_path / "run.yaml", content)


@pytest.mark.ranks
@pytest.mark.slow
def test_the_plan_is_within_a_tenth_of_what_lives_on_two_ranks(file, tmp_path):
    out = tmp_path / "peaks"
    out.mkdir()
    done = forked.ranks(["-m", "tests.tasks.language.peaks", file, out])
    assert not any(done.codes), done.said[-3000:]
    lived = json.loads((out / "rank0.json").read_text())
    for name, words in peaks.CASES.items():
        layout = Layout(*{"ddp": (2, 1, 1), "fsdp": (1, 2, 1), "divided": (1, 1, 2)}[name.partition(",")[0]])
        sizes = sizes_of(load_checked(file, words).config)
        planned, (peak, sent) = layouts.need(sizes, layout, 4, "reduced in each" in name), lived[name]
        print(f"{name}: {planned.peak / 1e6:.2f} and {planned.sent / 1e6:.2f} MB planned, {peak} and {sent} found")
        assert planned.peak == pytest.approx(peak, rel=0.1), name  # buffers of a small model are told in layers' worth
        if layout.replicate == 1:  # what DDP sends is sent where this does not look
            assert planned.sent == pytest.approx(sent, rel=0.02), name


@installed.divides_built_models
def test_a_file_whose_layers_cannot_be_divided_is_refused_by_check(file, capsys):
    words = ["check", str(file), "fsdp.enable_fsdp=true"]
    assert main([*words, "fsdp.tensor=2"]) == 0
    for more, told in (
        (["fsdp.tensor=4"], "LlamaForCausalLM has num_key_value_heads=2, which 4 processes cannot divide (tensor=4)."),
        (["fsdp.tensor=2", "model.model_name=gpt2", "model.model_kwargs={}"], "GPT2LMHeadModel has no plan of tensor"),
        (["fsdp.tensor=2", "model.model_kwargs.intermediate_size=351"], "mlp.gate_proj' has 351 outputs, which 2 proc"),
        (["fsdp.tensor=2", "training.torch_compile=true"], "torch_compile=True cannot be used with tensor parallelism"),
    ):
        capsys.readouterr()
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err


def test_what_a_run_needs_in_all_is_told_of_whole_layers(file):
    """Of which follows how much of the disk its checkpoints take, which all processes write together."""
    divided = load_checked(file, ["fsdp.enable_fsdp=true", "fsdp.tensor=2"]).config
    assert memory.for_config(divided) == memory.for_config(load_checked(file).config)


@installed.divides_built_models
def test_the_plan_of_more_gpus_is_a_table_with_the_best_layout(file, capsys):
    words = ["plan", str(file), "--gpus", "16", "--per-machine", "4", "training.gradient_accumulation_steps=2"]
    assert main([*words, "--memory", "1"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "GB of one process, at the peak of a step of 2 micro-batches of 4 rows:"
    assert [line.split("  ")[-1].strip() for line in told[2:-1]] == [
        "16 whole copies (DDP)",
        "4 copies, each sharded over 4 processes",
        "4 copies, each sharded over 4 processes, gradients reduced in every micro-batch",
        "parameters sharded over 16 processes",
        "parameters sharded over 16 processes, gradients reduced in every micro-batch",
        "8 copies, layers divided over 2 processes",
        "4 copies, each sharded over 2 processes, layers divided over 2",
        "4 copies, each sharded over 2 processes, layers divided over 2, gradients reduced in every micro-batch",
        "parameters sharded over 8 processes, layers divided over 2",
        "parameters sharded over 8 processes, layers divided over 2, gradients reduced in every micro-batch",
    ]
    assert told[-1].startswith("Best: nothing to set; up to ")
    assert main([*words, "--memory", "0.001"]) == 1
    assert "None fits 0.001 GB" in capsys.readouterr().out


@installed.divides_built_models
def test_layers_are_divided_only_where_nothing_else_fits(file, monkeypatch):
    """By the bytes that the layouts of 4 processes need: for as much as copies need they are taken, for less one copy,
    and for less layers are divided over 2, for 4 do not divide the heads; and over none on machines of one process."""
    config = load_checked(file).config
    found = [need for sizes in by_tensor(config, 4, 4) for need in layouts.needs(sizes, 4, 4, 4)]
    peaks = [one.peak for one in found]
    assert peaks == sorted(peaks, reverse=True)
    assert [one.layout for one in found] == [
        Layout(replicate=4), Layout(shard=4), Layout(replicate=2, tensor=2), Layout(shard=2, tensor=2)
    ]  # fmt: skip
    assert [sizes.tensor for sizes in by_tensor(config, 4, 1)] == [1]
    with pytest.raises(ConfigError, match="fsdp.tensor is 2, which does not divide 5 processes and 5 of a machine"):
        list(by_tensor(load_checked(file, ["fsdp.enable_fsdp=true", "fsdp.tensor=2"]).config, 5, 5))
    config.training.torch_compile = True  # with which layers cannot be divided
    assert [sizes.tensor for sizes in by_tensor(config, 4, 4)] == [1]
    monkeypatch.setattr(layouts, "current_world", lambda: World(size=4, local_size=4))
    config = load_checked(file).config
    for one in found:
        machine = SimpleNamespace(total=4 * (one.peak + 1) / 0.9)
        monkeypatch.setattr(layouts.psutil, "virtual_memory", lambda machine=machine: machine)
        assert layouts.chosen_here(config) == layouts.overrides(one)
    assert layouts.overrides(found[-1]) == [
        "fsdp.enable_fsdp=true", "fsdp.replicate=1", "fsdp.shard=2", "fsdp.tensor=2"
    ]  # fmt: skip


def test_what_is_sent_is_what_rings_pass():
    sizes = Sizes(weights=1000, trained=1000, moments=2000, used=1000, reduced=1000, ends=200, block=100, row=1,
                  again=0, logits=0, micro_batches=2)  # fmt: skip
    assert layouts.sent(sizes, Layout(replicate=4), 1) == 2 * 1000 * 3 / 4
    assert layouts.sent(sizes, Layout(shard=4), 1) == (2 * 1800 + 1000) * 3 / 4
    assert layouts.sent(sizes, Layout(shard=4), 1, reduce_often=True) == (2 * 1800 + 2000) * 3 / 4
    assert layouts.sent(sizes, Layout(replicate=2, shard=4), 1) == (2 * 1800 + 1000) * 3 / 4 + 2 * 250 / 2
    divided = dataclasses.replace(sizes, tensor=2, talk=50)
    assert layouts.sent(divided, Layout(tensor=2), 3) == 50 * 3 * 2
    assert layouts.sent(divided, Layout(replicate=2, tensor=2), 3) == 50 * 3 * 2 + 2 * 1000 / 2
