"""Evaluation by generation of decoder-only models: from the prompt alone."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, GenerationConfig

from tests import tiny
from trainwright import ConfigError, DataError, Seq2SeqTrainer, Seq2SeqTrainingArguments

PROMPTS = [[5, 6, 7], [9, 4], [11, 12, 13, 14]]
ANSWERS = [[8, 9, 10], [8], [3, 3]]


def rows():
    return [
        {
            "input_ids": prompt + answer,
            "attention_mask": [1] * len(prompt + answer),
            "labels": [-100] * len(prompt) + answer,
        }
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]


def trainer(folder, **changes):
    settings = {"predict_with_generate": True, "generation_max_length": 10, "use_cpu": True, "report_to": "none"}
    args = Seq2SeqTrainingArguments(str(folder), **{**settings, **changes})
    tokenizer = tiny.tokenizer()
    model = tiny.llama(vocab_size=len(tokenizer))
    collator = DataCollatorForSeq2Seq(tokenizer)
    return Seq2SeqTrainer(model, args, data_collator=collator, processing_class=tokenizer)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_generates_from_the_prompt_alone(side, tmp_path):
    one = trainer(tmp_path)
    one.processing_class.padding_side = side
    pad = one.processing_class.pad_token_id
    predicted = one.predict(rows()).predictions
    width = max(map(len, PROMPTS))
    for prompt, written in zip(PROMPTS, predicted, strict=True):
        begins = width - len(prompt)
        alone = one.model.generate(
            torch.tensor([prompt]), max_length=10 - begins, pad_token_id=pad, attention_mask=torch.ones(1, len(prompt))
        )[0].tolist()
        assert written[:begins].tolist() == [pad] * begins
        assert written[begins : begins + len(alone)].tolist() == alone


def test_labels_that_leave_no_prompt_are_named(tmp_path):
    whole = [{**row, "labels": row["input_ids"]} for row in rows()]
    with pytest.raises(DataError, match="row 0 of a batch has labels from its first token on.*-100"):
        trainer(tmp_path).predict(whole)
    unlabelled = [{"input_ids": prompt, "attention_mask": [1] * len(prompt)} for prompt in PROMPTS]
    assert trainer(tmp_path).predict(unlabelled).predictions.shape[0] == 3


def test_a_generation_config_that_cannot_work_is_refused_at_construction(tmp_path):
    with pytest.raises(ConfigError, match="generation_config cannot work: .*temperature"):
        trainer(tmp_path, generation_config=GenerationConfig(do_sample=False, temperature=0.5))
