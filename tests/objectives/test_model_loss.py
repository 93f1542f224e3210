"""A loss function of the user's: what it is given of batches with and without names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainwright.objectives.model_loss import ModelLoss

X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([1.0, 2.0, 4.0])


class Sums(nn.Module):
    def forward(self, x):
        return x.sum(1)


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], {"x": X, "labels": Y}], ids=["a tuple", "a list", "names"])
@pytest.mark.parametrize("num_items", [None, 12.0])
def test_it_is_given_outputs_labels_and_the_items_of_the_step(batch, num_items):
    given = []

    def squared(outputs, labels, num_items_in_batch=None):
        given.append(num_items_in_batch)
        return ((outputs - labels) ** 2).sum() / (num_items_in_batch or len(labels))

    found = ModelLoss(loss_function=squared).loss(Sums(), batch, num_items)
    assert given == [num_items]
    assert found.value.item() == pytest.approx((0 + 3**2 + 5**2) / (num_items or 3))
    assert torch.equal(found.outputs, X.sum(1))
