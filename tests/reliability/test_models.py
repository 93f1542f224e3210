"""Models whose files are not simply their state: tied weights, experts that are merged in memory, adapters, buffers."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests import tiny
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.checkpoint.snapshot import HostCopies, size_of


def mixtral(seed=0):
    torch.manual_seed(seed)
    config = transformers.MixtralConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


class Tied(nn.Module):
    """A head that is the embedding, and a second name for it."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(tiny.VOCABULARY, 8)
        self.head = nn.Linear(8, tiny.VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, input_ids, labels=None):
        logits = self.head(torch.tanh(self.embedding(input_ids))) * self.scale
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


MODELS = {
    "tied llama": lambda seed=0: tiny.llama(seed, tie_word_embeddings=True),
    "merged experts": mixtral,
    "encoder and decoder": lambda seed=0: tiny.t5(seed),
    "tied plain module": Tied,
}


def made(place, model, steps=6):
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(16)]
    args = TrainingArguments(
        str(place), max_steps=steps, save_steps=3, use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant"
    )
    return Trainer(model, args, train_dataset=rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_resumed_bitwise_and_readable_by_its_library(tmp_path, name):
    straight = made(tmp_path, MODELS[name]())
    straight.train()
    if straight.model.__class__.__module__.startswith("transformers"):
        loaded = type(straight.model).from_pretrained(tmp_path / "checkpoint-6")
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), straight.model.parameters(), strict=True))
        straight.model.save_pretrained(tmp_path / "theirs")
        theirs, ours = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "checkpoint-6"))
        assert theirs.keys() == ours.keys()
    resumed = made(tmp_path, MODELS[name](seed=5))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), straight.model.parameters(), strict=True))


def test_another_architecture_is_named_before_anything_changes(tmp_path):
    made(tmp_path, mixtral()).train()
    other = tiny.llama()
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(CheckpointError, match="of another architecture"):
        made(tmp_path, other).train(resume_from_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_snapshot_copies_each_storage_once_and_reuses_its_memory():
    weight = torch.randn(5, 4)
    group = {"params": [0], "betas": (0.9, 0.999)}
    tree = {"a": weight, "b": weight.t(), "half": weight[2:], "group": group, "step": torch.tensor(3.0)}
    copies = HostCopies()
    taken = copies.take(tree)
    assert all(torch.equal(taken[name], tree[name]) for name in ("a", "b", "half", "step"))
    assert taken["a"].untyped_storage().data_ptr() == taken["b"].untyped_storage().data_ptr()
    assert taken["a"].data_ptr() != weight.data_ptr()
    assert taken["half"].storage_offset() == 8
    assert size_of(taken) == 5 * 4 * 4 + 4
    group["params"].append(1)
    assert taken["group"]["params"] == [0]
    place = taken["a"].data_ptr()
    weight.add_(1)
    again = copies.take(tree)
    assert again["a"].data_ptr() == place
    assert torch.equal(again["a"], weight)
