"""Checkpoints: whole or not at all, resumed exactly, and exchanged with transformers in both directions."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from torch.utils.data import DataLoader, IterableDataset

import trainwright
from tests import tiny
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.checkpoint import check, folder, layout, snapshot
from trainwright.checkpoint.model.weights import save_model
from trainwright.checkpoint.past import Past
from trainwright.data.sampling.plan import Batching, Order, Plan


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.tokens(30, ragged=True))


def made(place, data, seed=0, library=trainwright, steps=16, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": steps,
        "save_steps": 5,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = library.TrainingArguments(str(place), **{**settings, **changes})
    given = {"train_loader": data} if isinstance(data, DataLoader) else {"train_dataset": data}
    return library.Trainer(tiny.llama(seed, dropout=0.1), args, **given)


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoint-40", 40), ("checkpoint-", -1), ("checkpoint-4.part", -1), ("x", -1)]
)
def test_the_step_of_a_folder_is_in_its_name(tmp_path, name, step):
    assert layout.step_of(tmp_path / name) == step


def test_a_model_is_saved_into_a_folder_that_is_not_there_and_again_into_one_that_is(tmp_path):
    model, place = tiny.llama(0), tmp_path / "a" / "b"
    for _ in range(2):
        with torch.no_grad():
            model.lm_head.weight.add_(1)
        save_model(model, place)
        again = transformers.AutoModelForCausalLM.from_pretrained(place)
        assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def losses(trainer):
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def drop_after(place, step):
    for path in layout.checkpoints(place):
        if layout.step_of(path) > step:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


CASES = {
    "first epoch": ({}, 5),
    "second epoch": ({}, 10),
    "end of an epoch": ({"save_steps": 8}, 8),
    "accumulation with a remainder": ({"gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}, 10),
    "by epochs": ({"max_steps": -1, "num_train_epochs": 2.0}, 10),
    "saved by epochs": ({"save_strategy": "epoch"}, 8),
    "two workers": ({"dataloader_num_workers": 2}, 5),
    "group by length": ({"train_sampling_strategy": "group_by_length"}, 5),
    "logged every 3": ({"logging_steps": 1, "lr_scheduler_type": "cosine", "warmup_steps": 3}, 5),
    "bf16": ({"bf16": True}, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_resuming_is_bitwise_the_uninterrupted_run(tmp_path, name):
    changes, step = CASES[name]
    data = tiny.tokens(30, ragged=True)
    straight = made(tmp_path, data, **changes)
    straight.train()
    drop_after(tmp_path, step)
    resumed = made(tmp_path, data, seed=99, **changes)
    torch.manual_seed(1234)
    resumed.train(resume_from_checkpoint=True)
    assert layout.step_of(layout.checkpoints(tmp_path)[0]) <= step
    assert torch.equal(weights(resumed), weights(straight))
    assert losses(resumed) == losses(straight)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stream", "ready loader"])
def test_streams_and_ready_loaders_go_on_where_they_stopped(tmp_path, kind):
    def data():
        return Stream() if kind == "stream" else DataLoader(tiny.tokens(30, ragged=True), batch_size=4)

    straight = made(tmp_path, data())
    straight.train()
    drop_after(tmp_path, 10)  # in the second pass
    resumed = made(tmp_path, data(), seed=99)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(straight))


def test_a_finished_run_can_be_made_longer(tmp_path):
    data = tiny.tokens(30, ragged=True)
    settings = {"lr_scheduler_type": "constant", "save_strategy": "epoch"}
    straight = made(tmp_path / "a", data, steps=13, **settings)
    straight.train()
    made(tmp_path / "b", data, steps=5, **{**settings, "save_strategy": "steps"}).train()  # ends within the first pass
    longer = made(tmp_path / "b", data, seed=99, steps=13, **settings)
    longer.train(resume_from_checkpoint=True)
    assert torch.equal(weights(longer), weights(straight))


def test_a_finished_run_trains_no_further_step(tmp_path, caplog):
    made(tmp_path, tiny.tokens(30)).train()
    again = made(tmp_path, tiny.tokens(30), seed=99)
    assert again.train(resume_from_checkpoint=True).global_step == 16
    assert "at step 16 of 16: the run is complete" in caplog.text


def test_resuming_fetches_no_row_that_was_seen(tmp_path):
    class Counting(torch.utils.data.Dataset):
        def __init__(self):
            self.rows, self.fetched = tiny.tokens(30), []

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            self.fetched.append(index)
            return self.rows[index]

    made(tmp_path, tiny.tokens(30)).train()
    drop_after(tmp_path, 5)
    data = Counting()
    made(tmp_path, data, steps=7, save_strategy="no", lr_scheduler_type="constant").train(resume_from_checkpoint=True)
    plan = Plan(Order(30), Batching(4))
    assert data.fetched == [int(i) for step in (5, 6) for i in plan.step(0, step * 4)[0][0]]


def test_layout_and_manifest(tmp_path):
    made(tmp_path, tiny.tokens(30)).train()
    newest = layout.checkpoints(tmp_path)[-1]
    names = {path.name for path in newest.iterdir()}
    assert {"config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= names
    assert {"rng_state.pth", "trainwright.json", "manifest.json"} <= names
    assert set(json.loads((newest / "manifest.json").read_text())["files"]) == names - {"manifest.json"}
    assert check.damage(newest) is None
    assert not list(tmp_path.glob(".checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "cut", "flipped"])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, kind, caplog):
    data = tiny.tokens(30)
    straight = made(tmp_path, data)
    straight.train()
    drop_after(tmp_path, 10)
    path = tmp_path / "checkpoint-10" / "optimizer.pt"
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            content[:half] if kind == "cut" else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        )
    resumed = made(tmp_path, data, seed=99)
    resumed.train(resume_from_checkpoint=True)
    assert "Passed over checkpoint-10: optimizer.pt" in caplog.text
    assert torch.equal(weights(resumed), weights(straight))
    with pytest.raises(CheckpointError, match="Cannot resume from .*checkpoint-10"):
        bad = tmp_path / "checkpoint-10" / "manifest.json"
        bad.write_text("{")
        made(tmp_path, data).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for old in Past(tmp_path, "this run").expired(2, str(tmp_path / "checkpoint-1")):
        folder.delete(old)
    assert [path.name for path in layout.checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-4"]


@pytest.mark.parametrize(
    ("keep", "best", "coming", "gone"),
    [
        (None, None, 0, []),
        (5, None, 0, []),
        (5, None, 1, [1]),
        (3, None, 0, [1, 2]),
        (3, 1, 0, [2, 3]),
        (3, 2, 1, [1, 3, 4]),
        (2, 5, 0, [1, 2, 3]),
        (1, 3, 0, [1, 2, 4]),
        (1, None, 1, [1, 2, 3, 4]),  # the newest stays until the one that comes is whole
    ],
)
def test_rotation_deletes_the_oldest_beyond_the_limit(tmp_path, keep, best, coming, gone):
    for step in (1, 2, 3, 4, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
    chosen = None if best is None else str(tmp_path / f"checkpoint-{best}")
    assert [layout.step_of(path) for path in Past(tmp_path, "this run").expired(keep, chosen, coming)] == gone


@pytest.mark.slow
def test_ours_resumes_a_run_of_transformers_and_the_reverse(tmp_path):
    data = tiny.tokens(30, ragged=True)

    def run(first, second, place):
        made(place, data, library=first, steps=16).train()
        for path in layout.checkpoints(place)[1:]:
            drop_after(place, 5)
        resumed = made(place, data, seed=99, library=second)
        resumed.train(resume_from_checkpoint=str(place / "checkpoint-5"))
        return weights(resumed)

    straight = made(tmp_path / "straight", data)
    straight.train()
    for first, second in ((transformers, trainwright), (trainwright, transformers)):
        both = run(first, second, tmp_path / first.__name__)
        # float32: the two engines add in another order, and Adam's division makes that 1e-5 where gradients are tiny
        # where a gradient is nearly 0, Adam divides rounding by rounding: one weight of 21,472 moves by 1.4e-5
        torch.testing.assert_close(both, weights(straight), rtol=1e-5, atol=3e-5)


@pytest.mark.slow
def test_changed_arguments_win_and_are_named(tmp_path, caplog):
    data = tiny.tokens(30)
    made(tmp_path, data).train()
    drop_after(tmp_path, 5)
    resumed = made(tmp_path, data, learning_rate=5e-4, save_steps=2, logging_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert "learning_rate: 0.001 -> 0.0005" in caplog.text
    logged = [entry for entry in resumed.state.log_history if "loss" in entry and entry["step"] > 5]
    assert [entry["step"] for entry in logged] == [6, 8, 10, 12, 14, 16]
    assert logged[0]["learning_rate"] == pytest.approx(5e-4 * 11 / 16)
    assert (tmp_path / "checkpoint-6").is_dir()


@pytest.mark.slow
def test_another_data_order_needs_consent(tmp_path, caplog):
    data = tiny.tokens(30)
    made(tmp_path, data).train()
    drop_after(tmp_path, 5)
    with pytest.raises(CheckpointError, match="per_device_train_batch_size 4 -> 2"):
        made(tmp_path, data, per_device_train_batch_size=2).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="seed or data_seed 42 -> 7"):
        made(tmp_path, data, data_seed=7).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="rows of the dataset 30 -> 28"):
        made(tmp_path, data[:28]).train(resume_from_checkpoint=True)
    resumed = made(
        tmp_path, data, per_device_train_batch_size=2, allow_batch_change=True, max_steps=-1, num_train_epochs=1.0
    )
    result = resumed.train(resume_from_checkpoint=True)
    assert "The data order changes from here" in caplog.text
    assert result.global_step == 5 + 5  # 20 rows are done; the 10 that are left make 5 steps of 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataloader_drop_last": True}, "dataloader_drop_last False -> True"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps 1 -> 2"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy random -> sequential"),
    ],
)
def test_every_argument_that_makes_the_order_needs_consent(tmp_path, change, said):
    data = tiny.tokens(30)
    made(tmp_path, data, steps=5).train()
    with pytest.raises(CheckpointError, match=f"The data order is not the checkpoint's: {said}. Put it back"):
        made(tmp_path, data, **change).train(resume_from_checkpoint=True)


def test_ignore_data_skip_begins_the_pass_anew(tmp_path):
    class Seen(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(inputs["input_ids"])
            return super().training_step(model, inputs, num_items_in_batch)

    seen, data = [], tiny.tokens(30)
    made(tmp_path, data).train()
    drop_after(tmp_path, 5)
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=7,
        ignore_data_skip=True,
        use_cpu=True,
        disable_tqdm=True,
    )
    Seen(tiny.llama(), args, train_dataset=data).train(resume_from_checkpoint=True)
    rows = Plan(Order(30), Batching(4)).step(0, 0)[0][0]
    assert torch.equal(seen[0], torch.stack([data[int(row)]["input_ids"] for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "reduce_lr_on_plateau"])
def test_a_checkpoint_of_the_model_alone_goes_on_with_a_new_optimizer(tmp_path, schedule, caplog):
    plateau = schedule == "reduce_lr_on_plateau"
    more = {"lr_scheduler_type": schedule, "optim": "sgd", "logging_steps": 1, "learning_rate": 0.1}
    more |= {"eval_strategy": "steps", "eval_steps": 10} if plateau else {"warmup_steps": 2}

    def trained(folder, resume=False, **changes):
        settings = {"per_device_train_batch_size": 4, "max_steps": 8, "save_steps": 5, "disable_tqdm": True, **more}
        args = TrainingArguments(str(folder), use_cpu=True, **settings, **changes)
        trainer = Trainer(tiny.llama(), args, None, tiny.tokens(30), tiny.tokens(4))
        trainer.train(resume_from_checkpoint=resume)
        return trainer, [(e["step"], e["learning_rate"], e["loss"]) for e in trainer.state.log_history if "loss" in e]

    whole, steps = trained(tmp_path / "whole")
    trained(tmp_path / "alone", save_only_model=True)
    drop_after(tmp_path / "alone", 5)
    resumed, again = trained(tmp_path / "alone", resume=True)
    assert "holds the model alone" in caplog.text
    assert again == steps  # without moments and dropout nothing else was lost
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_saved_model_loads_in_transformers(tmp_path):
    trainer = made(tmp_path, tiny.tokens(30), steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.equal(loaded.lm_head.weight, trainer.model.lm_head.weight)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.complex128, torch.int64, torch.bool]
)
def test_a_mark_is_another_where_one_value_is(dtype):
    values = torch.tensor([1, 0, 1], dtype=dtype)
    other = values.clone()
    other[1] = 1j if dtype.is_complex else 1
    assert snapshot.mark({"a": [values]}) == snapshot.mark({"a": [values.clone()]})
    assert snapshot.mark({"a": [values]}) != snapshot.mark({"a": [other]})
