"""Evaluation by generation: rows that one forward pass proves are those that greedy decoding writes."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from tests.algebra import task
from trainwright import ConfigError
from trainwright.engine.generation import Generation
from trainwright.pipelines import IOPipeline, ModelPipeline, TrainerPipeline

pytestmark = pytest.mark.slow


def built(place, monkeypatch, model=None, rows=400, **train):
    """A trainer of running sums that has learned a little: some rows right, some wrong."""
    monkeypatch.chdir(place)
    config = task.write(place, rows, eval_strategy="no", save_strategy="no", num_train_epochs=6, learning_rate=3e-3,
                        **train)  # fmt: skip
    easy = [f"{a} | {b} # {a} | {b}\n" for a in range(17) for b in range(17)]
    (place / "data" / "train_raw.txt").write_text("".join(easy * 2))
    hard = [f"{a} | 3 | {a} | 5 # {a} | 3 | {a} | 5\n" for a in range(9)]  # longer than anything that is learned
    (place / "data" / "test_raw.txt").write_text("".join(easy[::7] + hard))
    io_dict = IOPipeline.from_config(config["data"]).build()
    made = ModelPipeline.from_io_dict(
        {**config["model"], "dropout": 0.0, "init_std": 0.1, "seed": 0, **(model or {})}, io_dict
    ).build()
    pipeline = TrainerPipeline.from_io_dict(config["train"], made, io_dict).build()
    pipeline.trainer.args.max_steps = 150
    pipeline.trainer.train()
    return pipeline.trainer


def written(trainer, **settings):
    trainer.generation = Generation(**settings)
    metrics = trainer.evaluate()
    path = trainer.run_folder / "eval_results" / f"step_{trainer.state.global_step}.json"
    return metrics, json.loads(path.read_text())


@pytest.mark.parametrize(
    "model",
    [{}, {"model_type": "bart"}, {"model_type": "llama"}, {"model_type": "gpt2"}],
    ids=["generic", "bart", "llama", "gpt2"],
)
def test_proven_rows_need_no_generation(tmp_path, monkeypatch, model):
    trainer = built(tmp_path, monkeypatch, model)
    everything, rows = written(trainer, verify="all")
    share = everything["eval_generation_success_rate"]
    assert 0 < share < 1, share
    assert everything["eval_success_rate"] == share
    asked, generate = [], trainer.model.generate
    monkeypatch.setattr(trainer.model, "generate", lambda ids, **more: asked.append(len(ids)) or generate(ids, **more))
    failures, same = written(trainer, verify="failures")
    assert same == rows
    assert sum(asked) == sum(not row["correct"] for row in rows)
    assert failures["eval_generation_success_rate"] == share
    asked.clear()
    none, forced = written(trainer, verify="none")
    assert not asked
    assert none["eval_generation_success_rate"] == share
    assert [row["correct"] for row in forced] == [row["correct"] for row in rows]


def test_what_is_written_is_what_transformers_generates(tmp_path, monkeypatch):
    trainer = built(tmp_path, monkeypatch)
    _, rows = written(trainer, verify="failures")
    tokenizer, dataset = trainer.processing_class, trainer.eval_dataset
    for row in rows:
        ids = dataset[row["row"]]["input_ids"][None]
        made = trainer.model.generate(ids, attention_mask=torch.ones_like(ids), max_length=64, do_sample=False)
        assert tokenizer.decode(made[0], skip_special_tokens=True).strip() == row["generated"]
    _, beams = written(trainer, num_beams=3)
    assert len(beams) == len(rows)


def test_a_checker_decides_by_algebra(tmp_path, monkeypatch):
    trainer = built(tmp_path, monkeypatch)
    metrics, rows = written(trainer, checker=lambda problem, reference, answer: answer.startswith(reference[0]))
    assert metrics["eval_generation_algebra_rate"] >= metrics["eval_generation_success_rate"]
    assert all(row["algebraically_correct"] >= row["correct"] for row in rows)


def test_a_failure_raises_at_first_and_is_logged_later(tmp_path, monkeypatch, caplog):
    trainer = built(tmp_path, monkeypatch)

    def broken(*given, **named):
        raise RuntimeError("no generation today")

    working = trainer.model.generate
    trainer.model.generate = broken
    with pytest.raises(RuntimeError, match="no generation today"):
        trainer.evaluate()
    trainer.model.generate = working
    trainer.evaluate()
    trainer.model.generate = broken
    with caplog.at_level(logging.ERROR):
        assert trainer.evaluate()["eval_generation_error"] == 1.0
        assert trainer.evaluate()["eval_generation_error"] == 1.0
    assert caplog.text.count("Evaluation by generation failed") == 1
    assert "no generation today" in caplog.text
    with pytest.raises(ConfigError, match="verify_generation 'some' is not known; known: all, failures, none"):
        Generation(verify="some")
