"""Activations computed again: of every n-th layer, with inputs in host memory; the numbers are those without."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.models.activations import checkpoint_activations, within_budget

LAYERS = 4
IDS = torch.randint(3, tiny.VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


def made(**settings):
    model = tiny.llama(num_hidden_layers=LAYERS).train()
    if settings:
        checkpoint_activations(model, {name: value for name, value in settings.items() if value is not None})
    return model


def gradients(model):
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def runs(model):
    """How often every layer's attention runs in a step."""
    counts = [0] * LAYERS
    for number, layer in enumerate(model.model.layers):

        def count(module, given, number=number):
            counts[number] += 1

        layer.self_attn.q_proj.register_forward_pre_hook(count)
    gradients(model)
    return counts


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": None}, [2, 2, 2, 2]),
        ({"every": 2}, [2, 1, 2, 1]),
        ({"every": 3, "offload": True}, [2, 1, 1, 2]),
        ({"every": 9}, [2, 1, 1, 1]),
        ({"offload": True, "use_reentrant": False}, [2, 2, 2, 2]),
    ],
    ids=str,
)
def test_the_layers_that_are_asked_for_recompute_and_no_number_changes(settings, expected):
    plain, model = made(), made(**settings)
    assert all(torch.equal(one, other) for one, other in zip(gradients(plain), gradients(model), strict=True))
    assert runs(model) == expected
    assert runs(plain) == [1] * LAYERS


def test_the_inputs_of_layers_that_recompute_go_to_the_host(monkeypatch):
    moved = []

    class Moves(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory):
            assert not pin_memory
            super().__init__(lambda tensor: moved.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor)

    monkeypatch.setattr("trainwright.models.activations.save_on_cpu", Moves)
    gradients(made(offload=False))
    assert moved == []
    gradients(made(offload=True))
    assert moved.count((2, 9, 32)) == LAYERS


def test_a_second_call_asks_anew():
    model = made(every=2)
    checkpoint_activations(model, {})
    assert runs(model) == [2] * LAYERS


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "two"])
def test_what_is_no_number_of_layers_is_refused(every):
    with pytest.raises(ConfigError, match="is no number of layers from 1 on"):
        made(every=every)


def test_models_that_do_not_recompute_by_layers_are_refused():
    with pytest.raises(ConfigError, match="has no activation_checkpointing_enable"):
        checkpoint_activations(tiny.new_line(), {"every": 2})
    with pytest.raises(ConfigError, match="do not recompute one by one"):
        checkpoint_activations(tiny.llama(num_hidden_layers=1), {"offload": True})


def test_a_run_has_the_losses_of_one_without(tmp_path):
    found, again = [], []
    for number, settings in enumerate(({}, {"activation_checkpointing_kwargs": {"every": 2, "offload": True}})):
        args = TrainingArguments(
            str(tmp_path / str(number)), max_steps=3, logging_steps=1, per_device_train_batch_size=4, report_to="none",
            disable_tqdm=True, save_strategy="no", use_cpu=True, activation_checkpointing=bool(settings), **settings,
        )  # fmt: skip
        trainer, runs = Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16, ragged=True)), []
        for layer in trainer.model.model.layers:
            layer.input_layernorm.register_forward_hook(lambda *given, runs=runs: runs.append(1))
        trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        again.append(len(runs))
    assert found[0] == found[1]
    assert again == [2 * 3, 3 * 3]  # of two layers one is computed again, in each of three steps


def bytes_kept(model):
    """What the backward pass of a step finds kept, without the parameters."""
    held, parameters = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=IDS, labels=IDS, use_cache=False)
    return sum(size for _, size in held.values())


@pytest.mark.slow
def test_compiled_layers_keep_a_share_of_their_activations_and_no_number_changes():
    found = {}
    for share in (1.0, 0.5, 0.0):
        torch._dynamo.reset()
        model = made()
        for layer in model.model.layers:
            layer.compile(backend=within_budget("aot_eager_decomp_partition", share))  # the partitions of inductor
        found[share] = bytes_kept(model), gradients(model)
    assert found[1.0][0] > 1.3 * found[0.5][0] > 1.3 * 1.3 * found[0.0][0]
    assert all(torch.equal(*pair) for share in (0.5, 0.0) for pair in zip(found[1.0][1], found[share][1], strict=True))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("settings", "more", "wrong"),
    [
        ({"memory_budget": 0.5}, {}, "Give torch_compile='layers' as well"),
        ({"memory_budget": 2}, {}, "memory_budget=2 is no share"),
        ({"memory_budget": 0.5, "every": 2}, {"torch_compile": "layers"}, "every does too"),
        ({"memory_budget": 0.5}, {"torch_compile": "layers", "torch_compile_mode": "reduce-overhead"}, "two ways"),
    ],
)
def test_a_share_that_cannot_be_kept_is_refused(tmp_path, settings, more, wrong):
    args = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, activation_checkpointing=True,
        activation_checkpointing_kwargs=settings, **more,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=wrong):
        Trainer(tiny.llama(), args, train_dataset=tiny.tokens(8)).train()
