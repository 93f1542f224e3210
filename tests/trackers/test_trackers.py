"""Trackers: what they are told, by a Trainer and by a loop of one's own; what fails in one costs its log alone."""

from __future__ import annotations

import asyncio
import csv
import errno
import json

import pytest
import transformers
from transformers.integrations import TensorBoardCallback

import trainwright.trackers
from tests import tiny
from trainwright import ConfigError, Tracker, Trainer, TrainerCallback, TrainingArguments
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.trackers import table
from trainwright.trackers.callback import TrackerCallback
from trainwright.trackers.tracker import Trackers


class Heard(Tracker):
    """Keeps what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, run):
        self.told.append(("begin", run))

    def log(self, metrics, step):
        self.told.append(("log", step, dict(metrics)))

    def artifact(self, kind, path, step):
        self.told.append((kind, path.name, step))

    def finish(self, status):
        self.told.append(("finish", status))

    @property
    def events(self):
        return [one[0] for one in self.told]


def trainer(folder, kind=Trainer, arguments=TrainingArguments, callbacks=None, model=None, **changes):
    settings = {"max_steps": 4, "logging_steps": 2, "save_strategy": "no", "report_to": "none", "use_cpu": True}
    args = arguments(str(folder), disable_tqdm=True, **{**settings, **changes})
    rows = tiny.line_rows()
    return kind(model or tiny.new_line(), args, train_dataset=rows, eval_dataset=rows[:8], callbacks=callbacks)


def scalars(folder):
    """Return what TensorBoard itself reads from a folder: (step, value) by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    read = EventAccumulator(str(place)).Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def test_a_tracker_hears_of_a_run_from_beginning_to_end(tmp_path):
    heard = Heard()
    made = trainer(tmp_path, callbacks=[heard], save_strategy="steps", save_steps=4, run_name="mine")
    made.train()
    run = heard.told[0][1]
    assert (run.name, run.output_dir, run.parameters["max_steps"], run.trial) == ("mine", str(tmp_path), 4, None)
    assert [(one[1], "train/loss" in one[2]) for one in heard.told if one[0] == "log"] == [
        (2, True), (4, True), (4, False)
    ]  # fmt: skip
    assert ("checkpoint", "checkpoint-4", 4) in heard.told
    assert heard.told[-1] == ("finish", "COMPLETE")
    del heard.told[:]
    made.evaluate()  # the same run once more
    assert heard.events == ["begin", "log", "finish"]
    assert heard.told[0][1] is run
    assert heard.told[1][2].keys() >= {"eval/loss", "train/epoch"}
    made.remove_callback(heard)
    del heard.told[:]
    made.evaluate()
    assert not heard.told


def test_a_run_that_dies_is_told_so(tmp_path):
    class Dies(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise ZeroDivisionError

    heard = Heard()
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callbacks=[heard, Dies]).train()
    assert heard.told[-1] == ("finish", "FAILED")


def test_a_tracker_may_ask_a_run_to_stop(tmp_path):
    class Once(Tracker):
        def progress(self, step, total_steps):
            self.step = (step, total_steps)

        def should_stop(self):
            return self.step == (2, 4)

    done = trainer(tmp_path, callbacks=[Once], save_strategy="steps", save_steps=100).train()
    assert done.global_step == 2
    assert (tmp_path / "checkpoint-2").is_dir()


def test_a_new_tracker_is_one_file_and_one_line(tmp_path, monkeypatch):
    """With both it is known to report_to, and to a script of its own loop."""
    (tmp_path / "csv_file.py").write_text(
        """
import asyncio
import csv
from trainwright.trackers.tracker import Tracker


class CsvFile(Tracker):
    @classmethod
    def wanted(cls, parameters):
        return bool(parameters.get("csv"))

    def begin(self, run):
        self.file = open("numbers.csv", "a", newline="")

    def log(self, metrics, step):
        csv.writer(self.file).writerows((step, name, value) for name, value in metrics.items())

    def finish(self, status):
        self.file.close()
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainwright.trackers, "__path__", [*trainwright.trackers.__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match="report_to='csv' is not known"):
        TrainingArguments("out", report_to="csv")
    monkeypatch.setitem(table.TRACKERS, "csv", "csv_file:CsvFile")  # the line
    trainer(tmp_path / "out", report_to=["csv"]).train()
    rows = list(csv.reader((tmp_path / "numbers.csv").open(newline="")))
    assert [step for step, name, _ in rows if name == "train/loss"] == ["2", "4"]
    monkeypatch.setattr("sys.argv", ["script.py", "--csv"])
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    job = TrainerJob()

    @job.job_wrapper(manual_logging=True)
    def loop():
        job.log_metric("own/loss", 0.5, 7)

    loop()
    assert (tmp_path / "numbers.csv").read_text().splitlines()[-1] == "7,own/loss,0.5"


@pytest.mark.parametrize("event", ["begin", "log", "finish"])
def test_a_disk_that_is_full_costs_the_log_alone(tmp_path, capsys, event):
    class Full(Heard):
        pass

    def fails(self, *_):
        self.told.append((event,))
        raise OSError(errno.ENOSPC, "No space left on device")

    fails.__name__ = event
    setattr(Full, event, fails)
    heard = Full()
    done = trainer(tmp_path, callbacks=[heard], max_steps=12).train()
    assert done.global_step == 12
    said = capsys.readouterr().err
    assert said.count("the tracker Full failed") == (2 if event == "log" else 1)
    assert f"at {event} (OSError: [Errno 28] No space left on device)" in said
    if event == "log":  # three times in a row, and it is left alone until the end
        assert heard.events == ["begin", "log", "log", "log", "finish"]


def test_tensorboard_that_cannot_write_costs_its_log_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "file"))
    assert trainer(tmp_path / "out", report_to="tensorboard").train().global_step == 4
    assert "Note: the tracker tensorboard failed at begin (" in capsys.readouterr().err


def test_tensorboard_has_what_transformers_writes(tmp_path, monkeypatch):
    """Ours by report_to, and transformers' own callback given by hand, beside it."""
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    theirs = TensorBoardCallback()
    theirs.logging_dir = str(tmp_path / "theirs")
    made = trainer(tmp_path / "out", report_to="tensorboard", callbacks=[theirs], eval_strategy="steps", eval_steps=2)
    made.train()
    ours = scalars(tmp_path / "out")
    assert ours == scalars(tmp_path / "theirs")
    assert [step for step, _ in ours["train/loss"]] == [2, 4]
    assert made.pop_callback(TensorBoardCallback).replaces == "TensorBoardCallback"  # the first of the two
    assert made.pop_callback(TensorBoardCallback) is theirs


@pytest.mark.slow
def test_a_tracker_given_to_transformers_own_trainer(tmp_path):
    heard = Heard()
    kind = {"kind": transformers.Trainer, "arguments": transformers.TrainingArguments}
    trainer(tmp_path, callbacks=[TrackerCallback(heard)], **kind).train()
    assert heard.events == ["begin", "log", "log", "log", "finish"]


def test_a_callback_of_transformers_that_fails_costs_its_log_alone(tmp_path, monkeypatch, capsys):
    class Away(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            raise ConnectionError("the server is away")

    monkeypatch.setattr("transformers.integrations.get_reporting_integration_callbacks", lambda names: [Away])
    made = trainer(tmp_path, report_to="mlflow")
    assert made.train().global_step == 4
    assert (
        "the tracker mlflow failed at on_train_begin (ConnectionError: the server is away)" in capsys.readouterr().err
    )
    assert isinstance(made.pop_callback(Away), Away)
    with pytest.raises(ConnectionError):  # a callback that the script gives is the script's
        trainer(tmp_path, callbacks=[Away]).train()


def test_every_line_of_the_table_is_a_tracker():
    for name in table.TRACKERS:
        if name != table.JOB:
            assert isinstance(table.new(name), Tracker)
    missing = next(name for name in ("swanlab", "dvclive") if name not in installed())
    with pytest.raises(ConfigError, match=f"report_to='{missing}': its package is not installed .*pip install"):
        table.callbacks([missing])


def installed():
    from transformers.integrations import get_available_reporting_integrations

    return get_available_reporting_integrations()


def test_arguments_that_a_tracker_is_told_can_be_written_down(tmp_path):
    heard = Heard()
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
    Trainer(
        tiny.bert_classifier(), args, None, tiny.sentences(8), processing_class=tiny.tokenizer(), callbacks=[heard]
    ).train()
    run = heard.told[0][1]
    assert run.model_config["model_type"] == "bert"
    json.dumps([dict(run.parameters), dict(run.model_config)])


def test_other_ranks_than_the_first_tell_nobody():
    class State:
        is_world_process_zero, global_step, max_steps = False, 1, 2

    class Args:
        output_dir = "out"

    heard = Heard()
    callback = TrackerCallback(heard)
    for event in ("on_train_begin", "on_step_end", "on_log", "on_save", "on_train_end", "on_error"):
        getattr(callback, event)(Args, State, None, logs={"loss": 1.0})
    assert heard.told == []
    State.is_world_process_zero = True
    callback.on_train_begin(Args, State, None)
    callback.on_train_end(Args, State, None)
    assert heard.events == ["begin", "finish"]


def test_what_fails_in_a_row_is_tried_again_and_the_end_is_always_told(tmp_path, monkeypatch, capsys):
    """Each event counts by itself: files that cannot be written do not cost the numbers."""

    class Away(Heard):
        def log(self, metrics, step):
            if step in (2, 3, 4):
                raise ConnectionError("the server is away")
            super().log(metrics, step)

        def artifact(self, kind, path, step):
            raise OSError("no room")

    for pause, logged in ((1e9, [1]), (0.0, [1, *range(5, 11)])):
        monkeypatch.setattr("trainwright.trackers.tracker._PAUSE", pause)
        heard = Away()
        trainer(tmp_path, callbacks=[heard], max_steps=10, logging_steps=1, save_strategy="steps", save_steps=2).train()
        steps = [one[1] for one in heard.told if one[0] == "log"]
        assert list(dict.fromkeys(steps)) == logged
        assert heard.told[-1] == ("finish", "COMPLETE")
    said = capsys.readouterr().err
    assert "the tracker Away failed at log 3 times in a row; from here on that is tried once in 1000000000 s" in said


def test_what_is_a_callback_and_a_tracker_is_both(tmp_path):
    class Both(TrainerCallback, Heard):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    both = Both()
    made = trainer(tmp_path, callbacks=[both])
    made.train()
    assert both.steps == 4
    assert both.events.count("log") == 3
    assert made.pop_callback(both) is both
    made.evaluate()
    assert both.events[-1] == "finish"
    assert both.events.count("begin") == 1


class Duck:
    def begin(self, run):
        """Nobody calls this: the base class was forgotten."""


@pytest.mark.parametrize("given", [Duck(), "wandb", 3, [TrainerCallback()]])
def test_what_hears_of_nothing_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match="callbacks= holds .* which hears of nothing"):
        trainer(tmp_path, callbacks=[given])


@pytest.mark.parametrize("given", ["wandb", TrainerCallback, TrainerCallback(), Heard()])
def test_callbacks_are_a_list(tmp_path, given):
    with pytest.raises(ConfigError, match="a list is expected: callbacks="):
        trainer(tmp_path, callbacks=given)


def test_a_run_that_a_tracker_stops_is_stopped(tmp_path):
    class Stops(Heard):
        def should_stop(self):
            return True

    stops = Stops()
    trainer(tmp_path, callbacks=[stops]).train()
    assert stops.told[-1] == ("finish", "STOPPED")


def test_a_client_that_gives_up_costs_its_log_alone(tmp_path):
    class GivesUp(Heard):
        def log(self, metrics, step):
            raise asyncio.CancelledError

    assert trainer(tmp_path, callbacks=[GivesUp()]).train().global_step == 4


def test_one_tracker_does_not_change_what_the_next_is_told():
    class Takes(Heard):
        def log(self, metrics, step):
            metrics.clear()

    heard = Heard()
    Trackers({"first": Takes(), "second": heard}).log({"train/loss": 1.0})
    assert heard.told == [("log", 1, {"train/loss": 1.0})]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Heard(), "is no name; give a tracker of your own in the Trainer's callbacks="),
        (["all", "none"], "report_to='all' stands for itself"),
    ],
)
def test_what_report_to_cannot_be_is_told(tmp_path, given, told):
    with pytest.raises(ConfigError, match=told):
        TrainingArguments(str(tmp_path), report_to=given)
    assert TrainingArguments(str(tmp_path), report_to=["tensorboard"] * 2).report_to == ["tensorboard"]
