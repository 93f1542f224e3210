"""Layers that are compiled one by one: whole graphs, one for all layers, with the numbers of layers that are not."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from tests import tiny
from trainwright import Trainer, TrainingArguments

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
