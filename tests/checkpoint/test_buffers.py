"""Buffers that have grown since the model was built: they take the saved shape, and the model's number format."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainwright.checkpoint.model.weights import load_model


class Remembers(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("memory", memory)


@pytest.mark.parametrize(
    ("now", "expected"),
    [(torch.zeros(1), torch.float32), (torch.zeros(1).double(), torch.float64), (None, torch.bfloat16)],
    ids=["float32", "float64", "none yet"],
)
def test_a_buffer_that_has_grown_has_the_models_format_and_a_new_one_that_of_the_file(tmp_path, now, expected):
    saved = {"layer.weight": torch.ones(1, 2), "layer.bias": torch.ones(1), "memory": torch.arange(3.0).bfloat16()}
    save_file(saved, tmp_path / "model.safetensors")
    model = Remembers(now)
    load_model(model, tmp_path)
    assert model.memory.dtype == expected
    assert model.memory.tolist() == [0, 1, 2]
