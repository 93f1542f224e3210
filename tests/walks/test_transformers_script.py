"""Somebody with a script of transformers: one import changed, and the model that it leaves is asked."""

from __future__ import annotations

import pytest

from tests import tiny_language as tiny
from tests.walks.shell import settle, typed

pytestmark = pytest.mark.slow
SCRIPT = """
import json

from torch.utils.data import Dataset
from transformers import {names}

tokenizer = AutoTokenizer.from_pretrained("my-model")
model = AutoModelForCausalLM.from_pretrained("my-model")
rows = [json.loads(line)["text"] for line in open("train.jsonl")]


class Rows(Dataset):
    def __len__(self):
        return len(rows)

    def __getitem__(self, place):
        ids = tokenizer(rows[place])["input_ids"]
        return {{"input_ids": ids, "labels": ids}}


trainer = Trainer(
    model=model,
    args=TrainingArguments(
        "out", num_train_epochs=20, learning_rate=1e-2, save_strategy="epoch", save_total_limit=2, report_to="none",
        per_device_train_batch_size=8, use_cpu=True,
    ),
    train_dataset=Rows(),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    processing_class=tokenizer,
)
trainer.train()
trainer.save_model()
"""
NAMES = "AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments"


def test_from_a_script_of_transformers_to_a_model_that_goes_on_with_a_text(tmp_path, monkeypatch):
    folder = settle(tmp_path, monkeypatch)
    tiny.new_model(initializer_range=0.1).save_pretrained("my-model")
    tiny.new_tokenizer().save_pretrained("my-model")
    tiny.write_rows(
        folder / "train.jsonl", [{"text": "the cat is on the mat"}, {"text": "the ball is in the house"}] * 8
    )
    (folder / "train.py").write_text(
        SCRIPT.format(names=NAMES).replace("from transformers import", "from trainwright import")
    )
    monkeypatch.setenv("TRAINWRIGHT_JOBS", "on")  # a plain Trainer is a job where that is asked for
    typed("python train.py")
    assert (folder / "out/model.safetensors").is_file()
    said = typed("trainwright chat out --temperature 0 --max-new-tokens 6", "the cat is\n/reset\nthe ball is\n")
    assert "on the mat" in said
    assert "in the house" in said
    assert list((folder / "home/jobs").glob("*/job.jsonl"))
