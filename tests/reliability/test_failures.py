"""Non-finite steps, spikes, memory that runs out, killed workers, two runs in one folder, folders that fail."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import trainwright
from tests import ROOT, forked
from tests.reliability import cases
from trainwright import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trainwright.checkpoint import check, folder, layout
from trainwright.checkpoint.lock import RunLock


def made(place, model=None, data=None, kind=Trainer, more=None, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 12,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    torch.manual_seed(0)
    args = TrainingArguments(str(place), **{**settings, **changes})
    return kind(model or cases.Net(), args, train_dataset=data or cases.rows(), **(more or {}))


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


class Poisoned(Trainer):
    """Spoils the loss or one row of one gradient at given steps."""

    at: tuple[int, ...] = (5,)
    how = "nan loss"

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.state.global_step + 1 in self.at:
            gradient = next(model.parameters()).grad
            if self.how == "nan loss":
                loss = loss * float("nan")
                gradient.fill_(float("nan"))
            elif self.how == "inf gradient":
                gradient.fill_(float("inf"))
            else:
                gradient[3] = float("nan")
        return loss


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "sgd"])
@pytest.mark.parametrize("how", ["nan loss", "inf gradient", "nan in one row"])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_bad_step_changes_nothing(tmp_path, caplog, optim, how, max_grad_norm):
    kind = type("Case", (Poisoned,), {"how": how})
    trainer = made(tmp_path, kind=kind, optim=optim, max_grad_norm=max_grad_norm)
    history = []

    class TokenStatistics(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            history.append((weights(trainer), kwargs["optimizer"].param_groups[0]["lr"]))

    trainer.add_callback(TokenStatistics)
    trainer.train()
    for before, after in zip(history[3][0], history[4][0], strict=True):
        assert torch.equal(before, after)  # step 5 changed nothing
    assert not all(torch.equal(a, b) for a, b in zip(history[4][0], history[5][0], strict=True))
    assert [rate for _, rate in history] == pytest.approx([1e-2 * (12 - step) / 12 for step in range(1, 13)])
    assert trainer.state.global_step == 12
    assert all(torch.isfinite(p).all() for p in weights(trainer))
    said = [line for line in caplog.text.splitlines() if "was skipped" in line]
    assert len(said) == 1
    assert "Step 5 was skipped" in said[0]
    assert "not finite in layers.0.weight" in said[0]
    plan = [int(row) for row in torch.randperm(26, generator=torch.Generator().manual_seed(42))[16:20]]
    assert f"rows {', '.join(map(str, plan))} of the dataset (pass 1)" in said[0]
    logs = {entry["step"]: entry for entry in trainer.state.log_history if "learning_rate" in entry}
    assert "loss" not in logs[5]
    assert logs[5]["skipped_steps"] == 1
    assert all(logs[step]["loss"] > 0 for step in logs if step != 5)


def test_a_bad_step_leaves_moments_and_step_count_of_the_optimizer(tmp_path):
    counts = []

    class TokenStatistics(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            counts.append(int(next(iter(optimizer.state.values()))["step"]))

    trainer = made(tmp_path, kind=Poisoned)
    trainer.add_callback(TokenStatistics)
    trainer.train()
    assert counts == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11]


def test_the_average_of_a_window_leaves_the_bad_step_out(tmp_path):
    whole = made(tmp_path, kind=Poisoned)
    whole.train()
    window = made(tmp_path, kind=Poisoned, logging_steps=6)
    window.train()
    single = [entry["loss"] for entry in whole.state.log_history if "loss" in entry and entry["step"] <= 6]
    logged = next(entry["loss"] for entry in window.state.log_history if "loss" in entry)
    assert logged == pytest.approx(sum(single) / 5, rel=1e-6)
    assert window.state.log_history[-1]["train_loss"] == pytest.approx(whole.state.log_history[-1]["train_loss"])


def test_a_bad_step_that_was_saved_is_left_out_of_the_average_after_resuming(tmp_path):
    changes = {"kind": Poisoned, "logging_steps": 6, "save_strategy": "steps", "save_steps": 5}
    straight = made(tmp_path, **changes)
    straight.train()
    resumed = made(tmp_path, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    first, second = (
        [(entry.get("loss"), entry.get("skipped_steps")) for entry in trainer.state.log_history if "grad_norm" in entry]
        for trainer in (straight, resumed)
    )
    assert first == second
    assert first[0][1] == 1


def test_nan_for_ever_stops_with_the_last_good_weights(tmp_path):
    class Always(Poisoned):
        at = tuple(range(5, 1000))

    changes = {"max_steps": 100, "max_skipped_steps": 3, "save_strategy": "steps", "save_steps": 2}
    trainer = made(tmp_path, kind=Always, **changes)
    with pytest.raises(DivergenceError, match=r"Step 7 was skipped.*max_skipped_steps=3.*last good step"):
        trainer.train()
    assert trainer.state.global_step in (7, 8)  # within one step
    newest, passed_over = check.newest_valid(tmp_path)
    assert not passed_over
    assert all(torch.isfinite(t).all() for t in torch.load(newest / "optimizer.pt")["state"][0].values())
    with pytest.raises(DivergenceError, match=r"Step 7 was skipped.*Skipped in a row: 3"):  # of which two are saved
        made(tmp_path, kind=Always, **changes).train(resume_from_checkpoint=True)


def test_a_save_that_fails_while_the_run_does_is_said(tmp_path, caplog, monkeypatch):
    class Always(Poisoned):
        at = tuple(range(4, 1000))

    def full(*given, **named):
        time.sleep(0.3)  # so that the run ends meanwhile
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainwright.checkpoint.writer.write_tensors", full)
    trainer = made(tmp_path, kind=Always, max_skipped_steps=1, save_strategy="steps", save_steps=3)
    with pytest.raises(DivergenceError):
        trainer.train()
    assert "checkpoint-3 could not be written: No space left on device" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("steps", [6, 12])  # the weights overflow in the run's last step, or before
@pytest.mark.parametrize("waits", [False, True])  # for a save
def test_weights_that_overflow_are_never_saved(tmp_path, caplog, steps, waits):
    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            if state.global_step == 5:
                optimizer.param_groups[0]["lr"] = 1e39  # inf in float32

    if waits:
        Overflow.on_save = lambda self, args, state, control, **kwargs: None
    trainer = made(tmp_path, max_steps=steps, save_strategy="steps", save_steps=1, save_total_limit=1)
    trainer.add_callback(Overflow)
    with pytest.raises(
        DivergenceError, match=r"not finite any more in layers\.0\.weight.*up to step \d overflowed.*no"
    ):
        trainer.train()
    assert [path.name for path in layout.checkpoints(tmp_path)] == ["checkpoint-5"]
    assert check.newest_valid(tmp_path)[0].name == "checkpoint-5"
    assert all(t.isfinite().all() for t in load_file(tmp_path / "checkpoint-5" / "model.safetensors").values())
    if waits:
        assert "checkpoint-6 was not written: the parameters are not finite in layers.0.weight" in caplog.text


class Masked(nn.Module):
    """Trains a bias with -inf where nothing may be looked at, and has a parameter that was never set."""

    def __init__(self):
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 4), nn.Parameter(torch.full((3,), math.nan))
        self.bias = nn.Parameter(torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf))

    def forward(self, x, labels=None):
        looked = torch.softmax(self.bias + self.layer.weight, -1) @ x.unsqueeze(-1)
        return {"loss": ((looked.squeeze(-1).sum(-1) - labels) ** 2).mean()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_parameters_that_never_were_finite_are_no_overflow(tmp_path, caplog):
    import transformers

    def run(place, module, **more):
        torch.manual_seed(0)
        args = module.TrainingArguments(
            str(place), max_steps=6, save_steps=2, logging_steps=1, learning_rate=1e-2, report_to="none",
            use_cpu=True, disable_tqdm=True, **more,
        )  # fmt: skip
        return module.Trainer(Masked(), args, train_dataset=cases.rows())

    theirs, ours = run(tmp_path / "theirs", transformers), run(tmp_path / "ours", trainwright)
    theirs.train()
    ours.train()
    for name, value in theirs.model.named_parameters():
        assert torch.allclose(value, ours.model.get_parameter(name), atol=1e-6, equal_nan=True)
    assert caplog.text.count("Not finite from the start: numbers in bias, unused.") == 1
    shutil.rmtree(tmp_path / "ours" / "checkpoint-6")
    again = run(tmp_path / "ours", trainwright)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(again.model.bias, ours.model.bias)
    averaged = run(tmp_path / "averaged", trainwright, ema_decay=0.5)
    averaged.train()
    saved = load_file(tmp_path / "averaged" / "checkpoint-6" / "model.safetensors")
    assert torch.equal(saved["bias"].isinf(), ours.model.bias.isinf())

    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
            optimizer.param_groups[0]["lr"] = 1e39

    class SpoilsTheRest(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            model.bias.data[2, 0] = math.inf

    for spoiler, where in ((Overflow, "layer.weight"), (SpoilsTheRest, "bias:")):
        spoiled = run(tmp_path / where, trainwright)
        spoiled.add_callback(spoiler)
        with pytest.raises(DivergenceError, match=f"not finite any more in .*{re.escape(where)}"):
            spoiled.train()


def test_running_means_are_put_back(tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 1)

        def forward(self, x, labels=None):
            return {"loss": ((self.out(self.norm(x)).squeeze(-1) - labels) ** 2).mean()}

    data = cases.rows()
    data[9] = {**data[9], "x": torch.full((4,), float("nan"))}
    trainer = made(tmp_path, Normed(), data, max_steps=7)
    trainer.train()
    assert torch.isfinite(trainer.model.norm.running_mean).all()
    assert torch.isfinite(trainer.model.norm.running_var).all()


def test_a_spike_is_reported_with_its_rows(tmp_path, caplog):
    data = cases.rows(200)
    data[97] = {**data[97], "labels": torch.tensor(1e4)}
    made(tmp_path, data=data, max_steps=50, spike_factor=50.0).train()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(42)).tolist()
    step = order.index(97) // 4 + 1
    assert f"The loss of step {step}," in caplog.text
    assert "97" in caplog.text.split("It read rows")[1].split(" of the dataset")[0]
    for changes in ({"spike_factor": 1e9}, {}):
        caplog.clear()
        made(tmp_path, data=data, max_steps=50, **changes).train()
        assert "The loss of step" not in caplog.text


class Hungry(cases.Net):
    """Runs out of memory with more rows than it can hold, from a step on."""

    most, calls, first = 2, 0, 0

    def forward(self, x, labels=None):
        self.calls += 1
        if len(x) > self.most and self.calls > self.first:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(x, labels)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(tmp_path, caplog, accumulation):
    changes = {"gradient_accumulation_steps": accumulation}
    plain = cases.Net()
    plain.layers[2].p = 0.0
    hungry = Hungry()
    hungry.layers[2].p, hungry.first = 0.0, 4 * accumulation
    torch.manual_seed(0)
    hungry.load_state_dict(plain.state_dict())
    for model in (plain, hungry):
        model.double()
    data = [{name: value.double() for name, value in row.items()} for row in cases.rows()]
    for model in (plain, hungry):
        model.forward = _double(model)
    whole = made(tmp_path, plain, data, **changes)
    whole.train()
    parts = made(tmp_path, hungry, data, auto_find_batch_size=True, **changes)
    parts.train()
    assert "Memory ran out with 4 rows in a micro-batch" in caplog.text
    assert parts.state.global_step == 12
    for one, other in zip(weights(whole), weights(parts), strict=True):
        assert torch.allclose(one, other, atol=1e-9)  # float64: only the order of additions differs


def _double(model):
    def forward(x, labels=None):
        if isinstance(model, Hungry):
            model.calls += 1
            if len(x) > model.most and model.calls > model.first:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        prediction = model.layers(x).squeeze(-1)
        return {"loss": ((prediction - labels) ** 2).mean(), "logits": prediction}

    return forward


def test_out_of_memory_without_the_argument_or_with_one_row_is_an_error(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        made(tmp_path, Hungry()).train()
    hungry = Hungry()
    hungry.most = 0
    with pytest.raises(DataError, match="Memory ran out with one row per micro-batch"):
        made(tmp_path, hungry, auto_find_batch_size=True).train()


@pytest.mark.slow
def test_the_hosts_memory_really_runs_out(tmp_path):
    """A model that allocates 1 GB per row, in a process that may have 3 GB more than it has."""
    done = _script(
        """
        class Big(cases.Net):
            def forward(self, x, labels=None):
                torch.empty(len(x) * 2**28)  # 1 GiB of float32 per row
                return super().forward(x, labels)
        used = int(open("/proc/self/statm").read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, used + 3 * 2**30))
        made(sys.argv[1], Big(), auto_find_batch_size=True, max_steps=3).train()
        print("DONE")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Memory ran out with 4 rows in a micro-batch; from here on each is computed in 2 pieces" in done.stderr


def _script(body, place):
    head = "import resource, sys, torch\nfrom tests.reliability import cases\n"
    head += "from tests.reliability.test_failures import made\n"
    return forked.run(["-c", head + textwrap.dedent(body), place])


class Deadly(cases.Augmented):
    """Kills the worker that loads row 13 in the second pass."""

    def __init__(self, place):
        super().__init__()
        self.marker = Path(place) / "passes"

    def __getitem__(self, index):
        if index == 13 and torch.utils.data.get_worker_info() is not None:
            if self.marker.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            self.marker.touch()
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence_and_the_run_resumes(tmp_path, caplog):
    changes = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 1, "max_steps": 20}
    with pytest.raises(DataError, match="A process that loads data was killed.*can be resumed"):
        made(tmp_path / "run", data=Deadly(tmp_path), **changes).train()
    saved = check.newest_valid(tmp_path / "run")[0]
    assert saved is not None
    assert f"saved at step {layout.step_of(saved)}" in caplog.text
    resumed = made(tmp_path / "run", data=cases.Augmented(), **changes)
    resumed.train(resume_from_checkpoint=True)
    straight = made(tmp_path / "straight", data=cases.Augmented(), **changes)
    straight.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(straight), strict=True))


class Leaving(cases.Augmented):
    """What a worker may do at row 13 in place of reading it."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, index):
        if index == 13 and self.how == "a class of its own":

            class Own(Exception):
                pass

            raise Own("what was wrong")
        if index == 13 and self.how == "exit":
            os._exit(0)
        if index == 13 and self.how == "sys.exit":
            raise SystemExit(3)
        return super().__getitem__(index)


def with_a_lock(rows):
    """Collate into a batch that cannot be pickled."""
    return {**torch.utils.data.default_collate(rows), "lock": threading.Lock()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "A process that loads data was killed or has left"),
        ("sys.exit", "A process that loads data was killed or has left"),
        ("a class of its own", "cannot be pickled.*what was wrong"),
        ("a batch", "cannot be pickled.*It made a batch that holds Tensor, lock"),
    ],
)
def test_what_a_worker_cannot_say_is_a_sentence(tmp_path, how, said):
    trainer = made(tmp_path, data=Leaving(how), dataloader_num_workers=1)
    if how == "a batch":
        trainer.data_collator = with_a_lock
    with pytest.raises(DataError, match=f"(?s){said}"):
        trainer.train()


def test_a_row_that_fails_saves_what_was_done(tmp_path):
    class Broken(cases.Augmented):
        def __getitem__(self, index):
            if index == 13:
                raise ValueError("this row is broken")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match="this row is broken"):
        made(tmp_path, data=Broken()).train()
    order = torch.randperm(26, generator=torch.Generator().manual_seed(42)).tolist()
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == order.index(13) // 4


def test_two_runs_in_one_folder(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on .*another output_dir"):
        made(tmp_path).train()
    lock.release()
    made(tmp_path).train()
    assert not list(tmp_path.glob(".*"))  # the lock's file is gone with the run


def test_a_run_that_cannot_begin_does_not_hold_its_folder(tmp_path, monkeypatch):
    def refused(place):
        raise PermissionError(f"{place} belongs to someone else")

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(folder, "sweep", refused)
        made(tmp_path).train()
    assert not (tmp_path / ".trainwright.lock").exists()
    made(tmp_path).train()


@pytest.mark.slow
def test_who_waited_for_a_lock_that_is_taken_away_takes_the_new_one(tmp_path):
    """Eight processes take the lock 40 times each; two at once would see each other's mark."""
    body = """
        import os, time
        from pathlib import Path
        from trainwright.checkpoint.lock import RunLock
        from trainwright.errors import ConfigError
        place, taken = Path(sys.argv[2]), 0
        while taken < 40:
            lock = RunLock(place)
            try:
                lock.acquire()
            except ConfigError:
                continue
            mark = os.open(place / "mark", os.O_CREAT | os.O_EXCL)
            os.close(mark)
            (place / "mark").unlink()
            lock.release()
            taken += 1
    """
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(body), "-", str(tmp_path)]
    runs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    errors = [process.communicate(timeout=300)[1] for process in runs]
    assert [process.returncode for process in runs] == [0] * 8, errors
    assert not list(tmp_path.iterdir())


def test_a_dead_holder_frees_the_folder(tmp_path):
    body = """
        from trainwright.checkpoint.lock import RunLock
        from pathlib import Path
        lock = RunLock(Path(sys.argv[2])); lock.acquire(); print("held", flush=True)
        import time; time.sleep(60)
    """
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(body), "-", str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"in use by process {holder.pid}"):
        RunLock(tmp_path).acquire()
    holder.kill()
    holder.communicate()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


@pytest.mark.slow
def test_children_of_a_dead_holder_are_waited_for(tmp_path):
    body = """
        import os, time
        from pathlib import Path
        from trainwright.checkpoint.lock import RunLock
        lock = RunLock(Path(sys.argv[2])); lock.acquire()
        if os.fork() == 0:
            time.sleep(2)
            Path(sys.argv[2], "gone").touch()
            os._exit(0)
        print("held", flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", "import sys\n" + textwrap.dedent(body), "-", str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    lock = RunLock(tmp_path)
    lock.acquire()
    assert (tmp_path / "gone").exists()
    lock.release()
    holder.stdout.close()


def test_a_folder_without_flock_uses_a_heartbeat(tmp_path, monkeypatch):
    def no_flock(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_flock)
    first = RunLock(tmp_path)
    first.acquire()
    with pytest.raises(ConfigError, match="is in use by process"):
        RunLock(tmp_path).acquire()
    first.released.set()  # its holder beats no longer
    os.utime(first.path, (time.time() - 61, time.time() - 61))
    second = RunLock(tmp_path)
    second.acquire()
    second.release()
    first.file.close()


def test_starting_anew_moves_earlier_checkpoints_aside(tmp_path, caplog):
    made(tmp_path, save_strategy="steps", save_steps=4).train()
    first = json.loads((tmp_path / "checkpoint-12" / "manifest.json").read_text())["run"]
    made(tmp_path, save_strategy="steps", save_steps=6).train()
    assert [path.name for path in layout.checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-12"]
    previous = next(tmp_path.glob("previous-*"))
    assert sorted(path.name for path in previous.iterdir()) == ["checkpoint-12", "checkpoint-4", "checkpoint-8"]
    assert f"were moved to {previous.name}/" in caplog.text
    assert folder.run_of(tmp_path / "checkpoint-12") != first
    made(tmp_path, save_strategy="steps", save_steps=5).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [path.name for path in layout.checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-10", "checkpoint-12"]


def test_rotation_and_resume_see_one_run_only(tmp_path):
    made(tmp_path / "a", save_strategy="steps", save_steps=2).train()
    made(tmp_path / "b", save_strategy="steps", save_steps=4, save_total_limit=2).train()
    shutil.copytree(tmp_path / "a" / "checkpoint-2", tmp_path / "b" / "checkpoint-2")
    shutil.rmtree(tmp_path / "b" / "checkpoint-12")
    made(tmp_path / "b", save_strategy="steps", save_steps=4, save_total_limit=2).train(resume_from_checkpoint=True)
    names = [path.name for path in layout.checkpoints(tmp_path / "b")]
    assert names == ["checkpoint-2", "checkpoint-8", "checkpoint-12"]
    (tmp_path / "b" / "checkpoint-8" / "optimizer.pt").unlink()
    (tmp_path / "b" / "checkpoint-12" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="all are damaged"):
        made(tmp_path / "b").train(resume_from_checkpoint=True)


class Vanish(TrainerCallback):
    def __init__(self, place, step, back=None):
        self.place, self.step, self.back = place, step, back

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.place.rename(self.place.with_name("elsewhere"))
        if state.global_step == self.back:
            self.place.with_name("elsewhere").rename(self.place)


def test_a_folder_that_vanishes_and_comes_back(tmp_path, caplog):
    place = tmp_path / "run"
    trainer = made(place, save_strategy="steps", save_steps=4)
    trainer.add_callback(Vanish(place, 3, 10))
    trainer.train()
    assert caplog.text.count("its folder") == 2  # the saves of steps 4 and 8
    assert [layout.step_of(path) for path in layout.checkpoints(place)] == [12]


def test_a_failed_final_save_is_an_error(tmp_path):
    place = tmp_path / "run"
    trainer = made(place, save_strategy="steps", save_steps=2)
    trainer.add_callback(Vanish(place, 11))
    with pytest.raises(CheckpointError, match="is gone.*last save failed"):
        trainer.train()
    assert trainer.state.global_step == 12


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 1.8 checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    one = made(tmp_path / "probe", _wide(), save_strategy="steps", save_steps=12)
    one.train()
    size = sum(path.stat().st_size for path in (tmp_path / "probe" / "checkpoint-12").iterdir())
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(1.8 * size)}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _wide():
    model = cases.Net()
    model.layers = nn.Sequential(nn.Linear(4, 256), nn.Tanh(), nn.Linear(256, 1024), nn.Linear(1024, 1))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run(small_disk, caplog, limit):
    changes = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": limit}
    with pytest.raises(CheckpointError, match=r"No space left on device \(.* MB free; it needs .* MB\)"):
        made(small_disk / "run", _wide(), **changes).train()
    assert "Training goes on, and the next save tries again" in caplog.text
    assert [path.name for path in layout.checkpoints(small_disk / "run")] == ["checkpoint-4"]
    assert not list((small_disk / "run").glob(".checkpoint*"))
    with pytest.raises(CheckpointError):  # resumes at once; the end cannot be saved still
        made(small_disk / "run", _wide(), **changes).train(resume_from_checkpoint=True)
    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    resumed = made(small_disk / "run", _wide(), **changes)
    resumed.train(resume_from_checkpoint=True)
    assert layout.step_of(layout.checkpoints(small_disk / "run")[-1]) == 12
    straight = made(small_disk / "straight", _wide(), **{**changes, "save_strategy": "no"})
    straight.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(straight), strict=True))


def test_a_disk_with_room_for_one_more_is_rotated_first(small_disk):
    subprocess.run(["mount", "-o", f"remount,size={_size(small_disk) * 27 // 18}", str(small_disk)], check=True)
    made(small_disk / "run", _wide(), save_strategy="steps", save_steps=3, save_total_limit=2).train()
    assert [path.name for path in layout.checkpoints(small_disk / "run")] == ["checkpoint-9", "checkpoint-12"]


def test_a_quota_that_the_file_system_hides_is_rotated_too(small_disk, monkeypatch):
    subprocess.run(["mount", "-o", f"remount,size={_size(small_disk) * 24 // 18}", str(small_disk)], check=True)
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**12))  # as statvfs has it on NFS
    made(small_disk / "run", _wide(), save_strategy="steps", save_steps=3, save_total_limit=2).train()
    assert [path.name for path in layout.checkpoints(small_disk / "run")] == ["checkpoint-9", "checkpoint-12"]


def test_a_process_that_fills_the_disk_costs_saves_at_most(small_disk, caplog):
    subprocess.run(["mount", "-o", f"remount,size={_size(small_disk) * 40 // 18}", str(small_disk)], check=True)
    command = [sys.executable, "-S", "-m", "tests.reliability.neighbour", str(small_disk / "other"), "1000"]
    neighbour = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    class Neighbour(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                assert neighbour.stdout.readline() == "full\n"
            if state.global_step == 34:
                neighbour.kill()
                neighbour.wait()
                (small_disk / "other").unlink(missing_ok=True)

    changes = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "max_steps": 36}
    trainer = made(small_disk / "run", _wide(), **changes)
    trainer.add_callback(Neighbour())
    trainer.train()
    assert "No space left on device" in caplog.text
    present = layout.checkpoints(small_disk / "run")
    assert layout.step_of(present[-1]) == 36
    assert not any(check.damage(path) for path in present)


def _size(place):
    stat = os.statvfs(place)
    return stat.f_blocks * stat.f_frsize


def test_callbacks_see_the_finished_folder(tmp_path):
    seen = []

    class Mine(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            seen.append((place / "manifest.json").exists())
            (place / "mine.txt").write_text("mine")

    trainer = made(tmp_path, save_strategy="steps", save_steps=4)
    trainer.add_callback(Mine)
    trainer.train()
    assert seen == [True, True, True]
    assert check.newest_valid(tmp_path) == (tmp_path / "checkpoint-12", [])


@pytest.mark.parametrize("name", ["save_model", "_save_checkpoint"])
def test_overridden_saves_run_on_the_finished_folder(tmp_path, name):
    class Mine(Trainer):
        def save_model(self, output_dir=None, _internal_call=False):
            super().save_model(output_dir, _internal_call)
            if name == "save_model":
                self.extra(Path(output_dir))

        def _save_checkpoint(self, model, trial=None):
            super()._save_checkpoint(model, trial)
            if name == "_save_checkpoint":
                self.extra(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

        def extra(self, place):
            assert (place / "manifest.json").exists() or not self.is_in_train
            (place / "mine.txt").write_text(str(random.random()))

    made(tmp_path, kind=Mine, save_strategy="steps", save_steps=4).train()
    assert sorted(path.parent.name for path in tmp_path.glob("checkpoint-*/mine.txt")) == [
        "checkpoint-12", "checkpoint-4", "checkpoint-8",
    ]  # fmt: skip
    assert check.newest_valid(tmp_path) == (tmp_path / "checkpoint-12", [])


@dataclass(frozen=True)
class Budget(Exception):
    """Takes neither notes nor, from contextlib, its place."""

    spent: int


@pytest.mark.parametrize("where", ["callback", "data"])
def test_an_exception_that_takes_no_notes_is_raised_as_it_is(tmp_path, where):
    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise Budget(1)

    class Data(cases.Augmented):
        def __getitem__(self, index):
            if trainer.state.global_step == 1:
                raise Budget(1)
            return super().__getitem__(index)

    more = {"callbacks": [Fails()]} if where == "callback" else None
    trainer = made(tmp_path, data=Data() if where == "data" else None, more=more)
    with pytest.raises(Budget) as caught:
        trainer.train()
    assert caught.value.spent == 1
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 1


@pytest.mark.parametrize("call", ["evaluate", "predict", "evaluation_loop", "replay", "train"])
def test_such_an_exception_leaves_every_method_as_it_is(tmp_path, call):
    class Fails(trainwright.Trainer):
        def compute_loss(self, *args, **kwargs):
            if self.ready:
                raise Budget(2)
            return super().compute_loss(*args, **kwargs)

    trainer = made(
        tmp_path, kind=Fails, save_strategy="steps", save_steps=1, max_steps=2, more={"eval_dataset": cases.rows()[:4]}
    )
    trainer.ready = False
    trainer.train()
    trainer.ready = True
    calls = {
        "evaluate": trainer.evaluate,
        "predict": lambda: trainer.predict(cases.rows()[:4]),
        "evaluation_loop": lambda: trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation"),
        "replay": lambda: trainer.replay(2, loss=True),
        "train": trainer.train,
    }
    with pytest.raises(Budget) as caught:
        calls[call]()
    assert caught.value.spent == 2


def test_an_exception_raised_again_has_its_note_once(tmp_path):
    error = ValueError("one for all")

    class Fails(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise error

    for _ in range(2):
        with pytest.raises(ValueError, match="one for all"):
            made(tmp_path, more={"callbacks": [Fails()]}).train()
    assert len(error.__notes__) == 1


class Unsendable(cases.Augmented):
    """Can be pickled, and not be read back, as torch's own generators."""

    def __reduce__(self):
        return (exec, ("raise OSError('cannot be read back')",))


@pytest.mark.slow
def test_data_that_cannot_be_sent_to_a_worker_is_not_called_a_lack_of_memory(tmp_path):
    trainer = made(tmp_path, data=Unsendable(), dataloader_num_workers=1, dataloader_multiprocessing_context="spawn")
    with pytest.raises(DataError, match="exited unexpectedly.*exit code 1.*must survive pickling") as caught:
        trainer.train()
    assert "memory" not in str(caught.value)
