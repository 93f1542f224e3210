"""What is asked of a sharded model, in everybody's words: read, refused by name, and laid out over the processes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests import tiny
from trainwright import ConfigError, Strategy, TrainingArguments, processes
from trainwright.args.sharding import sharding_of
from trainwright.parallel.blocks import blocks_of
from trainwright.parallel.choice import chosen
from trainwright.parallel.ddp import DataParallel
from trainwright.parallel.layouts.layout import Layout
from trainwright.parallel.layouts.sharding import Sharding
from trainwright.parallel.sharded import Sharded
from trainwright.parallel.tensor import TensorSharded
from trainwright.world import World


def asked(**args):
    return sharding_of(TrainingArguments("run", use_cpu=True, **args))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"fsdp": ""}, None),
        ({"fsdp": True}, Sharding()),
        ({"fsdp": "full_shard auto_wrap"}, Sharding()),
        ({"fsdp": ["shard_grad_op"]}, Sharding(reshard_after_forward=False)),
        ({"fsdp": "hybrid_shard"}, Sharding(hybrid=True)),
        ({"fsdp": True, "fsdp_config": {"sharding_strategy": "NO_SHARD"}}, None),
        ({"fsdp": True, "fsdp_config": {"fsdp_reshard_after_forward": "false"}}, Sharding(reshard_after_forward=False)),
        (
            {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": "A, B", "version": 2}},
            Sharding(layer_names=("A", "B")),
        ),
        (
            {"fsdp": True, "fsdp_config": {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 9}},
            Sharding(wrap="size", min_num_params=9),
        ),
        (
            {"fsdp": True, "fsdp_config": {"shard": 4, "replicate": 2, "reduce_gradients": "micro_batch"}},
            Sharding(Layout(2, 4), reduce_often=True),
        ),
        (
            {"fsdp": True, "fsdp_config": {"param_dtype": "bf16", "reduce_dtype": "fp32"}},
            Sharding(param_dtype="bf16", reduce_dtype="fp32"),
        ),
        ({"parallelism_config": {"dp_replicate_size": 2, "dp_shard_size": 4}}, Sharding(Layout(2, 4))),
        ({"parallelism_config": SimpleNamespace(fsdp_size=4, tp_size=1, cp_size=None)}, Sharding(Layout(1, 4))),
        ({"parallelism_config": SimpleNamespace(dp_shard_size=1)}, None),
    ],
    ids=str,
)
def test_the_words_of_transformers_and_accelerate_are_read(given, expected):
    assert asked(**given) == expected


def test_a_file_of_json_and_the_environment_of_accelerate_are_read(tmp_path, monkeypatch):
    file = tmp_path / "fsdp.json"
    file.write_text(json.dumps({"reshard_after_forward": False}))
    assert asked(fsdp=True, fsdp_config=str(file)) == Sharding(reshard_after_forward=False)
    with pytest.raises(ConfigError, match="fsdp_config='nothing.json' is no file of JSON that can be read"):
        asked(fsdp=True, fsdp_config="nothing.json")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_SHARDING_STRATEGY", "SHARD_GRAD_OP")
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer")
    assert asked() == Sharding(reshard_after_forward=False, layer_names=("LlamaDecoderLayer",))


def test_recomputed_activations_are_an_argument_of_their_own():
    args = TrainingArguments("run", use_cpu=True, fsdp=True, fsdp_config={"activation_checkpointing": True})
    assert args.gradient_checkpointing
    assert args.activation_checkpointing


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"fsdp": True, "fsdp_config": {"cpu_offload": True}}, "cpu_offload=True is not supported: parameters stay"),
        ({"fsdp": "full_shard offload"}, "cpu_offload=True is not supported"),
        ({"fsdp": "shard_everything"}, "sharding_strategy='SHARD_EVERYTHING' is not known"),
        ({"fsdp": True, "fsdp_config": {"min_num_parms": 3}}, "has no key 'min_num_parms'.*min_num_params"),
        ({"fsdp": True, "fsdp_config": {"param_dtype": "fp8"}}, "param_dtype='fp8' is not known.*bf16, fp32"),
        ({"fsdp": True, "fsdp_config": {"shard": 0}}, "shard=0 must be a whole number of at least 1"),
        ({"fsdp": True, "fsdp_config": {"xla": True}}, "XLA is not supported"),
        ({"fsdp_config": {"shard": 2}}, "fsdp_config has no effect without fsdp=True"),
        ({"fsdp": True, "optim": "adafactor"}, "optim='adafactor' cannot be used with fsdp: .* Use adamw_torch"),
        ({"fsdp": True, "fp16": True}, "fp16=True cannot be used with fsdp: .*use bf16=True"),
        ({"parallelism_config": {"dp_shard_size": 2, "cp_size": 2}}, "cp_size=2 asks for context parallelism"),
        (
            {"parallelism_config": {"tp_size": 2}, "torch_compile": True},
            "torch_compile=True cannot be used with tensor",
        ),
        (
            {"parallelism_config": {"tensor": 2}, "use_liger_kernel": True},
            "use_liger_kernel=True cannot be used with ten",
        ),
        (
            {"fsdp": True, "fsdp_config": {"tensor": 2}, "auto_find_batch_size": True},
            "the others wait in the middle of",
        ),
        ({"parallelism_config": {"tensor": 2}, "optim": "adafactor"}, "optim='adafactor' cannot be used with fsdp"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name_before_work_starts(given, told):
    with pytest.raises(ConfigError, match=told):
        asked(**given)


def test_the_strategy_follows_the_processes_and_what_is_asked():
    assert type(chosen(World(), Sharding())) is Strategy
    assert type(chosen(World(size=2), None)) is DataParallel
    assert type(chosen(World(size=2), Sharding(Layout(replicate=2)))) is DataParallel
    assert type(chosen(World(size=2, local_size=1), Sharding(hybrid=True))) is DataParallel
    assert type(chosen(World(size=4, local_size=2), Sharding(hybrid=True))) is Sharded
    assert type(chosen(World(size=2), Sharding(Layout(tensor=2)))) is TensorSharded
    with pytest.raises(ConfigError, match=r"2 × 2 × 1 \(replicate × shard × tensor\) = 4 processes, and 1 run"):
        chosen(World(), Sharding(Layout(2, 2)))


def test_layouts_are_told_in_words():
    assert Layout(1, 4).describe() == "parameters sharded over 4 processes"
    assert Layout(2, 4).describe() == "2 copies, each sharded over 4 processes"
    assert Layout(2, 4, 2).describe() == "2 copies, each sharded over 4 processes, layers divided over 2"
    assert Layout(2, 1, 2).describe() == "2 copies, layers divided over 2 processes"
    assert (Layout(2, 4, 2).size, Layout(2, 4, 2).data_ranks, Layout(2, 4, 2).data_index(5)) == (16, 8, 2)
    assert Sharding(hybrid=True).layout_for(16, 8) == Layout(replicate=2, shard=8)


def names(model, **sharding):
    found = blocks_of(model, Sharding(**sharding))
    return [name for part in found for name, one in model.named_modules() if one is part]


def test_the_layers_of_a_transformer_are_gathered_one_by_one():
    assert names(tiny.llama()) == ["model.layers.1", "model.layers.0"]
    assert names(tiny.llama(), layer_names=("LlamaMLP",)) == ["model.layers.1.mlp", "model.layers.0.mlp"]
    assert names(tiny.llama(), wrap="none") == []
    assert names(nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))) == ["0.1", "0.0"]
    with pytest.raises(ConfigError, match=r"no layer of class 'LlamaLayer' to shard\. .*LlamaDecoderLayer"):
        names(tiny.llama(), layer_names=("LlamaLayer",))


def test_modules_of_a_size_are_gathered_without_those_within_and_never_the_embeddings():
    found = names(tiny.llama(), wrap="size", min_num_params=3000)
    assert found == [f"model.layers.{layer}.{part}" for layer in (1, 0) for part in ("mlp", "self_attn")]
    assert names(tiny.llama(), wrap="size", min_num_params=8000) == ["model.layers.1", "model.layers.0"]


def test_a_layer_that_shares_a_parameter_with_another_stays_with_the_rest():
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)])
    layers[2].weight = layers[0].weight
    assert names(nn.Sequential(layers)) == ["0.1"]


@pytest.fixture
def one():
    """A strategy of one process, whose parameters are DTensors all the same."""
    strategy = Sharded()
    from trainwright.parallel.strategy import ProcessOptions

    strategy.setup(World(), torch.device("cpu"), ProcessOptions())
    yield strategy
    processes.leave()


def hooked() -> nn.Module:
    """Return a layer of which a user's hook lets the first row alone be trained."""
    layer = nn.Linear(2, 2)
    layer.weight.register_hook(lambda gradient: gradient * torch.tensor([[1.0], [0.0]]))
    return layer


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.ParameterList([nn.Parameter(torch.ones(()))]), "The parameter '0' is a scalar"),
        (nn.Linear(2, 2, device="meta"), "'weight' lies on the meta device, so it has no numbers"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), r"one number format.*float32 .*float64"),
        (hooked(), r"'weight' has a hook on its gradient \(register_hook\), and torch calls none of a sharded model's"),
    ],
    ids=["scalar", "meta", "formats", "hook"],
)
def test_a_model_that_cannot_be_sharded_is_refused(one, model, told):
    with pytest.raises(ConfigError, match=told):
        one.place(model)


def test_a_parameter_keeps_its_attributes_and_may_lie_in_any_order(one):
    """Optimizers are made after a user's notes on parameters; convolutions may be in `channels_last`."""
    model = nn.Sequential(nn.ModuleList([nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 2)]), nn.Linear(2, 2))
    model.to(memory_format=torch.channels_last)
    numbers = [parameter.detach().clone() for parameter in model.parameters()]
    model[0][1].weight.rate = model[1].bias.rate = 0.5
    one.place(model)
    assert [name for name, p in model.named_parameters() if getattr(p, "rate", None) == 0.5] == ["0.1.weight", "1.bias"]
    assert all(torch.equal(p.full_tensor(), own) for p, own in zip(model.parameters(), numbers, strict=True))
