"""Any step of the past can be shown again, from the command line and from the script."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.reliability import cases
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.cli.main import main
from trainwright.evaluation.replay import find_step


class Seen(Trainer):
    """Keeps the rows of every step by their first input."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.seen.setdefault(self.state.global_step + 1, []).extend(inputs["x"][:, 0].tolist())
        return super().training_step(model, inputs, num_items_in_batch)


def made(place, data=None, kind=Seen, **changes):
    torch.manual_seed(0)
    settings = {"max_steps": 20, "save_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    args = TrainingArguments(str(place), use_cpu=True, disable_tqdm=True, **{**settings, **changes})
    trainer = kind(cases.Net(), args, train_dataset=data or cases.rows())
    trainer.seen = {}
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["random", "sequential", "group_by_length"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_rows_of_every_step(tmp_path, sampling, drop_last):
    data = [{**row, "length": 1 + i * 7 % 11} for i, row in enumerate(cases.rows())]
    trainer = made(tmp_path, data, train_sampling_strategy=sampling, dataloader_drop_last=drop_last)
    trainer.train()
    for step in range(1, 21):
        shown = trainer.replay(step)
        assert [float(data[row.index]["x"][0]) for row in shown.rows] == trainer.seen[step]
        assert shown.epoch == 1 + (step - 1) // (3 if drop_last else 4)


class ByItems(Seen):
    """Its loss is a mean over the items that it is told, as transformers' own are."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = outputs["loss"] * len(inputs["labels"]) / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("kind", [Seen, ByItems])
def test_losses_are_those_of_the_checkpoint_before(tmp_path, kind):
    trainer = made(tmp_path, kind=kind)
    trainer.train()
    shown = trainer.replay(8, loss=True)
    assert shown.checkpoint == tmp_path / "checkpoint-6"
    model = cases.Net().eval()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(tmp_path / "checkpoint-6" / "model.safetensors"))
    for row in shown.rows:
        batch = {name: value[None] for name, value in trainer.train_dataset[row.index].items()}
        assert row.loss == pytest.approx(model(**batch)["loss"].item(), rel=1e-6)
    with pytest.raises(CheckpointError, match="no whole checkpoint before step 3"):
        trainer.replay(3, loss=True)


def test_text_is_decoded(tmp_path):
    tokenizer = tiny.tokenizer()
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in ("the cat sat", "a dog ran", "the sun")]
    args = TrainingArguments(str(tmp_path), max_steps=2, save_steps=1, use_cpu=True, disable_tqdm=True,
                             per_device_train_batch_size=1)  # fmt: skip
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    trainer = Trainer(tiny.llama(vocab_size=len(tokenizer)), args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    row = trainer.replay(2).rows[0]
    assert row.shown == repr(tokenizer.decode(rows[row.index]["input_ids"]))


def test_the_command_on_a_script_s_run(tmp_path, capsys):
    trainer = made(tmp_path)
    trainer.train()
    capsys.readouterr()
    assert main(["replay", str(tmp_path), "--step", "5"]) == 0
    expected = [f"row {row.index}" for row in find_step(tmp_path, 5).rows]
    assert capsys.readouterr().out.splitlines() == ["Step 5: 8 rows of pass 2", *expected]
    assert main(["replay", str(tmp_path), "--step", "5", "--loss"]) == 2
    assert "trainer.replay(5, loss=True)" in capsys.readouterr().err
    assert main(["replay", str(tmp_path), "--step", "999"]) == 2
    assert "There is no step 999: the run" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none"), "--step", "1"]) == 2
    made(tmp_path / "stream", cases.Stream(), kind=Seen).train()
    assert main(["replay", str(tmp_path / "stream"), "--step", "2"]) == 2
    assert "whose order is not a plan" in capsys.readouterr().err
