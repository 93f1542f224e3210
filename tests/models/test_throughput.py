"""Operations counted from a model's shapes, the share of the device's best, and where the time goes."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import tiny
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.config.options import DPOOptions
from trainwright.jobs.journal.timesheet import Timesheet
from trainwright.models.operations import operations_of
from trainwright.models.throughput import PEAKS, Throughput, peak_of
from trainwright.objectives.preference import PreferenceLoss


def counted(model, backward, tokens=24):
    """Return what torch counts of one row with whole squares of attention."""
    model.set_attn_implementation("eager")
    ids = torch.randint(3, tiny.VOCABULARY, (1, tokens))
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, use_cache=False).logits.sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2, tiny.gpt_neox, lambda: tiny.llama(tie_word_embeddings=True)])
def test_operations_are_those_that_torch_counts(make):
    model = make()
    own = operations_of(model)
    assert own.forward([24]) == pytest.approx(counted(model, False), rel=0.002)  # rotary angles, which are left out
    assert own.training([24]) == pytest.approx(counted(make(), True), rel=0.002)


def test_frozen_weights_have_no_gradient_of_their_own():
    model = tiny.llama()
    before = operations_of(model)
    model.model.layers.requires_grad_(False)
    after = operations_of(model)
    assert (after.weights, after.attention) == (before.weights, before.attention)
    assert after.trained == tiny.VOCABULARY * 32  # the output layer


def test_a_token_counts_the_experts_that_it_is_sent_to():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "sliding_window": 8}  # fmt: skip
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2))
    own = operations_of(model)
    assert own.weights == 4 * 32 * 32 + 2 * 3 * 32 * 48 + 4 * 32 + 61 * 32  # attention, two experts, router, output
    assert own.forward([20]) - 2 * own.weights * 20 == 2 * (2 * 32) * 20 * 8  # a token sees 8


@pytest.mark.parametrize("model", [tiny.new_line, tiny.t5])
def test_shapes_that_do_not_tell_are_not_counted(model):
    assert operations_of(model()) is None


@pytest.mark.parametrize(
    ("name", "kind", "rounds", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, False, 989.5e12),
        ("NVIDIA H100 PCIe", torch.float16, False, 756e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, True, 156e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, False, 19.5e12),
        ("NVIDIA RTX A4000", torch.bfloat16, False, None),
        ("Tesla V100-SXM2-16GB", torch.bfloat16, False, None),
        ("NVIDIA GeForce RTX 3090 Ti", torch.bfloat16, False, None),
        ("NVIDIA H200", torch.float64, False, None),
    ],
)
def test_the_best_of_a_device_is_known_by_name_and_number_format(name, kind, rounds, expected):
    assert peak_of(name, kind, rounds) == expected


def test_longer_names_of_devices_come_first():
    for place, one in enumerate(PEAKS):
        assert not any(one.name.startswith(f"{other.name} ") for other in PEAKS[:place])


def test_every_log_tells_the_share_and_leaves_out_what_is_no_training():
    throughput = Throughput(peak=100.0, devices=2)
    throughput.add(800.0, 40)
    assert throughput.read(8.0) == {"mfu": 0.5, "tokens_per_second_per_device": 2.5}
    throughput.add(400.0, 10)
    assert throughput.read(10.0) == {"mfu": 1.0, "tokens_per_second_per_device": 2.5}
    assert throughput.of_run(10.0) == 0.6
    assert Throughput().of_run(10.0) is None
    assert throughput.read(11.0) == {}


def ragged(rows):
    made = tiny.tokens(rows, length=12, ragged=True)
    for row in made:
        row["attention_mask"] = (row["labels"] != -100).long()
    return made


def packed(rows):
    columns = {name: torch.cat([row[name] for row in rows])[None] for name in ("input_ids", "labels")}
    return {**columns, "position_ids": torch.arange(12).repeat(len(rows))[None], "use_cache": False}


@pytest.mark.parametrize("kind", ["padded", "packed", "pairs"])
def test_a_known_device_logs_what_its_documents_needed(tmp_path, monkeypatch, capfd, kind):
    monkeypatch.setattr("trainwright.inputs.batch_counts.peak_operations", lambda device, kind: 1e12)
    model, rows = tiny.llama(), ragged(8) if kind == "padded" else tiny.tokens(8)
    lengths = [int(row["attention_mask"].sum()) for row in rows]
    own, more = operations_of(model), {}
    expected, tokens = own.training(lengths), sum(lengths)
    if kind == "pairs":
        rows = [{name: torch.stack([row[name]] * 2) for name in row} for row in rows]
        more["objective"] = PreferenceLoss(DPOOptions(), tiny.llama(seed=1))
        expected, tokens = 2 * (expected + own.forward(lengths)), 2 * tokens
    args = TrainingArguments(
        str(tmp_path), max_steps=2, logging_steps=1, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    seen, read = [], Throughput.read

    def note(self, seconds):
        seen.append((self.operations, self.tokens))
        return read(self, seconds)

    monkeypatch.setattr(Throughput, "read", note)
    collator = packed if kind == "packed" else None
    trainer = Trainer(model, args, train_dataset=rows, data_collator=collator, **more)
    trainer.train()
    assert [sum(column) for column in zip(*seen[:2], strict=True)] == [pytest.approx(expected), tokens]
    logged = [entry for entry in trainer.state.log_history if "mfu" in entry]
    assert len(logged) == 2
    assert all(0 < entry["mfu"] < 1 and entry["tokens_per_second_per_device"] > 0 for entry in logged)
    assert "of what the device could compute (MFU)" in capfd.readouterr().err


def test_waiting_for_data_is_no_training(tmp_path):
    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            time.sleep(0.01)
            return tiny.line_rows(8)[index]

    args = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=2, report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    trainer, found = Trainer(tiny.new_line(), args, train_dataset=Slow()), []

    class Notes(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            found.append(trainer._session.run.timesheet.told()["spent"])

    trainer.add_callback(Notes())
    trainer.train()
    assert found[0]["data"] >= 8 * 0.01  # the rows of four steps
    assert found[0]["exchanging"] == 0


def test_the_parts_of_a_timesheet_add_up():
    sheet = Timesheet(passed=1.0)
    with sheet.spending("data"):
        pass
    sheet.begin_step()
    spent = sheet.told()["spent"]
    assert sum(spent.values()) == pytest.approx(1.0, abs=0.5)
    assert sheet.trained() <= sum(spent.values())
