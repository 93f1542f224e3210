"""The step path never waits for the device: between two logs, in a whole pass of an evaluation, for every method."""

from __future__ import annotations

import pytest
import torch

from tests import stand_in, tiny
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.config.options import DPOOptions
from trainwright.models.head import language_head
from trainwright.models.kernels import packed_attention
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.padding_free import foreseen
from trainwright.objectives.preference import PreferenceLoss


class BetweenLogs(TrainerCallback):
    """Notes what waits from the end of step 2, when all was looked at once, to the end of step 5, which logs."""

    def __init__(self):
        self.noting, self.waits = None, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.noting = stand_in.noting_waits()
            self.waits = self.noting.__enter__()
        if state.global_step == 5:
            self.noting.__exit__(None, None, None)


def pairs(count=24):
    rows = [tiny.tokens(count, ragged=True, seed=seed) for seed in (1, 2)]
    return [{name: torch.stack([one[name], other[name]]) for name in one} for one, other in zip(*rows, strict=True)]


def padded(count=24):
    rows = tiny.tokens(count, ragged=True)
    for row in rows:
        row["attention_mask"] = (row["labels"] != -100).long()
    return rows


def packed(rows):
    """Return rows one after another, as a collator of packed rows has them."""
    ids = torch.cat([row["input_ids"] for row in rows])[None]
    labels = torch.cat([torch.cat([torch.tensor([-100]), row["labels"][1:]]) for row in rows])[None]
    positions = torch.arange(rows[0]["input_ids"].numel()).repeat(len(rows))[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "use_cache": False}


def with_reference(model):
    fused = FusedLoss(language_head(model), packed_attention.FlatRows(stand_in.DEVICE))
    packed_attention.register()
    model.set_attn_implementation(packed_attention.NAME)
    return PreferenceLoss(DPOOptions(), model, fused_reference=fused)


KINDS = {
    "a module": lambda: {"model": tiny.new_line(), "train_dataset": tiny.line_rows()},
    "a causal model": lambda: {"model": tiny.llama(), "train_dataset": padded()},
    "packed rows": lambda: {"model": tiny.llama(), "train_dataset": tiny.tokens(24), "data_collator": packed},
    "preferences": lambda: {
        "model": tiny.llama(),
        "train_dataset": pairs(),
        "objective": with_reference(tiny.llama(seed=1)),
    },
}


def made(place, kind, *callbacks, **changes):
    settings = {
        "max_steps": 5, "save_strategy": "no", "logging_steps": 5, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2, "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    args = TrainingArguments(str(place), **{**settings, **changes})
    return Trainer(args=args, callbacks=list(callbacks), **KINDS[kind]())


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind != "a module" else kind for kind in KINDS]
)
def test_steps_between_two_logs_do_not_wait(tmp_path, kind):
    seen = BetweenLogs()
    with stand_in.device(skips=True):
        made(tmp_path, kind, seen).train()
    assert not seen.waits, "\n".join(dict.fromkeys(seen.waits))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind != "a module" else kind for kind in KINDS]
)
def test_an_evaluation_waits_at_its_end_alone(tmp_path, kind):
    with stand_in.device(skips=True):
        trainer = made(tmp_path, kind)
        loop, waits, calls = trainer.prediction_step, [], []

        def noted(*given, **named):
            calls.append(len(calls))
            with stand_in.noting_waits() as found:
                result = loop(*given, **named)
            waits.extend(found if len(calls) > 1 else [])  # at the first batch all is looked at once
            return result

        trainer.prediction_step = noted
        trainer.evaluate(trainer.train_dataset)
    assert not waits, "\n".join(dict.fromkeys(waits))


class Spare(tiny.Line):
    """A line with a parameter that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.spare = torch.nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    "settings",
    [{"ema_decay": 0.9}, {"spike_factor": 3.0, "max_grad_norm": 0.0}, {"auto_find_batch_size": True}],
    ids=str,
)
def test_no_option_of_the_step_waits(tmp_path, settings):
    seen = BetweenLogs()
    with stand_in.device(skips=True):
        torch.manual_seed(0)
        trainer = made(tmp_path, "a module", seen, **settings)
        trainer.model = Spare()
        trainer.train()
    assert not seen.waits, "\n".join(dict.fromkeys(seen.waits))


def test_what_waits_is_noted():
    with stand_in.device():
        values = torch.ones(3, device=stand_in.DEVICE)
        with stand_in.noting_waits() as waits:
            float(values.sum()), values.tolist(), values[values > 0], values.nonzero(), values.cpu(), bool(values.any())
            torch.ones(2).to(stand_in.DEVICE)
    assert len(waits) == 7


def test_what_was_foreseen_is_of_that_batch_alone_whole_and_unchanged():
    host = {name: value.flatten(0, 1) for name, value in pairs_batch().items()}
    there = pairs_batch()["labels"]
    found = foreseen(host, there, joins=True, unpads=True)
    assert found.is_of(there.flatten(0, 1))
    assert not found.is_of(there.clone().flatten(0, 1))
    assert not found.is_of(there)
    assert not found.is_of(there[:, 0])
    assert not found.is_of(there.transpose(0, 1).flatten(0, 1))
    there[0, 0, -1] = 5
    assert not found.is_of(there.flatten(0, 1))


def pairs_batch():
    rows = pairs(3)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
