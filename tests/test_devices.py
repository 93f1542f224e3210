"""Devices that are neither a CPU nor CUDA's, by a stand-in for one; systems that we do not run on."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from tests import stand_in, tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.config.options import DPOOptions
from trainwright.objectives.preference import PreferenceLoss
from trainwright.parallel.choice import start_strategy
from trainwright.parallel.strategy import ProcessOptions
from trainwright.world import World


def pairs(count=12):
    rows = [tiny.tokens(count, ragged=True, seed=seed) for seed in (1, 2)]
    return [{name: torch.stack([one[name], other[name]]) for name in one} for one, other in zip(*rows, strict=True)]


def line_rows():
    rows = tiny.line_rows()
    return [{name: value.double() for name, value in row.items()} for row in rows]


KINDS = {
    "a module": lambda: (tiny.new_line(), tiny.line_rows(), None),
    "a causal model": lambda: (tiny.llama(), tiny.tokens(40, ragged=True), None),
    "preferences": lambda: (tiny.llama(), pairs(), PreferenceLoss(DPOOptions(), tiny.llama(seed=1))),
}


def made(place, kind, **changes):
    model, rows, objective = KINDS[kind]()
    settings = {
        "max_steps": 4, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4, "report_to": "none",
        "disable_tqdm": True, "learning_rate": 1e-3, "eval_strategy": "steps", "eval_steps": 2,
    }  # fmt: skip
    args = TrainingArguments(str(place), **{**settings, **changes})
    return Trainer(model, args, train_dataset=rows, eval_dataset=rows[:8], objective=objective)


def numbers(trainer):
    return [{name: value for name, value in entry.items() if "second" not in name and "runtime" not in name}
            for entry in trainer.state.log_history]  # fmt: skip


def weights(trainer):
    return {name: value.to("cpu") for name, value in trainer.model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # of torch, that knows no stand-in
@pytest.mark.parametrize("kind", KINDS)
def test_training_evaluation_and_resuming_give_the_numbers_of_a_cpu(tmp_path, caplog, kind):
    expected = made(tmp_path / "cpu", kind, use_cpu=True)
    expected.train()
    with stand_in.device():
        trainer = made(tmp_path / "device", kind)
        trainer.train()
        assert {p.device.type for p in trainer.model.parameters()} == {stand_in.DEVICE.type}
        shutil.rmtree(tmp_path / "device" / "checkpoint-4")
        resumed = made(tmp_path / "device", kind)
        resumed.train(resume_from_checkpoint=True)
        own, again = weights(trainer), weights(resumed)
    assert "use_fused_loss is off" not in caplog.text
    for ours, theirs in zip(numbers(trainer), numbers(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)  # other kernels of attention, sums in float32
    assert all(torch.equal(own[name], again[name]) for name in own)
    torch.testing.assert_close(own, weights(expected), rtol=1e-4, atol=1e-5)


def test_a_step_that_is_not_finite_changes_nothing(tmp_path, caplog):
    class Poisoned(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            return loss * float("nan") if self.state.global_step == 2 else loss

    with stand_in.device():
        args = TrainingArguments(str(tmp_path), max_steps=5, report_to="none", disable_tqdm=True, save_strategy="no")
        trainer = Poisoned(tiny.new_line(), args, train_dataset=tiny.line_rows())
        trainer.train()
        assert all(value.isfinite().all() for value in weights(trainer).values())
    assert "Step 3 was skipped, nothing was changed" in caplog.text
    assert caplog.text.count("was skipped") == 1


def test_float64_becomes_the_widest_format_that_is_there(tmp_path):
    with stand_in.device():
        strategy = made(tmp_path, "a module").strategy
        batch = strategy.to_device({"x": torch.ones(2, dtype=torch.float64), "n": torch.ones(2, dtype=torch.int64)})
        assert {name: value.dtype for name, value in batch.items()} == {"x": torch.float32, "n": torch.int64}


def test_several_processes_on_one_apple_gpu_are_refused():
    with pytest.raises(ConfigError, match="cannot train on one Apple GPU"):
        start_strategy(None, World(size=2), torch.device("mps"), ProcessOptions())


def test_the_stream_of_an_apple_gpu_is_kept(monkeypatch):
    from trainwright import randomness

    state = torch.arange(44, dtype=torch.uint8)
    put_back = []
    monkeypatch.setattr("trainwright.devices.has_mps", lambda: True)
    monkeypatch.setattr("torch.mps.get_rng_state", lambda: state)
    monkeypatch.setattr("torch.mps.set_rng_state", put_back.append)
    randomness.restore(randomness.Streams().state_dict())
    assert [one.tolist() for one in put_back] == [state.tolist()]


def test_a_system_without_posix_is_told_so_in_a_sentence():
    script = "import sys; sys.modules['fcntl'] = None; import trainwright"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: trainwright runs on Linux and macOS; on Windows, use it inside WSL 2 "
        "(https://learn.microsoft.com/windows/wsl)."
    )
