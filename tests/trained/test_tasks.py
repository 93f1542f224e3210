"""Tasks of the LM Evaluation Harness, where it is installed; and what is said where it is not."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import transformers
import yaml

from tests import tiny_language as tiny
from trainwright import ConfigError
from trainwright.trained.folders import find
from trainwright.trained.measuring.tasks import by_tasks

HAS_HARNESS = importlib.util.find_spec("lm_eval") is not None
CHOICES = ["cat", "dog"]


@pytest.mark.slow
@pytest.mark.skipif(HAS_HARNESS, reason="lm_eval is installed")
def test_a_harness_that_is_not_installed_is_told(whole):
    with pytest.raises(ConfigError, match="needs the package 'lm_eval', which is not installed: pip install lm_eval"):
        by_tasks(find(whole), ["hellaswag"])


def chance(model, tokenizer, before, after):
    """The log-probability of a text after another, by hand."""
    start, both = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (before, before + after))
    with torch.no_grad():
        chances = model(both).logits[0, :-1].log_softmax(-1)
    places = range(start.shape[1] - 1, both.shape[1] - 1)
    return float(chances[places, both[0, start.shape[1] :]].sum())


@pytest.mark.slow
@pytest.mark.skipif(not HAS_HARNESS, reason="lm_eval is not installed")
def test_a_task_finds_the_likelier_answer(whole, tmp_path):
    asked = [f"{word} and" for word in tiny.WORDS[:8]]
    rows = [{"asked": text, "right": number % 2} for number, text in enumerate(asked)]
    file = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    task = {
        "task": "own", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{asked}}", "doc_to_choice": CHOICES,
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(task))
    found = by_tasks(find(whole), ["own"], folder=tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(whole).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    for number, (row, text) in enumerate(zip(found.rows, asked, strict=True)):
        one, other = (chance(model, tokenizer, text, f" {choice}") for choice in CHOICES)
        assert row["acc"] == float((other > one) == number % 2)
    assert found.metrics == {"own acc": pytest.approx(sum(row["acc"] for row in found.rows) / 8)}
    with pytest.raises(ConfigError, match="lm_eval has no task 'nothing'"):
        by_tasks(find(whole), ["nothing"])
