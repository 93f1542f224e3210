"""Losses by row, and models beside each other: against transformers' own loss, the Trainer's, and by hand."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
import torch
import transformers

from tests import tiny_language as tiny
from tests.trained.conftest import config_of
from trainwright import ConfigError, DataError
from trainwright.cli.main import main
from trainwright.config.composition import ConfiguredTrainer
from trainwright.trained.folders import find
from trainwright.trained.measuring import evaluating, rows
from trainwright.trained.measuring.comparing import Scores, compared, interval, table
from trainwright.trained.measuring.results import kept_results

BY_HAND = 1e-5  # of a loss near 5 in float32, whose sums are in another order


@pytest.fixture(scope="module")
def held(place):
    return tiny.write_rows(place / "held.jsonl", tiny.rows_of("completion", 24, seed=9))


@pytest.fixture(scope="module")
def measured(whole, held):
    return evaluating.by_loss(find(whole), rows.read(find(whole), str(held)))


@pytest.mark.slow
def test_the_loss_of_a_row_is_that_of_transformers(whole, held, measured):
    model = transformers.AutoModelForCausalLM.from_pretrained(whole).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    for row, given in zip(measured.rows[:6], map(json.loads, held.read_text().splitlines()), strict=False):
        prompt, both = (
            tokenizer(text)["input_ids"] for text in (given["prompt"], given["prompt"] + given["completion"])
        )
        start = len(os.path.commonprefix([prompt, both]))  # the prompt's last token may reach into the completion
        ids = torch.tensor([[*both, tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[0, :start] = -100
        with torch.no_grad():
            out = model(input_ids=ids, labels=labels)
        assert row["loss"] == pytest.approx(float(out.loss), abs=BY_HAND)
        assert row["tokens"] == ids.shape[1] - start
        assert row["right"] == int((out.logits[0, start - 1 : -1].argmax(-1) == ids[0, start:]).sum())
        assert row["size"] == len(tokenizer.decode(ids[0, start:-1]).encode())


@pytest.mark.slow
def test_the_metrics_are_those_of_an_evaluation_while_training(place, held, measured, tmp_path):
    config = config_of(place, "whole")
    config.data.validation.datasets = [rows.read(find(place / "whole"), str(held)).split.datasets[0]]
    config.training.output_dir = str(tmp_path)
    trainer = ConfiguredTrainer(config).trainer
    trainer._load_from_checkpoint(str(place / "whole"))
    told = trainer.evaluate()
    assert measured.metrics["loss"] == pytest.approx(told["eval_loss"], abs=BY_HAND)
    assert measured.metrics["perplexity"] == pytest.approx(math.exp(told["eval_loss"]), rel=BY_HAND)
    assert measured.metrics["accuracy"] == pytest.approx(told["eval_mean_token_accuracy"], abs=1e-6)
    sums = {name: sum(row[name] for row in measured.rows) for name in ("nll", "size")}
    assert measured.metrics["bits per byte"] == pytest.approx(sums["nll"] / math.log(2) / sums["size"])


@pytest.mark.slow
def test_a_model_on_other_data_than_its_runs(pissa, place):
    data = rows.read(find(pissa), str(place / "text.jsonl"), limit=3)
    assert [row["row"] for row in evaluating.by_loss(find(pissa), data).rows] == [0, 1, 2]
    with pytest.raises(DataError, match="has no row|cannot be read"):
        rows.read(find(pissa), str(place / "nothing.jsonl"))
    with pytest.raises(ConfigError, match="keeps no data for measuring"):
        rows.read(find(pissa))


@pytest.mark.slow
def test_a_base_without_a_template_is_measured_with_a_given_one(pissa, place):
    data = rows.read(find(pissa), str(place / "chat.jsonl"), limit=4)
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        evaluating.by_loss(find(place / "model"), data)
    base = evaluating.by_loss(find(place / "model"), data, template="chatml")
    own = evaluating.by_loss(find(pissa), data, template="zephyr")  # which has one
    assert [row["tokens"] for row in base.rows] == [row["tokens"] for row in own.rows]


@pytest.mark.slow
def test_a_yaml_file_is_read_for_the_data_that_it_keeps(place, whole, held):
    content = tiny.settings(place, "completion")
    content["data"]["validation"] = {"datasets": [{"dataset_name": str(held)}]}
    file = tiny.write_yaml(place / "with_validation.yaml", content)
    assert len(rows.read(find(whole), str(file)).rows) == 24


@pytest.mark.slow
def test_the_command_compares_and_keeps_what_it_found(place, whole, lora, held, capsys):
    assert main(["eval", str(whole), str(lora), str(place / "model"), "--data", str(held), "--limit", "8"]) == 0
    out = capsys.readouterr().out
    assert "8 rows of held.jsonl" in out
    assert f"A  {whole}" in out
    assert "8/0/0" in out or "0/8/0" in out  # the model that learned is better in every row
    assert "against A" in out
    assert max(map(len, out.split("\n\n", 2)[2].splitlines())) <= 80
    [result] = [one for one in kept_results(lora) if one["data"] == "held.jsonl"]  # beside those of other tests
    assert (result["rows"], result["settings"]["limit"]) == (8, 8)
    assert not (place / "model" / "evaluations").exists()  # which is no run


def scores(amounts, weights=None, **named):
    amounts = np.array(amounts, dtype=float)
    return Scores(
        "loss", amounts, np.ones(len(amounts)) if weights is None else np.array(weights, dtype=float), **named
    )


def test_a_metric_weighs_its_rows():
    assert scores([1, 9], [1, 3]).value == 2.5
    assert scores([1, 9], [1, 3], exponential=True).value == pytest.approx(math.exp(2.5))


def test_an_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = interval(scores(random.exponential(size=60)), seed=trial)
        hits += low <= 1 <= high
    assert 0.88 <= hits / 200 <= 0.98  # 0.95, less what percentiles of 60 skewed values lack, within 3 deviations


def test_models_are_compared_row_by_row():
    random = np.random.default_rng(2)
    hard = random.normal(size=400)  # rows differ much, the models little
    one, other = scores(hard + 0.1, less_is_better=True), scores(hard, less_is_better=True)
    found = compared(one, other)
    assert found.difference == pytest.approx(0.1)
    assert (found.wins, found.losses, found.ties) == (0, 400, 0)
    assert found.is_sure
    assert found.interval[1] - found.interval[0] < 0.01 < np.subtract(*interval(one)[::-1])
    same = compared(one, one)
    assert (same.difference, same.interval, same.ties) == (0, (0, 0), 400)
    assert not same.is_sure
    with pytest.raises(ValueError, match="of 400 rows cannot be compared with 2 rows"):
        compared(one, scores([1, 2]))


def test_a_table_shows_one_model_and_several():
    one, other = [scores([1, 0, 1, 0])], [scores([1, 1, 1, 0])]
    assert table(["a"], [one])[1].split()[:2] == ["loss", "0.5"]
    lines = table(["a", "b"], [one, other])
    assert lines[:2] == ["A  a", "B  b"]
    assert lines[-1].endswith("1/0/3")
