"""Layers that are compiled one by one: whole graphs, one for all layers, with the numbers of layers that are not."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(model):
    """Compile a model's layers without the code of a backend, whose graphs are the same."""
    for layer in model.model.layers:
        layer.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    return model


def test_a_layer_is_one_graph_for_all_layers_and_lengths():
    plain, fast = tiny.llama(), compiled(tiny.llama())
    for rows, length in ((2, 9), (3, 14), (4, 20)):
        ids = torch.randint(3, tiny.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        mask[-1, length // 2 :] = 0
        found = []
        for model in (plain, fast):
            model.zero_grad()
            loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)  # operations are taken together in another order
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_run_with_compiled_layers_keeps_the_fused_loss_and_has_the_losses_of_one_without(tmp_path, caplog):
    found = []
    for model in (tiny.llama(), compiled(tiny.llama())):
        args = TrainingArguments(
            str(tmp_path / str(len(found))), max_steps=6, logging_steps=1, per_device_train_batch_size=4,
            report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True,
        )  # fmt: skip
        rows = tiny.tokens(24, ragged=True)
        for row in rows:
            row["attention_mask"] = (row["labels"] != -100).long()
        trainer = Trainer(model, args, train_dataset=rows)
        trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert "use_fused_loss is off" not in caplog.text
    assert (
        counters["stats"]["unique_graphs"] <= 4
    )  # with and without gradients, which the first batch is proven without


def run(place, resume=False, **changes):
    """The losses of a run whose layers are compiled, or as `changes` say."""
    args = TrainingArguments(
        str(place), logging_steps=1, per_device_train_batch_size=4, report_to="none", disable_tqdm=True, use_cpu=True,
        **{"max_steps": 6, "save_strategy": "no", "torch_compile": "layers"} | changes,
    )  # fmt: skip
    trainer = Trainer(tiny.llama(num_hidden_layers=3), args, train_dataset=tiny.tokens(24, ragged=True))
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_torch_compile_layers_makes_one_graph_and_keeps_the_numbers(tmp_path):
    found = run(tmp_path, torch_compile_backend="eager")
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 4  # not one for each layer: see above
    plain = run(tmp_path, torch_compile=False)
    assert found == pytest.approx(plain, rel=1e-4)
    assert run(tmp_path, torch_compile_backend="eager", activation_checkpointing=True) == pytest.approx(plain, rel=1e-4)


def test_a_run_of_compiled_layers_goes_on_bitwise(tmp_path):
    compiled = {"torch_compile_backend": "eager", "save_strategy": "steps", "save_steps": 3}
    whole = run(tmp_path / "whole", **compiled)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "half" / "checkpoint-3")
    assert run(tmp_path / "half", resume=True, **compiled)[-3:] == whole[-3:]


@pytest.mark.parametrize(
    ("value", "told"), [("layer", "Did you mean 'layers'?"), ("layers", "no layers that it repeats")]
)
def test_what_cannot_be_compiled_so_is_told(tmp_path, value, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        args = TrainingArguments(str(tmp_path), torch_compile=value, max_steps=1, report_to="none", use_cpu=True)
        Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows()).train()
