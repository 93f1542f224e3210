"""What the files of a sharded model hold is what transformers writes of a whole one; what cannot be is refused."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from tests import tiny
from trainwright.checkpoint import layout
from trainwright.checkpoint.checkpoints import Checkpoints
from trainwright.checkpoint.sharded import weights
from trainwright.errors import ConfigError, UnsavableError
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


def test_a_model_with_other_tensors_in_its_files_is_refused():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    with pytest.raises(UnsavableError, match="MixtralForCausalLM has other tensors in its files than in memory"):
        weights.on_disk(MixtralForCausalLM(MixtralConfig(**sizes, **heads)))


def test_a_loop_of_ones_own_does_not_save_a_sharded_model(tmp_path):
    with pytest.raises(ConfigError, match="Sharded spreads the model over processes, and a loop of one's own cannot"):
        Checkpoints(tmp_path, Sharded(), tiny.new_line(), {})
