"""Attention within documents on a CPU, and the memory that the head's chunks share."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainwright.models.kernels.attention import Documents
from trainwright.models.kernels.causal import BLOCK, fits
from trainwright.models.kernels.packed_attention import document_attention
from trainwright.objectives.linear.loss import CHUNK, linear_cross_entropy, linear_log_probs
from trainwright.objectives.linear.rows import new_watch

LENGTHS = [3, BLOCK, BLOCK + 1, 3 * BLOCK - 5, 700]  # the first is too short for the kept softmax, the last too long


def plain(query, key, value, scale):
    """Every document by itself, as the formula says it."""
    groups = query.shape[1] // key.shape[1]
    found = []
    for q, k, v in zip(*(part.split(LENGTHS, dim=2) for part in (query, key, value)), strict=True):
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q @ k.transpose(2, 3) * scale).masked_fill(~torch.ones(q.shape[2], q.shape[2]).tril().bool(), -1e300)
        found.append(scores.softmax(-1) @ v)
    return torch.cat(found, 2).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [4, 2], ids=["a key each", "shared keys"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_within_documents_and_its_gradients_are_the_formulas(key_heads, scale):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(LENGTHS)
    given = [
        torch.randn(1, heads, tokens, 16, dtype=torch.float64, generator=generator)
        for heads in (4, key_heads, key_heads)
    ]
    upstream = torch.randn(1, tokens, 4, 16, dtype=torch.float64, generator=generator)
    found = []
    for function in (
        lambda *parts: plain(*parts, scale or 16**-0.5),
        lambda *parts: document_attention(None, *parts, None, 0.0, scale, Documents(LENGTHS))[0],
    ):
        parts = [part.clone().requires_grad_() for part in given]
        attended = function(*parts)
        attended.backward(upstream)
        found.append([attended.detach(), *(part.grad for part in parts)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)  # sums of some hundred products in float64


@pytest.mark.parametrize("window", [None, 70])
def test_documents_that_go_on_from_another_attend_to_it_as_if_they_began_with_it(window):
    lengths, begins = [90, 30, 200, 5, 64], [None, 0, 0, None, 3]
    generator, total = torch.Generator().manual_seed(0), sum(lengths)
    given = [torch.randn(1, heads, total, 16, dtype=torch.float64, generator=generator) for heads in (4, 2, 2)]
    upstream = torch.randn(1, total, 4, 16, dtype=torch.float64, generator=generator)
    places = list(torch.arange(total).split(lengths))
    found = []
    for goes_on in (True, False):
        parts = [part.clone().requires_grad_() for part in given]
        documents = Documents(lengths, begins=begins)
        if goes_on:
            attended = document_attention(None, *parts, None, documents=documents, sliding_window=window)[0]
        else:  # each by itself, whole
            each = []
            for place, begin in zip(places, begins, strict=True):
                whole = place if begin is None else torch.cat([places[begin], place])
                query, key, value = (part[:, :, whole] for part in parts)
                seen = torch.ones(len(whole), len(whole), dtype=torch.bool).tril()
                seen = seen if window is None else seen.triu(1 - window)
                one = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
                each.append(one[:, :, -len(place) :])
            attended = torch.cat(each, dim=2).transpose(1, 2)
        attended.backward(upstream)
        found.append([attended.detach(), *(part.grad for part in parts)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)  # sums of some hundred products in float64


def test_a_softmax_is_kept_where_it_is_small_and_the_device_a_cpu():
    def document(length, dtype=torch.float32, device="cpu"):
        return torch.empty(1, 4, length, 16, dtype=dtype, device=device)

    assert [length for length in (3, 63, 64, 128, 129, 700) if fits(document(length), document(length), 0.0)] == [
        64,
        128,
    ]
    for query, dropout in (
        (document(64, torch.bfloat16), 0.0),
        (document(64, device="meta"), 0.0),
        (document(64), 0.1),
    ):
        assert not fits(query, query, dropout)


class Made(TorchDispatchMode):
    """Counts the tensors of a size that are made anew."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.seen, self.alive = numbers, set(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes() == 4 * self.numbers:
                self.seen.add(one.untyped_storage()._cdata)
                self.alive.append(one)  # else its memory's address may become another's
        return result


@pytest.mark.parametrize("function", [linear_cross_entropy, linear_log_probs])
@pytest.mark.parametrize(("watched", "most"), [(False, 1), (True, 2)])
def test_all_chunks_of_the_head_use_the_same_memory(monkeypatch, function, watched, most):
    monkeypatch.setattr("trainwright.objectives.linear.loss._ELEMENTS", 0)
    monkeypatch.setattr("trainwright.objectives.linear.loss._KEPT", 0)
    rows, classes = 4 * CHUNK, 50
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(classes, 8, requires_grad=True)
    watch = new_watch(("top1", "entropy", "mean_logit", "log_sum_square"), hidden) if watched else None
    with Made(CHUNK * classes) as made:
        function(hidden, weight, torch.arange(rows) % classes, watch=watch)
    assert len(made.seen) == most
    if watched:
        logits = (hidden @ weight.T).double()
        shares = logits.softmax(-1)
        torch.testing.assert_close(watch["entropy"].double(), -(shares * shares.log()).sum(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(watch["mean_logit"].double(), logits.mean(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(watch["log_sum_square"].double(), shares.square().sum(1).log(), rtol=1e-5, atol=1e-5)
        assert watch["top1"].bool().equal(logits.argmax(1) == torch.arange(rows) % classes)
