"""What only a GPU runs, against its twin on the CPU."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests import tiny
from tests.reliability import cases
from trainwright import Trainer, TrainingArguments

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def made(place, model, rows, kind=Trainer, **changes):
    settings = {"max_steps": 12, "save_steps": 4, "logging_steps": 1, "per_device_train_batch_size": 4,
                "disable_tqdm": True, "learning_rate": 1e-3}  # fmt: skip
    return kind(model, TrainingArguments(str(place), **{**settings, **changes}), train_dataset=rows)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_same_losses_as_on_the_cpu(tmp_path):
    results = []
    for use_cpu in (True, False):
        trainer = made(tmp_path / str(use_cpu), tiny.llama(), tiny.tokens(32, ragged=True), use_cpu=use_cpu)
        trainer.train()
        results.append(losses(trainer))
    assert results[0] == pytest.approx(results[1], abs=1e-4)  # float32 in another order


def test_resuming_is_bitwise(tmp_path):
    weights = []
    for resume in (False, True):
        trainer = made(tmp_path, cases.Net(), cases.rows())
        trainer.train(resume_from_checkpoint=resume)
        weights.append([p.detach().cpu().clone() for p in trainer.model.parameters()])
        if not resume:
            for step in (8, 12):
                shutil.rmtree(tmp_path / f"checkpoint-{step}")
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_bad_step_changes_nothing(tmp_path, caplog, optim):
    class Poisoned(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.state.global_step == 4:
                next(model.parameters()).grad.fill_(float("nan"))
            return loss

    trainer = made(tmp_path, cases.Net(), cases.rows(), kind=Poisoned, optim=optim)
    trainer.train()
    assert "Step 5 was skipped" in caplog.text
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert "loss" not in next(entry for entry in trainer.state.log_history if entry.get("skipped_steps"))


def test_float16_learns_and_resumes(tmp_path):
    trainer = made(tmp_path, tiny.llama(), tiny.tokens(32), fp16=True)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed = made(tmp_path, tiny.llama(seed=9), tiny.tokens(32), fp16=True)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed)[-1] == pytest.approx(losses(trainer)[-1], rel=1e-3)
