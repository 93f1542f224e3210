"""Evaluation by generation: rows that one forward pass proves are those that greedy decoding writes."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from tests.tasks.algebra import task
from trainwright import ConfigError
from trainwright.evaluation.generation import Generation, Row, Special, _metrics, _result
from trainwright.pipelines import IOPipeline, ModelPipeline, TrainerPipeline
from trainwright.tasks.algebra.inspect import by_length, describe
from trainwright.tasks.algebra.lexer import read_lexer
from trainwright.tasks.algebra.problems import TASKS

pytestmark = pytest.mark.slow


def built(place, monkeypatch, model=None, rows=400, texts=None, steps=150, **train):
    """A trainer that has learned a little, pairs and not what is longer, or `texts`: some rows right, some wrong."""
    monkeypatch.chdir(place)
    config = task.write(place, rows, eval_strategy="no", save_strategy="no", num_train_epochs=6, learning_rate=3e-3,
                        **train)  # fmt: skip
    easy = [f"{a} | {b} # {a} | {b}\n" for a in range(17) for b in range(17)]
    (place / "data" / "train_raw.txt").write_text("".join(easy * 2))
    hard = [f"{a} | 3 | {a} | 5 # {a} | 3 | {a} | 5\n" for a in range(9)]  # longer than anything that is learned
    (place / "data" / "test_raw.txt").write_text("".join(easy[::7] + hard))
    for name in ("train", "test") if texts else ():
        (place / "data" / f"{name}_raw.txt").write_text("".join(texts))
    io_dict = IOPipeline.from_config(config["data"]).build()
    made = ModelPipeline.from_io_dict(
        {**config["model"], "dropout": 0.0, "init_std": 0.1, "seed": 0, **(model or {})}, io_dict
    ).build()
    pipeline = TrainerPipeline.from_io_dict(config["train"], made, io_dict).build()
    pipeline.trainer.args.max_steps = steps
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

    def is_even(problem, reference, answer):
        assert answer != reference  # what is the same needs no algebra
        return int(reference.split()[0]) % 2 == 0

    metrics, rows = written(trainer, checker=is_even)
    wrong = [row for row in rows if not row["correct"] and row.get("finished", True)]
    verdicts = [row["algebraically_correct"] for row in wrong]
    assert verdicts == [is_even(row["input"], row["reference"], row["generated"]) for row in wrong]
    assert set(verdicts) == {True, False}
    assert all(row["algebraically_correct"] is row["correct"] for row in rows if row not in wrong)
    right = sum(row["correct"] for row in rows) + sum(verdicts)
    assert metrics["eval_generation_algebra_rate"] == right / len(rows)
    assert metrics["eval_generation_success_rate"] < right / len(rows) < 1
    none, _ = written(trainer, verify="none", checker=lambda problem, reference, answer: True)
    assert "eval_generation_algebra_rate" not in none  # nothing was written that it could decide about


def test_a_checker_that_fails_ends_nothing(tmp_path, monkeypatch, caplog):
    trainer = built(tmp_path, monkeypatch, steps=20)
    with caplog.at_level(logging.WARNING):
        metrics, rows = written(trainer, checker=lambda problem, reference, answer: 1 / 0)
    wrong = [row for row in rows if not row["correct"]]
    assert wrong
    assert all(row["algebraically_correct"] is False and "ZeroDivision" in row["checker_error"] for row in wrong)
    assert metrics["eval_generation_algebra_rate"] == metrics["eval_generation_success_rate"]
    assert f"The checker failed on {len(wrong)} of {len(rows)} answers, which count as wrong" in caplog.text


def test_an_answer_longer_than_may_be_generated_is_not_right(tmp_path, monkeypatch):
    trainer = built(tmp_path, monkeypatch)
    _, free = written(trainer, verify="all")
    assert any(row["correct"] for row in free)  # each of four tokens, its end among them
    verdicts = []
    for verify in ("failures", "all", "none"):
        for most in (3, 4):
            metrics, rows = written(trainer, verify=verify, max_length=most)
            assert all(len(row["generated"].split()) <= most for row in rows)
            right = [row["correct"] for row in rows]
            assert right == [row["correct"] and most == 4 for row in free]
            assert metrics["eval_generation_success_rate"] == sum(right) / len(rows)
            verdicts.append(rows if verify != "none" else None)
    assert verdicts[:2] == verdicts[2:4]
    # the final one keeps to the same limit, and CALT's own rule needs no end
    trainer.generation = Generation(max_length=3)
    assert trainer.evaluate_and_save_generation() == 0
    assert trainer.evaluate_and_save_generation(4) == sum(row["correct"] for row in free) / len(free)
    assert trainer.generation.max_length == 3
    assert trainer.evaluate()["eval_generation_calt_success_rate"] > 0


@pytest.mark.parametrize(("kind", "positions"), [("generic", 6), ("bart", 6), ("gpt2", 11)])
def test_an_answer_that_fills_the_models_positions_can_be_written(tmp_path, monkeypatch, kind, positions):
    # an encoder-decoder has six positions for an answer of six; a decoder alone eleven, after a prompt of nine too
    texts = [f"{a} # {a} | {a} | {a}\n" for a in range(17)]
    texts += [f"{a} | {a} | {a} | {a} # {a}\n" for a in range(17)] if kind == "gpt2" else []
    trainer = built(
        tmp_path, monkeypatch, {"model_type": kind, "max_sequence_length": positions}, texts=texts, steps=200
    )
    _, forced = written(trainer, verify="failures")
    _, generated = written(trainer, verify="all")
    assert sum(row["correct"] for row in forced if row["length"] == 6) > 8
    assert generated == forced


def result(written, reference, problem="1", checker=None, name="gf17_sum"):
    """How an answer of these tokens is graded."""
    lexer = read_lexer(TASKS[name].lexer, "")
    tokenizer = lexer.tokenizer()
    given, target, ids = (
        [lexer.vocabulary.index(one) for one in text.split()] for text in (problem, reference, written)
    )
    return _result(tokenizer, Special.of(tokenizer), Row(0, given, target, [], ids), checker)


ANSWERS = {
    "1 | 3 </s>": (True, None),
    "<s> 1 | 3 </s> [PAD] [PAD]": (True, None),
    "1 | 3 [PAD] </s>": (True, None),
    "1 | 3": (False, True),  # no end
    "1 [CLS] | 3 </s>": (False, True),
    "1 <unk> | 3 </s>": (False, True),
    "[SEP] 1 | 3 </s>": (False, True),
    "1 | <s> 3 </s>": (False, True),
    "1 [PAD] | 3 </s>": (False, True),
    "1 | 4 </s>": (False, None),
    "1 | 3 </s> 4": (True, False),  # what stands after the end is no part of an answer
}


@pytest.mark.parametrize("written", ANSWERS)
def test_special_tokens_within_an_answer_are_an_error(written):
    correct, calt = ANSWERS[written]
    asked = []
    found = result(written, "1 | 3 </s>", checker=lambda *texts: asked.append(texts))
    assert found["correct"] is correct
    assert found.get("calt_correct") is calt
    assert found["algebraically_correct"] is correct
    assert asked == ([("1", "1 | 3", "1 | 4")] if written.startswith("1 | 4") else [])


def test_unknown_tokens_are_never_the_same():
    assert result("1 | <unk> </s>", "1 | <unk> </s>")["correct"] is False
    assert result("1 [SEP] 3 </s>", "1 [SEP] 3 </s>")["correct"] is True  # what the reference holds itself


def test_numbers_come_to_the_checker_in_one_piece():
    pairs = {"polynomial_gcd": ("x ^ 2 - 1 2 * x", "- 1 2 * x + x ^ 2"),
             "groebner": ("x - 1 2 * y | y ^ 2 - 1 0", "y ^ 2 - 1 0 | x - 1 2 * y")}  # fmt: skip
    for name, (reference, answer) in pairs.items():
        found = result(f"{answer} </s>", f"{reference} </s>", checker=TASKS[name].check, name=name)
        assert (found["correct"], found["algebraically_correct"]) == (False, True)


def test_every_length_is_in_a_group():
    rows = [{"row": n, "length": n, "correct": n < 200, "input": "", "reference": "", "generated": ""}
            for n in (1, 5, 10, 130, 300, 4000)]  # fmt: skip
    assert sum(count for *_, count in by_length(rows)) == len(rows)
    assert by_length(rows)[-1] == ("above 256", 0, 2)
    found = _metrics(rows, "eval", 7)
    assert found["eval_generation_success_rate_above_128_tokens"] == 1 / 3
    assert len([name for name in found if "_tokens" in name]) == 4
    assert "written    ... (no end within generation_max_length)" in describe([{**rows[-1], "finished": False}])


def test_answers_that_are_right_by_algebra_alone_are_told_of():
    rows = [{"row": n, "length": 4, "correct": not n, "input": "", "reference": "1 | 2", "generated": "2 | 1"}
            for n in range(3)]  # fmt: skip
    text = describe([{**one, "algebraically_correct": one["row"] < 2} for one in rows])
    assert text.startswith("1 of 3 answers are right (33.3%)\n2 are right by algebra, some written otherwise\n")
    assert "by algebra" not in describe(rows)
    assert "       1         2       2\n" in text  # expected, written, times in the two that are wrong


def test_a_length_at_the_border_of_a_group_belongs_to_the_lower_one():
    lengths = {4: 1, 5: 0, 8: 0, 9: 1, 16: 1, 17: 0, 128: 1, 129: 0}  # and whether their rows are right
    rows = [{"length": n, "correct": bool(right)} for n, right in lengths.items()]
    found = {name.removeprefix("eval_generation_success_rate_").removesuffix("_tokens"): share
             for name, share in _metrics(rows, "eval", 7).items() if "_tokens" in name}  # fmt: skip
    assert found == {"to_4": 1, "to_8": 0, "to_16": 1, "to_32": 0, "to_128": 1, "above_128": 0}
    assert by_length(rows) == [("1-4", 1, 1), ("5-8", 0, 2), ("9-16", 2, 2), ("17-32", 0, 1), ("65-128", 1, 1),
                               ("129-256", 0, 1)]  # fmt: skip


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
