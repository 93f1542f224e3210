"""What a model's configuration says of weights that it ties, after an adapter was merged into one of them."""

from __future__ import annotations

import pytest
from torch import nn

from tests import tiny
from trainwright.checkpoint.model.adapters import say_untied


class Around(nn.Module):
    """A model with models of transformers in it, as composed ones are."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.ModuleList(inner)


@pytest.mark.parametrize("untied", [False, True])
def test_a_configuration_says_what_is_so_of_the_model_and_of_each_in_it(untied):
    changed, other = tiny.llama(tie_word_embeddings=True), tiny.llama(tie_word_embeddings=True)
    if untied:
        changed.lm_head.weight = nn.Parameter(changed.lm_head.weight.detach().clone())
    say_untied(Around(nn.Linear(1, 1), changed, other, tiny.llama()))
    assert changed.config.tie_word_embeddings is not untied
    assert other.config.tie_word_embeddings is True
