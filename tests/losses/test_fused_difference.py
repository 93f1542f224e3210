"""What is called the same: log-probabilities without logits, off by a known part of how the model's own vary."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch.nn import functional

from tests import tiny
from tests.objectives.test_fused_loss import Pad
from trainwright import Trainer, TrainingArguments
from trainwright.losses import fused_loss
from trainwright.trainer.face import session_of

IDS = torch.tensor([[5, 6, 7, 8, 9, 3], [9, 8, 7, 4, 5, 6]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS.clone()}


def own_log_probs(model):
    """Of the piece that is compared: every token a target, of the second row its first half alone."""
    mask = BATCH["attention_mask"].clone()
    mask[1, 3:] = 0
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=mask).logits.float().log_softmax(-1)
    wanted = (mask == 1)[:, 1:]
    return found[:, :-1].gather(2, IDS[:, 1:, None]).squeeze(2)[wanted]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fused")


@pytest.fixture(params=["flat rows", "padded rows"])
def compared(request, place):
    """Return a function: what is said where the loss gives other log-probabilities, in a number format."""

    def said(change, dtype=torch.float32, own=None, **args):
        model = tiny.llama().to(dtype).eval()
        args = TrainingArguments(str(place), use_cpu=True, report_to="none", **args)
        session = session_of(Trainer(model, args, train_dataset=tiny.tokens(4), data_collator=Pad()))
        fused_loss.prepare(session)
        fused = session.objective.fused
        assert fused.flat_rows is not None
        if request.param == "padded rows":
            fused_loss.keep_padding(model, fused)
        fused.log_probs = lambda hidden: change(own_log_probs(model) if own is None else own)
        with mock.patch.object(
            functional, "cross_entropy", functional.cross_entropy if own is None else lambda *_, **__: -own
        ):
            return fused_loss.difference(session, model, fused, BATCH)

    return said


PACKED = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 3, 4]]), "position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2]]),
    "labels": torch.tensor([[5, 6, 7, 8, 9, 3, 4]]), "use_cache": False,
}  # fmt: skip


@pytest.mark.parametrize(("flat", "rows"), [(True, (1, 7)), (False, (2, 4))])
def test_documents_in_one_row_are_compared_as_they_will_come(place, flat, rows):
    """As they are where rows are made flat; one to a row where the model's own attention would mix them."""
    model = tiny.llama().eval()
    args = TrainingArguments(str(place), use_cpu=True, report_to="none")
    session = session_of(Trainer(model, args, train_dataset=tiny.tokens(4), data_collator=Pad()))
    fused_loss.prepare(session)
    fused, given = session.objective.fused, []
    if not flat:
        fused_loss.keep_padding(model, fused)
    labelled = fused.labelled
    fused.labelled = lambda model, rows: given.append(tuple(rows["input_ids"].shape)) or labelled(model, rows)
    assert fused_loss.difference(session, model, fused, PACKED) is None
    assert given == [rows]


def off_by(part):
    def change(own):
        return own + part * (own - own.mean())

    return change


@pytest.mark.parametrize(
    "given", [{}, {"bf16": True}, {"dtype": torch.bfloat16}], ids=["float32", "autocast", "bfloat16"]
)
def test_a_thousandth_of_how_they_vary_is_another_loss_and_in_half_formats_a_twentieth(compared, given):
    most = 5e-2 if given else 1e-3
    near = 0.5 if "bf16" in given or "dtype" in given else 0.9  # half formats round the model's own numbers
    assert compared(off_by(near * most), **given) is None
    said = compared(off_by(3 * most), **given)
    assert said.startswith("log-probabilities would be off by 0.")
    assert float(said.split()[5]) == pytest.approx(3 * most, rel=0.2 if given else 0.02)


def test_log_probabilities_that_hardly_vary_are_compared_by_their_size(compared):
    """Of a model that is new all tokens are about as likely: a difference of rounding is none."""
    own = torch.full((7,), -4.0)
    assert compared(lambda own: own * (1 + 0.9e-6), own=own) is None
    assert compared(lambda own: own * (1 + 1e-4), own=own).startswith("log-probabilities would be off by 0.1 of")


def test_a_loss_that_fails_is_told(compared):
    def fails(own):
        raise RuntimeError("no room")

    assert compared(fails) == "the model cannot be run without its logits (RuntimeError: no room)"
