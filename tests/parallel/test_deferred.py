"""Weights that are drawn later, module by module, are those that are drawn at once; what cannot be is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from trainwright import Trainer, TrainingArguments, deferred_init
from trainwright.parallel import deferred


class Own(nn.Module):
    """Weights that are written in parts, by other ways than torch's own layers have, and tied."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32, padding_idx=3)
        self.first, self.second = nn.Linear(32, 64), nn.Linear(32, 64)
        self.second.weight = self.table.weight
        self.third = nn.Parameter(torch.empty(40, 40))
        self.register_buffer("mask", torch.empty(40, 40))
        nn.init.trunc_normal_(self.third, std=0.5)
        with torch.no_grad():
            self.third[:7].uniform_(-1, 1)
            self.third.mul_(2)
            self.mask.copy_(torch.ones(40, 40).tril())
            self.first.weight[:, 1] += 1


MODELS = {
    "own": Own,
    "llama": lambda: tiny.llama(tie_word_embeddings=True).to("cpu", torch.bfloat16),
    "gpt2": tiny.gpt2,
    "t5": tiny.t5,
    "bert": tiny.bert_classifier,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_numbers_ties_and_what_is_drawn_next_are_those_of_one_that_is_built_at_once(kind):
    torch.manual_seed(3)
    whole, after = MODELS[kind](), torch.rand(3)
    torch.manual_seed(3)
    model = deferred.built(MODELS[kind])
    assert any(p.is_meta for p in model.parameters())
    assert torch.equal(torch.rand(3), after)
    for part in reversed(list(model.modules())):  # in any order
        deferred.draw(part)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in whole.named_parameters()]
    for (name, one), other in zip(model.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
        assert one.dtype == other.dtype


class Scaled(nn.Module):
    """A weight that is made of another one's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight * 2)


class Asked(nn.Linear):
    """A layer that looks at its numbers."""

    def __init__(self) -> None:
        super().__init__(64, 64)
        self.scale = float(self.weight.detach().std())


@pytest.mark.parametrize(("kind", "told"), [(Scaled, "a weight is made of another one"), (Asked, "meta")])
def test_what_needs_its_numbers_at_once_is_said_and_the_stream_is_where_it_was(kind, told):
    torch.manual_seed(3)
    stream = torch.get_rng_state()
    with pytest.raises(deferred.CannotDeferError, match=told):
        deferred.built(kind)
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_trainer_draws_what_a_script_has_deferred(tmp_path):
    args = TrainingArguments(
        str(tmp_path), max_steps=2, save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True
    )
    ended, waiting = [], deferred_init(tiny.llama)
    assert any(p.is_meta for p in waiting.parameters())
    for model in (tiny.llama(), waiting):
        Trainer(model, args, train_dataset=tiny.tokens(16)).train()
        ended.append(list(model.parameters()))
    assert all(map(torch.equal, *ended))


def test_a_script_is_told_where_a_model_cannot_wait(caplog):
    assert not deferred_init(Asked).weight.is_meta
    assert "The model's weights are drawn at once" in caplog.text
