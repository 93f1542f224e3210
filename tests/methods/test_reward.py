"""Reward models: the numbers of TRL 1.16, and those of the formula where the end and the padding token are one."""

from __future__ import annotations

import logging
import math
import random

import pytest
import torch

from tests import installed
from tests import tiny_language as tiny
from tests.methods.beside_trl import ARGUMENTS, compare, content_of, logs, trained, weights
from trainwright import DataError
from trainwright.cli.main import main
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.data.text.named_templates import NAMED_TEMPLATES
from trainwright.tasks.language.text import load_text

NAMES = ["loss", "grad_norm", "min_reward", "mean_reward", "max_reward", "accuracy", "margin"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    logging.getLogger("trl").setLevel(logging.ERROR)
    place = tiny.make_place(tmp_path_factory.mktemp("reward"))
    rng = random.Random(5)
    rows = [{**row, "margin": rng.random()} for row in tiny.rows_of("preference")]
    tiny.write_rows(place / "margins.jsonl", rows)
    tiny.write_rows(place / "whole.jsonl", [{name: row[name] for name in ("chosen", "rejected")} for row in rows])
    return place


def content_in(place, tmp_path, data="preference", kwargs=None, model=None, **training):
    return content_of("REWARD", place, tmp_path, data, kwargs or {}, model, **training)


def ours(place, tmp_path, *given, **named):
    return trained(tmp_path, content_in(place, tmp_path, *given, **named))


def theirs(place, tmp_path, data, kwargs, template=None, pad=None, **more):
    import datasets
    import trl
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    tokenizer.chat_template = template
    tokenizer.pad_token = pad or tokenizer.pad_token
    arguments = {**ARGUMENTS, "per_device_train_batch_size": 4, **more, **kwargs}
    made = trl.RewardTrainer(
        model=str(place / "model"),
        args=trl.RewardConfig(str(tmp_path / "theirs"), **arguments),
        train_dataset=datasets.Dataset.from_json(str(place / f"{data}.jsonl")),
        processing_class=tokenizer,
    )
    made.train()
    return made


ALIKE = {
    "pairs": ("preference", {}, {}),
    "margins": ("margins", {}, {}),
    "centred": ("preference", {"center_rewards_coefficient": 0.1}, {}),
    "whole texts": ("whole", {}, {}),
    "too long ones left out": ("preference", {"max_length": 40}, {}),
    "conversations": ("chat_preference", {}, {}),
    "accumulation": ("preference", {}, {"gradient_accumulation_steps": 2}),
}


@installed.with_trl
@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_it_is_trls(place, tmp_path, name):
    data, kwargs, more = ALIKE[name]
    template = NAMED_TEMPLATES["chatml"] if data.startswith("chat") else None
    reference = theirs(place, tmp_path, data, kwargs, template, data_seed=42, **more)
    mine = ours(place, tmp_path, data, kwargs, {"chat_template": template}, **more)
    assert mine.objective.flat_rows is not None
    assert name == "whole texts" or mine.objective.shares  # what is computed of the prompt
    compare(mine, reference, NAMES)


@installed.with_trl
@pytest.mark.slow
def test_where_the_end_pads_trls_score_is_that_of_the_token_before_it(place, tmp_path):
    reference = theirs(place, tmp_path, "preference", {}, pad="<|end|>", data_seed=42)
    own = {"tokenizer_pad_token": "<|end|>"}
    compare(ours(place, tmp_path, "preference", {"trl_compatible": True}, own), reference, NAMES)
    right = ours(place, tmp_path, "preference", {}, own)
    assert logs(right)[0]["loss"] != pytest.approx(logs(reference)[0]["loss"], abs=1e-3)
    usual = ours(place, tmp_path)  # with a padding token of its own
    for name in ("loss", "grad_norm"):  # of the end token's embedding too, which pads now
        assert logs(right)[0][name] == pytest.approx(logs(usual)[0][name], abs=1e-6), name


@installed.with_trl
@pytest.mark.slow
def test_evaluation_is_trls(place, tmp_path):
    import datasets

    reference = theirs(place, tmp_path, "margins", {}, data_seed=42, per_device_eval_batch_size=20)
    tiny.write_rows(tmp_path / "held_out.jsonl", tiny.rows_of("preference", 20, seed=7))
    expected = reference.evaluate(datasets.Dataset.from_json(str(tmp_path / "held_out.jsonl")))
    content = content_in(place, tmp_path, "margins", per_device_eval_batch_size=20)
    content["data"]["validation"] = {"datasets": [{"dataset_name": str(tmp_path / "held_out.jsonl")}]}
    trainer = build_trainer(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    trainer.train()
    metrics = trainer.evaluate()
    for name in ("loss", *NAMES[2:]):  # of one batch: TRL's means over several weigh a short one like a full one
        assert metrics[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=1e-4, abs=1e-4), name


def exact(place, tmp_path, kind="llama", **training):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 48} if kind != "gpt2" else {}
    model = {
        "model_name": kind, "load_pretrained_weights": False, "tokenizer_name": str(place / "model"),
        "torch_dtype_str": "float64", "model_kwargs": sizes,
    }  # fmt: skip
    kwargs = {"center_rewards_coefficient": 0.05}
    return ours(place, tmp_path, "margins", kwargs, model, **{"learning_rate": 1e-3, **training})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_a_step_is_the_same_however_it_is_cut(place, tmp_path, kind):
    whole = exact(place, tmp_path, kind)
    for size in (1, 2):
        cut = exact(place, tmp_path, kind, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size)
        assert (weights(cut) - weights(whole)).abs().max() < 1e-9  # only the order of additions differs
        for one, other in zip(logs(cut), logs(whole), strict=True):
            for key in ("loss", "mean_reward", "accuracy", "margin"):
                assert one[key] == pytest.approx(other[key], rel=1e-6, abs=1e-6), key


def test_its_loss_is_that_of_the_formula(place, tmp_path):
    trainer = exact(place, tmp_path, max_steps=1, train_sampling_strategy="sequential")
    start = exact(place, tmp_path, max_steps=1, learning_rate=0.0)
    rows = [start.train_dataset[number] for number in range(4)]
    with torch.no_grad():
        each = [start.model(row[name][None]).logits[0, 0] for row in rows for name in ("chosen_ids", "rejected_ids")]
    scores = torch.stack(each).view(4, 2)
    better, worse = scores.unbind(1)
    margins = torch.cat([row["margin"] for row in rows])
    losses = -torch.log(torch.sigmoid(better - worse - margins)) + 0.05 * (better + worse) ** 2
    (entry,) = logs(trainer)
    assert entry["loss"] == pytest.approx(float(losses.mean()), rel=1e-6)  # logged in float32
    assert entry["accuracy"] == float((better > worse).double().mean())


def test_pairs_that_are_too_long_are_left_out_and_counted(place, tmp_path):
    content = content_in(place, tmp_path, kwargs={"max_length": 40})
    text = load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    assert 0 < len(text.train) < 80
    said = f"{80 - len(text.train)} of 80 rows of the training data are longer than max_length=40, and are left out"
    assert any(note.startswith(said) for note in text.notes)
    content["training"]["trainer_kwargs"]["max_length"] = 5
    with pytest.raises(DataError, match="Every row of the training data is longer than max_length=5"):
        load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_the_commands_know_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(tiny.write_yaml(tmp_path / "run.yaml", content_in(place, tmp_path)))
    assert main(["check", file]) == 0
    assert main(["check", file, "--memory"]) == 0
    assert "in all" in capsys.readouterr().out
    assert main(["data", "show", file, "-n", "1"]) == 0
    shown = capsys.readouterr().out
    assert "--- row 0, chosen, " in shown
    assert "[[<|end|>]]" in shown
    assert main(["init", "reward", "new.yaml"]) == 0
    assert "trainer_type: REWARD" in (tmp_path / "new.yaml").read_text()
    assert main(["check", str(tiny.write_yaml(tmp_path / "text.yaml", content_in(place, tmp_path, "text")))]) == 2
    assert "REWARD learns from 'chosen' and 'rejected', but the data has the columns text" in capsys.readouterr().err


@pytest.mark.parametrize("margin", ["much", True, float("inf")])
def test_a_margin_that_is_no_number_is_named(place, tmp_path, margin):
    tiny.write_rows(tmp_path / "rows.jsonl", [{**tiny.rows_of("preference", 1)[0], "margin": margin}])
    content = content_in(place, tmp_path)
    content["data"]["train"]["datasets"] = [{"dataset_name": str(tmp_path / "rows.jsonl")}]
    with pytest.raises(DataError, match="Row 0: 'margin' is .*; a number is expected"):
        load_text(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_an_evaluation_tells_how_often_it_is_right_where_it_is_so_sure(place, tmp_path):
    """By hand from the scores of every pair alone; the pairs are cut into uneven batches."""
    tiny.write_rows(tmp_path / "held_out.jsonl", tiny.rows_of("preference", 23, seed=5))
    content = content_in(place, tmp_path, per_device_eval_batch_size=5)
    content["data"]["validation"] = {"datasets": [{"dataset_name": str(tmp_path / "held_out.jsonl")}]}
    trainer = build_trainer(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)
    with torch.no_grad():
        trainer.model.score.weight.mul_(100)  # so that it is more and less sure
    metrics = trainer.evaluate()
    model, sure, right = trainer.model.eval(), [], []
    for row in trainer.eval_dataset:
        with torch.no_grad():
            better, worse = (float(model(input_ids=row[name][None]).logits) for name in ("chosen_ids", "rejected_ids"))
        sure.append(1 / (1 + math.exp(-abs(better - worse))))
        right.append(better > worse)
    assert len(sure) == 23
    wrong = 0.0
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        some = [number for number, one in enumerate(sure) if low <= one < low + 0.1 or (low == 0.9 and one == 1)]
        name = f"eval_calibration/{low}"
        assert metrics[f"{name}/share"] == pytest.approx(len(some) / 23)
        if some:
            own, true = sum(sure[n] for n in some) / len(some), sum(right[n] for n in some) / len(some)
            assert (metrics[f"{name}/sure"], metrics[f"{name}/right"]) == pytest.approx((own, true), rel=1e-4)
            wrong += len(some) / 23 * abs(true - own)
        else:
            assert f"{name}/right" not in metrics
    assert len([name for name in metrics if name.endswith("/right")]) > 2
    assert metrics["eval_calibration_error"] == pytest.approx(wrong, rel=1e-4)
    assert (tmp_path / "ours" / "calibration.png").read_bytes().startswith(b"\x89PNG")
