"""Signals: the step is finished, everything is saved, and the run goes on bitwise as if nothing had been."""

from __future__ import annotations

import errno
import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.reliability import cases, kills, victim
from trainwright import Interrupted, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import check, folder, layout
from trainwright.errors import STOP_SIGNALS
from trainwright.jobs.tracking.tracking import tracked
from trainwright.session.signals import Signals

CHANGES = {"max_steps": 14, "eval_strategy": "steps", "eval_steps": 5, "save_strategy": "no", "logging_steps": 1}


class Raise(TrainerCallback):
    """Sends a signal to this process when an event comes for the nth time."""

    def __init__(self, event, nth, number=signal.SIGTERM):
        self.left, self.number = nth, number
        setattr(self, f"on_{event}", self.count)

    def count(self, args, state, control, **kwargs):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


class Drawing(Trainer):
    """Draws random numbers in its evaluations, as metrics and generation may."""

    def prediction_step(self, *given, **named):
        torch.rand(3)
        random.random()
        return super().prediction_step(*given, **named)


def made(place, callbacks=(), seed=0, **changes):
    torch.manual_seed(seed)
    args = TrainingArguments(
        str(place), per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True, disable_tqdm=True,
        **{**CHANGES, **changes},
    )  # fmt: skip
    data = cases.Augmented()
    return Drawing(cases.Net(), args, train_dataset=data, eval_dataset=cases.rows(40), callbacks=list(callbacks))


def history(trainer):
    return [
        {name: value for name, value in entry.items() if "per_second" not in name and "runtime" not in name}
        for entry in trainer.state.log_history
    ]


def same(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stateful stream", "stream", "stateful loader", "ready loader"])
def test_a_second_signal_in_the_evaluation_that_is_due_loses_no_place_in_the_data(tmp_path, name):
    def trainer(place, callbacks=()):
        data = cases.CASES[name][0]()
        torch.manual_seed(0)
        args = TrainingArguments(str(place), use_cpu=True, disable_tqdm=True, **CHANGES)
        kind = "train_loader" if isinstance(data, torch.utils.data.DataLoader) else "train_dataset"
        return Trainer(cases.Net(), args, eval_dataset=cases.rows(40), callbacks=list(callbacks), **{kind: data})

    straight = trainer(tmp_path / "straight")
    straight.train()
    for times in range(2):
        with pytest.raises(Interrupted):
            stopped = trainer(tmp_path / "run", [Raise("prediction_step", 2)])
            stopped.train(resume_from_checkpoint=times > 0)
        assert stopped.state.global_step == 5
    resumed = trainer(tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)


EVENTS = [("step_begin", 4), ("substep_end", 3), ("step_end", 5), ("optimizer_step", 7), ("prediction_step", 1),
          ("prediction_step", 7), ("evaluate", 1), ("log", 5), ("epoch_end", 1), ("step_end", 14)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("event", "nth"), EVENTS)
@pytest.mark.parametrize("saves", ["no", "steps"])
def test_the_resumed_run_is_the_uninterrupted_one(tmp_path, event, nth, saves):
    changes = {"save_strategy": saves, "save_steps": 5, "lr_scheduler_type": "reduce_lr_on_plateau",
               "metric_for_best_model": "loss", "gradient_accumulation_steps": 2}  # fmt: skip
    straight = made(tmp_path / "straight", **changes)
    straight.train()
    stopped = made(tmp_path / "run", [Raise(event, nth)], **changes)
    with pytest.raises(Interrupted) as caught:
        stopped.train()
    assert caught.value.code == 128 + signal.SIGTERM
    saved = check.newest_valid(tmp_path / "run")[0]
    assert layout.step_of(saved) == stopped.state.global_step
    resumed = made(tmp_path / "run", seed=99, **changes)
    torch.manual_seed(7)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)
    assert history(resumed) == history(straight)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_exit_codes_and_handlers(tmp_path, number):
    heard = []

    def own(number, frame):
        heard.append(number)
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            sys.exit(128 + number)  # a handler of these that returns has dealt with it

    before = signal.signal(number, own)
    try:
        with pytest.raises(SystemExit) as caught:
            made(tmp_path, [Raise("step_end", 2, number)]).train()
        assert caught.value.code == 128 + number
        assert heard == [number]  # the user's own handler is called too
        assert signal.getsignal(number) is own  # and it is back
    finally:
        signal.signal(number, before)


def test_callbacks_are_closed(tmp_path):
    closed = []

    class Closing(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            closed.append(state.global_step)

    with pytest.raises(Interrupted, match="Interrupted by SIGTERM at step 2 of 14; saved in"):
        made(tmp_path, [Raise("step_end", 2), Closing()]).train()
    assert closed == [2]


def test_ctrl_c_at_a_prompt_is_a_keyboard_interrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, [Raise("step_end", 2, signal.SIGINT)]).train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 2


def test_ctrl_c_pressed_again_leaves_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("trainwright.session.signals._ONE_PRESS", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, [Raise("step_begin", 2, signal.SIGINT), Raise("optimizer_step", 2, signal.SIGINT)]).train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert check.newest_valid(tmp_path)[0] is None


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_is_repeated_interrupts_no_step_and_no_save(tmp_path, number):
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    again = [Raise(event, 2, number) for event in ("step_begin", "optimizer_step", "step_end")]
    again += [Raise("save", 1, number), Raise("train_end", 1, number), Raise("train_end", 1, signal.SIGTERM)]
    try:
        with pytest.raises(Interrupted) as caught:
            made(tmp_path, again).train()
    finally:
        signal.signal(number, before)
    assert caught.value.number == number
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 2


def test_what_a_handler_of_the_users_raises_is_raised_after_the_save(tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    try:
        with pytest.raises(SystemExit) as caught:
            made(tmp_path, [Raise("optimizer_step", 3)]).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 7
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 3


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert made(tmp_path, [Raise("step_end", 2, signal.SIGINT)]).train().global_step == 14
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_hangs_does_not_hold_up_a_signal(tmp_path, workers):
    class Hanging(cases.Augmented):
        def __getitem__(self, index):
            if len(list(tmp_path.glob("row-*"))) == 14:  # in the fourth step
                (tmp_path / "hangs").touch()
                threading.Event().wait()
            (tmp_path / f"row-{index}").touch()
            return super().__getitem__(index)

    def terminate():  # a worker reads ahead: it may hang before the third step is done
        while not ((tmp_path / "hangs").exists() and trainer.state.global_step == 3):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    trainer = made(tmp_path / "run", dataloader_num_workers=workers, dataloader_prefetch_factor=1 if workers else None)
    trainer.train_dataset = Hanging()
    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(Interrupted, match="by SIGTERM at step 3 of"):
        trainer.train()
    assert layout.step_of(check.newest_valid(tmp_path / "run")[0]) == 3


def test_a_save_that_failed_at_the_signal_is_tried_again(tmp_path, monkeypatch):
    publish = folder.publish

    def full_once(*given):
        monkeypatch.setattr(folder, "publish", publish)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "publish", full_once)
    with pytest.raises(Interrupted, match="at step 5 of 14; saved in"):
        made(tmp_path, [Raise("step_end", 5)], save_strategy="steps", save_steps=5).train()
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 5


def test_outside_the_main_thread_it_is_said(tmp_path, caplog):
    thread = threading.Thread(target=lambda: made(tmp_path).train())
    thread.start()
    thread.join()
    assert caplog.text.count("outside the main thread") == 1


@pytest.mark.slow
def test_workers_outlive_a_signal_to_the_whole_group(tmp_path):
    given = {"settings": {"max_steps": 4000, "save_strategy": "no", "dataloader_num_workers": 2}, "pause": 0.01}
    process = kills.start(tmp_path, given)
    kills.wait_for_steps(tmp_path, process, 0, 5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*map(int, children), process.pid]:
        os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - began < 60
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == kills.steps_done(tmp_path)


@pytest.mark.slow
def test_an_error_with_workers_does_not_hold_up_the_exit(tmp_path):
    given = {"settings": {"max_steps": 4000, "save_strategy": "no", "dataloader_num_workers": 2,
                          "dataloader_persistent_workers": True}}  # fmt: skip
    (tmp_path / "log").mkdir()  # the callback cannot open its file
    began = time.monotonic()
    process = kills.start(tmp_path, given)
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_sigterm_at_random_instants(tmp_path):
    """Five times: nothing is lost, and the losses of all steps are those of a run that was never stopped."""
    chance = random.Random(3)
    settings = {"max_steps": 10**6, "save_steps": 7, "save_total_limit": 2, "eval_strategy": "steps", "eval_steps": 4}
    settings["dataloader_num_workers"] = 1
    for _ in range(5):
        before = len(kills.lines(tmp_path))
        process = kills.start(tmp_path, {"settings": settings, "pause": 0.002})
        kills.wait_for_steps(tmp_path, process, before, chance.randint(1, 9))
        time.sleep(chance.uniform(0, 0.05))
        process.terminate()
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 128 + signal.SIGTERM, errors[-2000:]
        assert layout.step_of(check.newest_valid(tmp_path)[0]) == kills.steps_done(tmp_path)
    done = [int(words[1]) for words in kills.lines(tmp_path) if words[0] == "step"]
    assert done == list(range(1, len(done) + 1))  # no step twice, none missing
    straight = tmp_path / "straight"
    victim.run(straight, {**settings, "max_steps": len(done), "save_strategy": "no"})
    losses = [[words for words in kills.lines(place) if words[0] == "loss"] for place in (tmp_path, straight)]
    assert losses[0] == losses[1]


def test_a_signal_at_a_step_that_is_saved_has_it_saved_once(tmp_path):
    saved = []

    class Listen(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            saved.append(state.global_step)

    trainer = made(tmp_path, [Raise("step_end", 6), Listen()], eval_strategy="no", save_strategy="steps", save_steps=3)
    with pytest.raises(Interrupted):
        trainer.train()
    assert saved == [3, 6]


def test_the_time_is_up(tmp_path):
    """In the middle of training and of an evaluation without end; the resumed run has it anew."""
    trainer = made(tmp_path, max_steps=10**6, eval_strategy="no", logging_steps=10**6, max_train_time="0.3s")
    with pytest.raises(Interrupted, match="Interrupted since max_train_time=0.3s is over, at step") as caught:
        trainer.train()
    assert caught.value.code == 128 + signal.SIGALRM
    reached = trainer.state.global_step
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == reached > 0
    evaluated = made(tmp_path, max_steps=10**6, eval_steps=reached + 1, logging_steps=10**6, max_train_time=0.5)
    endless = torch.utils.data.DataLoader(Endless(), batch_size=4)
    evaluated.eval_loader, evaluated.eval_dataset = endless, None
    with pytest.raises(Interrupted, match=f"at step {reached + 1} of"):
        evaluated.train(resume_from_checkpoint=True)
    finished = made(tmp_path, max_steps=reached + 2, eval_strategy="no", max_train_time="1h")
    finished.train(resume_from_checkpoint=True)
    assert finished.state.global_step == reached + 2
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)  # one that was cancelled is about to end
            assert not thread.is_alive()


def test_a_signal_that_we_send_ourselves_is_not_heard_and_the_next_one_is():
    with Signals(print) as signals:
        signals._insists = True  # as the thread that insists does before it sends one
        signal.raise_signal(signal.SIGTERM)
        assert signals.received is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_the_time_is_up_sets_off_no_alarm_of_the_users():
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append("an alarm"))
    try:
        with Signals(heard.append, allowance=3600.0) as signals, signals.waiting():
            signals._time_is_up()  # as the timer does
        assert (signals.received, heard) == (signal.SIGALRM, [])
    finally:
        signal.signal(signal.SIGALRM, before)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield from cases.rows()


def test_timeouts_of_the_user_s_own_are_left_alone(tmp_path):
    class Times(TrainerCallback):
        heard = 0

        def on_step_end(self, args, state, control, **kwargs):
            before = signal.signal(signal.SIGALRM, self.hear)
            signal.raise_signal(signal.SIGALRM)
            signal.signal(signal.SIGALRM, before)

        def hear(self, number, frame):
            self.heard += 1

    times = Times()
    made(tmp_path, [times], max_train_time="1h").train()
    assert times.heard == CHANGES["max_steps"]


def test_a_handler_of_code_that_is_not_python_is_left_alone(tmp_path, caplog, monkeypatch):
    """Faulthandler's, the usual way to see where a process is; python takes the signal for one with no handler."""
    monkeypatch.setenv("TRAINWRIGHT_JOBS", "on")
    with (tmp_path / "stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=False)
        try:
            with tracked("run") as job:
                assert job is not None
                trainer = made(tmp_path / "run", [Raise("step_end", 2, signal.SIGUSR1)])
                assert trainer.train().global_step == 14
            signal.raise_signal(signal.SIGUSR1)  # and it is still there
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert (tmp_path / "stacks").read_text().count("most recent call first") == 2
    assert caplog.text.count("SIGUSR1 has a handler of code that is not Python") == 1


@pytest.mark.parametrize("leaves", [False, True])
def test_a_program_s_own_use_of_usr2(tmp_path, leaves):
    """The run goes on after a handler that returns; what one raises is raised when all is saved."""
    heard = []

    def own(number, frame):
        heard.append(number)
        if leaves:
            sys.exit(5)

    before = signal.signal(signal.SIGUSR2, own)
    trainer = made(tmp_path, [Raise("optimizer_step", 3, signal.SIGUSR2)])
    try:
        if leaves:
            with pytest.raises(SystemExit) as caught:
                trainer.train()
            assert caught.value.code == 5
            assert layout.step_of(check.newest_valid(tmp_path)[0]) == 3
        else:
            assert trainer.train().global_step == 14
        assert signal.getsignal(signal.SIGUSR2) is own
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


def test_a_process_that_the_users_code_forks_ends_when_it_is_told_to(tmp_path):
    ended, forking = [], multiprocessing.get_context("fork")
    begun = forking.Event()

    def work():
        begun.set()
        time.sleep(60)

    class Forks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                process = forking.Process(target=work)
                process.start()
                begun.wait()
                process.terminate()
                process.join()
                ended.append(process.exitcode)

    assert made(tmp_path, [Forks()]).train().global_step == 14
    assert ended == [-signal.SIGTERM]


def test_a_handler_set_during_the_run_stays_and_is_named(tmp_path, caplog, monkeypatch):
    def own(number, frame):
        pass

    class Sets(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            signal.signal(signal.SIGTERM, own)

    monkeypatch.setenv("TRAINWRIGHT_JOBS", "on")
    before = signal.getsignal(signal.SIGTERM)
    try:
        made(tmp_path, [Sets()]).train()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caplog.text.count("SIGTERM got another handler during the run") == 1


def test_a_handler_that_is_put_back_after_the_run_is_the_one_before_it(tmp_path):
    kept, heard = [], []

    class Sets(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            kept.append(signal.signal(signal.SIGTERM, signal.SIG_IGN))

    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("before"))
    try:
        made(tmp_path, [Sets()]).train()
        signal.signal(signal.SIGTERM, kept[0])
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["before"]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("retries", [2, 10**6])
def test_data_read_in_a_loop_that_catches_everything(tmp_path, monkeypatch, caplog, retries):
    """It is broken off again; where it never ends, what is done is saved meanwhile."""
    monkeypatch.setattr("trainwright.session.signals._AGAIN", 0.05)
    run = tmp_path / "run"

    class Retrying(cases.Augmented):
        def __getitem__(self, index):
            for _ in range(retries):
                try:
                    if trainer.state.global_step == 3 and not saved():
                        signal.raise_signal(signal.SIGTERM) if trainer.run.stop is None else None
                        threading.Event().wait()
                    return super().__getitem__(index)
                except:  # noqa: E722
                    pass
            raise OSError("no answer")

    def saved():
        return check.newest_valid(run)[0] is not None

    trainer = made(run)
    trainer.train_dataset = Retrying()
    with pytest.raises(Interrupted, match="by SIGTERM at step 3 of"):
        trainer.train()
    assert layout.step_of(check.newest_valid(run)[0]) == 3
    assert ("the process may be killed" in caplog.text) == (retries > 2)
    resumed = made(run)
    resumed.train(resume_from_checkpoint=True)
    straight = made(tmp_path / "straight")
    straight.train()
    assert same(resumed, straight)
