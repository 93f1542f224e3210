"""The head's loss as a card computes it, on a CPU: chunks by memory, half formats with sums in float32, and a softmax
that compiles whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainwright.objectives.linear import card_products
from trainwright.objectives.linear import loss as linear_loss
from trainwright.objectives.linear.loss import linear_cross_entropy, linear_log_probs
from trainwright.objectives.linear.rows import losses_of, new_watch

CLASSES, WIDTH, ROWS = 2000, 64, 700


def given(kind):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(kind).requires_grad_()
    weight = (torch.randn(CLASSES, WIDTH, generator=generator) / 8).to(kind).requires_grad_()
    return hidden, weight, torch.randint(CLASSES, (ROWS,), generator=generator)


def off(ours, exact):
    return float((ours.double() - exact).norm() / exact.norm())


def gradients(way, hidden, weight, targets):
    if way == "sum":
        return torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    if way == "of rows":
        return torch.autograd.grad(-linear_log_probs(hidden, weight, targets).sum(), (hidden, weight))
    logits = hidden.double() @ weight.double().T
    return torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), (hidden, weight))


@pytest.mark.parametrize("way", ["sum", "of rows"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_float64_and_no_farther_than_without(way, kind, monkeypatch):
    monkeypatch.setattr(card_products, "_WITHOUT_CARD", 4 * CLASSES * 300)
    hidden, weight, targets = given(kind)
    hidden64, weight64 = (one.detach().double().requires_grad_() for one in (hidden, weight))
    exact = gradients("exact", hidden64, weight64, targets)
    plain = gradients(way, hidden, weight, targets)
    with card_products.as_on_card():
        assert [part.stop for part in linear_loss.chunks(hidden, linear_loss.chunk_size(weight))] == [300, 600, 900]
        found = gradients(way, hidden, weight, targets)
    close = 1e-5 if kind == torch.float32 else 4e-3  # bfloat16 has 8 bits, of which a result is rounded to
    for ours, before, expected in zip(found, plain, exact, strict=True):
        assert off(ours, expected) < close
        assert off(ours, expected) <= 1.01 * off(before, expected)


def test_a_card_takes_chunks_of_a_share_of_its_memory(monkeypatch):
    class Card:
        is_cuda, device = True, torch.device("cuda")

    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert card_products.rows_at_a_time(Card.device, 151_936) == 2208
    assert not card_products.is_used(Card())  # nothing is recorded
    monkeypatch.setattr(card_products, "PASSED", (card_products.Passed("NVIDIA H100", torch.__version__[:4]),))
    assert card_products.is_used(Card())
    monkeypatch.setattr(card_products, "PASSED", (card_products.Passed("NVIDIA A100", torch.__version__[:4]),))
    assert not card_products.is_used(Card())


@pytest.mark.slow
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("noted", [(), ("top1", "entropy")])
def test_the_softmax_of_a_chunk_compiles_without_a_break(cap, noted):
    hidden, weight, targets = given(torch.float32)
    logits = (hidden @ weight.T).detach()
    compiled = torch.compile(losses_of, backend="aot_eager", dynamic=True, fullgraph=True)
    found = []
    for function in (losses_of, compiled):
        watch, room = new_watch(noted, logits) or None, torch.empty_like(logits) if noted else None
        more = {"scale": 1.0, "cap": cap, "with_gradient": True, "watch": watch, "into": room}
        losses, gradient = function(logits.clone(), targets, **more)
        found.append([losses, gradient.clone(), *(watch or {}).values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
