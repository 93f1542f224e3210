"""`model_type: encoder_classifier`: problems whose answer is one token, in CALT's files."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional

from tests.tasks.algebra import task
from trainwright import DataError
from trainwright.pipelines import IOPipeline, ModelPipeline, Trainer, TrainerPipeline, load_from_checkpoint
from trainwright.tasks.algebra.models.classifier import ProblemClassifier, ProblemClassifierConfig

LEXER = {"vocab": {"range": {"bits": ["", 0, 1]}, "misc": ["+1", "-1"], "flags": {"include_base_vocab": True}},
         "number_policy": {"attach_sign": True, "digit_group": 0, "allow_float": False}, "strict": True}  # fmt: skip
SIZES = {"model_type": "encoder_classifier", "num_encoder_layers": 1, "num_encoder_heads": 2, "d_model": 32,
         "encoder_ffn_dim": 64, "max_sequence_length": 16, "dropout": 0.0, "seed": 0}  # fmt: skip


def majorities(folder, answer=lambda sign: f"{sign:+d}"):
    """Of 1, 3 or 5 bits: +1 where most of them are 1."""
    config = task.write(folder, learning_rate=0.01, num_train_epochs=12, eval_steps=60, save_steps=60)
    rng = random.Random(0)
    for name, count in (("train", 160), ("test", 20)):
        rows = [[rng.randrange(2) for _ in range(rng.choice((1, 3, 5)))] for _ in range(count)]
        lines = [f"{' | '.join(map(str, bits))} # {answer(1 if 2 * sum(bits) > len(bits) else -1)}\n" for bits in rows]
        (folder / "data" / f"{name}_raw.txt").write_text("".join(lines))
    return {**config, "data": {**config["data"], "lexer_config": LEXER}, "model": SIZES}


def built(config):
    io_dict = IOPipeline.from_config(config["data"]).build()
    model = ModelPipeline.from_io_dict(config["model"], io_dict).build()
    return io_dict, TrainerPipeline.from_io_dict(config["train"], model, io_dict).build()


@pytest.mark.slow
def test_majorities_are_learned_generated_and_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    io_dict, pipeline = built(majorities(tmp_path))
    pipeline.train()
    pipeline.save_model()
    found = pipeline.evaluate()
    assert found["eval_success_rate"] == found["eval_token_accuracy"] == 1.0
    assert pipeline.evaluate_and_save_generation() == 1.0
    _, again, _ = load_from_checkpoint("results/my_experiment")
    alone = Trainer(model=again, args=pipeline.trainer.args, data_collator=io_dict["data_collator"],
                    eval_dataset=io_dict["test_dataset"], processing_class=io_dict["tokenizer"])  # fmt: skip
    found = alone.evaluate()
    assert found["eval_success_rate"] == found["eval_generation_success_rate"] == 1.0


def test_the_answer_is_chosen_by_the_mean_of_what_is_read_and_padding_is_not():
    torch.manual_seed(0)
    config = ProblemClassifierConfig(vocab_size=12, d_model=16, encoder_layers=1, encoder_attention_heads=2,
                                     encoder_ffn_dim=16, dropout=0.0)  # fmt: skip
    model = ProblemClassifier(config).eval()
    ids, labels = torch.randint(3, 12, (3, 6)), torch.tensor([[4], [5], [-100]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1] * 6])
    made = model(input_ids=ids, attention_mask=mask, labels=labels)
    for row in range(3):
        length = int(mask[row].sum())
        states = model.encoder(ids[row : row + 1, :length])[0]
        alone = states.mean(1) @ model.head.weight.T + model.head.bias
        assert torch.allclose(made.logits[row], alone, atol=1e-5)  # float32: the order of additions
    wanted = functional.cross_entropy(made.logits[:2, 0], labels[:2, 0])
    assert torch.allclose(made.loss, wanted)


def test_answers_of_several_tokens_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, pipeline = built(majorities(tmp_path, lambda sign: f"{sign:+d} | {sign:+d}"))
    with pytest.raises(DataError, match="answers with one token, and an answer here has 3"):
        pipeline.train()
