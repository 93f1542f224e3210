"""Streams: every row once, whoever reads them; passes are counted, and shares of a run without a length are refused."""

from __future__ import annotations

import random

import datasets
import pytest
from torch.utils.data import IterableDataset, get_worker_info

from tests import tiny_language as tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.cli.main import main
from trainwright.data.introspection import asks_for_its_worker


class Rows(IterableDataset):
    """Rows in a random order, not divided among workers."""

    def __iter__(self):
        rows = [{"input_ids": [5, 6, i], "labels": [5, 6, i]} for i in range(10, 33)]
        random.shuffle(rows)
        yield from rows


class Divided(Rows):
    def __iter__(self):
        rows, info = list(super().__iter__()), get_worker_info()
        yield from sorted(rows, key=lambda row: row["labels"])[info.id :: info.num_workers] if info else rows


def arguments(place, **changes):
    return TrainingArguments(
        str(place), use_cpu=True, disable_tqdm=True, per_device_train_batch_size=2, logging_strategy="no", **changes
    )


def batches(place, stream, workers, steps=11, resume=None):
    """The last tokens of every batch that a training sees."""
    seen = []

    class Watching(Trainer):
        def training_step(self, model, inputs, *given, **named):
            seen.append(inputs["input_ids"][:, 2].tolist())
            return super().training_step(model, inputs, *given, **named)

    args = arguments(place, max_steps=steps, dataloader_num_workers=workers, save_steps=5, allow_batch_change=True)
    Watching(tiny.new_model(), args, train_dataset=stream).train(resume_from_checkpoint=resume)
    return seen


@pytest.mark.slow
def test_a_stream_that_does_not_divide_itself_is_read_once(tmp_path, caplog):
    alone = batches(tmp_path / "alone", Rows(), 0)
    assert batches(tmp_path / "two", Rows(), 2) == alone
    assert caplog.text.count("The Rows does not divide itself among the 2 workers") == 1
    batches(tmp_path / "some", Rows(), 2, steps=5)
    assert batches(tmp_path / "some", Rows(), 0, resume=True) == alone[5:]  # another number of readers
    caplog.clear()
    assert len({token for batch in batches(tmp_path / "own", Divided(), 2) for token in batch}) == 22
    assert "does not divide itself" not in caplog.text


def test_evaluation_of_such_a_stream_reads_every_row_once(tmp_path):
    def rows(prediction):
        return {"rows": sorted(row[2] for row in prediction.label_ids.tolist())}

    args = arguments(tmp_path, dataloader_num_workers=2)
    trainer = Trainer(tiny.new_model(), args, eval_dataset=Rows(), compute_metrics=rows)
    assert trainer.predict(Rows()).label_ids[:, 2].sum() == sum(range(10, 33))


def test_passes_over_a_stream_are_counted(tmp_path, capsys):
    rows = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}] * 8
    args = arguments(
        tmp_path, num_train_epochs=3, lr_scheduler_type="constant_with_warmup", warmup_steps=2, eval_strategy="epoch",
        eval_delay=2, save_strategy="no",
    )  # fmt: skip
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    trainer = Trainer(tiny.new_model(), args, train_dataset=stream, eval_dataset=rows)
    trainer.train()
    evaluated = [(entry["step"], entry["epoch"]) for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [(8, 2.0), (12, 3.0)]
    assert "step 8  eval_loss" in capsys.readouterr().out  # no number of steps that nobody knows


@pytest.mark.parametrize("share", [{"warmup_steps": 0.1}, {"eval_steps": 0.5}, {"save_steps": 0.5}])
def test_shares_of_a_run_without_a_length_are_refused(tmp_path, share):
    args = arguments(tmp_path, lr_scheduler_type="constant_with_warmup", **share)
    with pytest.raises(ConfigError, match=f"{next(iter(share))}=0.. is a share of the run, but the training data has"):
        Trainer(tiny.new_model(), args, train_dataset=Rows()).train()


def test_a_file_with_such_a_share_is_refused_before_anything_is_loaded(tmp_path, capsys):
    place = tiny.make_place(tmp_path)
    content = tiny.settings(place, "text", max_steps=-1, lr_scheduler_type="constant_with_warmup", warmup_ratio=0.1)
    content["data"]["train"]["stream"] = True
    assert main(["check", "-c", str(tiny.write_yaml(tmp_path / "run.yaml", content))]) != 0
    assert "a share of a run over a stream, whose steps are not known" in "".join(capsys.readouterr())


def test_a_stream_whose_iteration_is_not_written_in_python_asks_for_no_worker():
    assert not asks_for_its_worker(range(3))
    assert asks_for_its_worker(Divided())
