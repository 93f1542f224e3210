"""Encoder-decoders by a file: the loss is the model's own, and what is generated is measured."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_language as tiny
from trainwright import ConfigError, DataError
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from transformers import T5Config, T5ForConditionalGeneration

    place = tiny.make_place(tmp_path_factory.mktemp("seq2seq"))
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    marks = {"decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 0}
    T5ForConditionalGeneration(T5Config(**sizes, **marks, dropout_rate=0.0)).save_pretrained(place / "t5")
    tiny.new_tokenizer().save_pretrained(place / "t5")
    tiny.write_rows(place / "one.jsonl", [{"prompt": "the cat", "completion": "sat on the mat"}] * 8)
    return place


def holder_of(place, tmp_path, data="completion", kwargs=None, **training):
    content = tiny.settings(place, data, trainer_type="SEQ2SEQ", **training)
    content["model"] = {"model_name": str(place / "t5")}
    content["data"]["validation"] = content["data"]["train"]
    content["training"] |= {"output_dir": str(tmp_path / "out"), "trainer_kwargs": kwargs or {}}
    return built(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def test_losses_are_those_of_transformers_on_its_own_tokens(place, tmp_path):
    from transformers import AutoModelForSeq2SeqLM

    trainer = holder_of(place, tmp_path, max_steps=1, learning_rate=0.0, gradient_accumulation_steps=2).trainer
    trainer.train()
    (entry,) = [one for one in trainer.state.log_history if "loss" in one]
    rows = tiny.rows_of("completion")
    order = torch.randperm(80, generator=torch.Generator().manual_seed(42))[:8]
    tokenizer = tiny.new_tokenizer()
    source = tokenizer([rows[number]["prompt"] for number in order], return_tensors="pt", padding=True)
    target = tokenizer([rows[number]["completion"] + "<|end|>" for number in order], return_tensors="pt", padding=True)
    labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, -100)
    inputs = {name: source[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        wanted = AutoModelForSeq2SeqLM.from_pretrained(place / "t5")(**inputs, labels=labels).loss
    assert entry["loss"] == pytest.approx(float(wanted), abs=1e-5)  # float32, two micro-batches


def test_what_is_learned_by_heart_is_generated_and_counted(place, tmp_path):
    kwargs = {"metrics": ["exact_match", "f1"], "max_target_length": 12}
    holder = holder_of(
        place, tmp_path, "one", kwargs, max_steps=60, learning_rate=0.01, eval_strategy="steps", eval_steps=60,
        eval_on_start=True, save_final_model=True,
    )  # fmt: skip
    holder.train()
    first, *_, last = [one for one in holder.trainer.state.log_history if "eval_loss" in one]
    assert (first["eval_exact_match"], last["eval_exact_match"], last["eval_f1"]) == (0.0, 1.0, 1.0)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_completions_that_are_cut_are_counted(place, tmp_path, caplog):
    with caplog.at_level("INFO", logger="trainwright"):
        trainer = holder_of(place, tmp_path, "one", {"max_target_length": 3}).trainer
    assert "end token" not in caplog.text
    assert "8 of 8 completions are longer than max_target_length=3; their ends are cut off" in caplog.text
    assert trainer.data_collator([trainer.train_dataset[0]])["labels"].shape == (1, 3)


def test_mistakes(place, tmp_path):
    with pytest.raises(ConfigError, match="there is no metric 'accuracy'"):
        holder_of(place, tmp_path, kwargs={"metrics": ["accuracy"]})
    with pytest.raises(ConfigError, match="SEQ2SEQ learns from 'prompt' and 'completion', but the data holds text"):
        holder_of(place, tmp_path, "text")


def test_rows_of_nothing_are_left_out_and_what_fails_is_told_by_its_reason(place, tmp_path, caplog):
    """Labels of an encoder-decoder are tokens: no number of classes is too small for them."""
    from transformers import BartConfig, BartForConditionalGeneration

    tiny.write_rows(place / "empty.jsonl", [{"prompt": text, "completion": "sat"} for text in ("", "the cat")] * 2)
    with caplog.at_level("INFO", logger="trainwright"):
        trainer = holder_of(place, tmp_path, "empty").trainer
    assert len(trainer.train_dataset) == 2
    assert "2 of 4 rows of the training data have nothing to learn" in caplog.text
    sides = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = BartConfig(vocab_size=320, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sides,
                        max_position_embeddings=32, pad_token_id=1, decoder_start_token_id=0)  # fmt: skip
    from trainwright import Trainer, TrainingArguments
    from trainwright.errors import DataError

    rows = [{"input_ids": torch.tensor([5, 6]), "labels": torch.full((60,), 200)}] * 4
    args = TrainingArguments(str(tmp_path / "long"), max_steps=1, use_cpu=True, report_to=[], save_strategy="no")
    with pytest.raises(DataError, match="the sequences have 60 tokens, but the model has 32 positions"):
        Trainer(BartForConditionalGeneration(config), args, train_dataset=rows).train()


@pytest.mark.parametrize("stream", [False, True])
def test_texts_within_a_column_are_mapped_as_sets_of_translations_have_them(stream, tmp_path):
    from trainwright.config.schema import DatasetParams
    from trainwright.data.mixture import read_one, shaped

    rows = [{"id": 1, "translation": {"en": f"the cat {number}", "de": "die Katze"}} for number in range(3)]
    names = {"translation.en": "prompt", "translation.de": "completion"}
    one = DatasetParams(dataset_name=str(tiny.write_rows(tmp_path / "rows.jsonl", rows)), column_map=names)
    made = list(shaped(read_one(one, stream), one, "text"))
    assert [(row["prompt"], row["completion"]) for row in made] == [(f"the cat {n}", "die Katze") for n in range(3)]
    one.column_map["translation.fr"] = one.column_map.pop("translation.de")
    with pytest.raises(DataError, match="Row 0 has no 'translation.fr' in column_map"):
        list(shaped(read_one(one, stream), one, "text"))


def test_a_column_of_translations_is_told_how_to_name(place, tmp_path):
    tiny.write_rows(place / "translated.jsonl", [{"translation": {"en": "the cat", "de": "die Katze"}}])
    with pytest.raises(DataError, match="column_map: {translation.en: prompt, translation.de: completion}"):
        holder_of(place, tmp_path, "translated")
