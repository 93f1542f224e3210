"""What the files of a sharded model hold is what transformers writes of a whole one; checkpoints are read in parts."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests import tiny
from trainwright.checkpoint import layout
from trainwright.checkpoint.checkpoints import Checkpoints
from trainwright.checkpoint.sharded import weights
from trainwright.errors import ConfigError
from trainwright.parallel.sharded import Sharded

MODELS = {
    "llama": tiny.llama,
    "tied": lambda: tiny.llama(tie_word_embeddings=True),
    "gpt2": tiny.gpt2,
    "another name on disk": tiny.gpt_neox,
    "ties of biases": tiny.bert_masked,
    "three ties": tiny.t5,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_names_and_ties_of_the_files_are_those_of_transformers(kind, tmp_path):
    model = MODELS[kind]()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / layout.WEIGHTS, "pt") as file:
        wanted = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = weights.on_disk(model)
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(tensor) for name, tensor in wanted.items())


def test_a_plain_module_has_its_own_names_once():
    model = tiny.words()
    model.head.weight = model.embedding.weight
    assert list(weights.on_disk(model)) == ["embedding.weight", "hidden.weight", "hidden.bias", "head.bias"]


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def test_experts_that_files_have_apart_lie_in_a_checkpoint_as_in_memory(tmp_path):
    model = mixtral()
    found = weights.on_disk(model)
    assert found.keys() == model.state_dict().keys()
    model.save_pretrained(tmp_path)
    (tmp_path / layout.WEIGHTS).unlink()
    save_file({name: tensor.detach() for name, tensor in found.items()}, tmp_path / layout.WEIGHTS, {"format": "pt"})
    again = type(model).from_pretrained(tmp_path).state_dict()
    assert all(again[name].equal(tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [*MODELS, "experts"])
def test_what_the_processes_give_on_is_what_transformers_saves(kind, tmp_path):
    model = {**MODELS, "experts": mixtral}[kind]()
    model.save_pretrained(tmp_path)
    wanted = load_file(tmp_path / layout.WEIGHTS)
    contents = weights.contents_of(model, 2, to_give_on=True)
    index = json.loads(contents.index(2))["weight_map"]
    for process in range(2):
        mine = layout.of_share(layout.WEIGHTS, layout.Share(process, 2))
        owned = {name: tensor for name, tensor in contents.tensors.items() if contents.owner[name] == process}
        written = contents.written(model, owned, process)
        assert set(written) == {name for name, file in index.items() if file == mine}
        for name, tensor in written.items():
            assert tensor.equal(wanted.pop(name))
    assert not wanted


def test_a_loop_of_ones_own_does_not_save_a_sharded_model(tmp_path):
    with pytest.raises(ConfigError, match="Sharded spreads the model over processes, and a loop of one's own cannot"):
        Checkpoints(tmp_path, Sharded(), tiny.new_line(), {})
