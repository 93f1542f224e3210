"""Encoder-decoders whose tokenizers write in another way than they read: tokens and losses are those of transformers'
Seq2SeqTrainer on `text_target=`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig, PreTrainedTokenizer

from tests import tiny_language as tiny
from trainwright import ConfigError
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked

MARKS = ("<s>", "<pad>", "</s>", "<unk>")
PIECES = [*[f"▁{word}" for word in tiny.WORDS], "▁"]
PREFIX = "the small: "


class TwoVocabularies(PreTrainedTokenizer):
    """As Marian's: a word that is read and the same word written have different numbers."""

    vocab_files_names = {"words": "words.json"}  # noqa: RUF012 - as transformers has it

    def __init__(self, words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **given):
        self.words = json.loads(Path(words).read_text())
        count = len(MARKS)
        self.target_encoder = {
            word: number for number, word in enumerate([*self.words[:count], *reversed(self.words[count:])])
        }
        self.encoder = {word: number for number, word in enumerate(self.words)}
        self.current = self.encoder
        super().__init__(eos_token=eos_token, pad_token=pad_token, unk_token=unk_token, **given)

    vocab_size = property(lambda self: len(self.words))

    def get_vocab(self):
        return dict(self.encoder)

    def _tokenize(self, text):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.current.get(token, self.current["<unk>"])

    def _convert_id_to_token(self, index):
        return {number: word for word, number in self.target_encoder.items()}[index]

    def _switch_to_target_mode(self):
        self.current = self.target_encoder

    def _switch_to_input_mode(self):
        self.current = self.encoder

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [*token_ids_0, self.encoder["</s>"]]

    def save_vocabulary(self, save_directory, filename_prefix=None):
        path = Path(save_directory) / "words.json"
        path.write_text(json.dumps(self.words))
        return (str(path),)


class TwoConfig(PretrainedConfig):
    model_type = "two-vocabularies"


def t5(folder):
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    vocab = [(piece, -2.0) for piece in ("<pad>", "</s>", "<unk>", *PIECES)]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)
    return tokenizer, T5ForConditionalGeneration(config)


def sided(**more):
    sides = {f"{side}_{name}": 1 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    widths = {
        "d_model": 16,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "dropout": 0.0,
        "max_position_embeddings": 64,
    }
    return {**sides, **widths, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": None, **more}


def mbart(folder):
    from transformers import MBartConfig, MBartForConditionalGeneration, MBartTokenizer
    from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as CODES

    tokenizer = MBartTokenizer(vocab=[(piece, -2.0) for piece in (*MARKS, *PIECES, *CODES)])
    model = MBartForConditionalGeneration(MBartConfig(vocab_size=len(tokenizer), **sided()))
    return tokenizer, model


def nllb(folder):
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    tokenizer = NllbTokenizer(
        vocab={piece: number for number, piece in enumerate((*MARKS, *sorted(set("".join(PIECES)))))}
    )
    model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=len(tokenizer), decoder_start_token_id=2, **sided()))
    return tokenizer, model


def marian(folder):
    from transformers import AutoTokenizer, MarianConfig, MarianMTModel

    AutoTokenizer.register(TwoConfig, slow_tokenizer_class=TwoVocabularies, exist_ok=True)
    (folder / "first.json").write_text(json.dumps([*MARKS, *tiny.WORDS]))
    tokenizer = TwoVocabularies(folder / "first.json")
    config = MarianConfig(vocab_size=len(tokenizer), decoder_start_token_id=1, **sided())
    return tokenizer, MarianMTModel(config)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("targets")
    for number, make in enumerate((t5, mbart, nllb, marian)):
        folder = place / make.__name__
        folder.mkdir()
        torch.manual_seed(number)
        tokenizer, model = make(folder)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    tiny.write_rows(place / "completion.jsonl", tiny.rows_of("completion", 24))
    return place


KINDS = {"t5": {}, "mbart": {"src_lang": "de_DE", "tgt_lang": "ro_RO"},
         "nllb": {"src_lang": "deu_Latn", "tgt_lang": "fra_Latn"}, "marian": {}}  # fmt: skip


def trainer_of(place, out, kind, languages=None, **kwargs):
    content = tiny.settings(place, "completion", trainer_type="SEQ2SEQ", learning_rate=0.01, max_steps=5)
    content["model"] = {
        "model_name": str(place / kind),
        "tokenizer_kwargs": KINDS[kind] if languages is None else languages,
    }
    content["training"] |= {"output_dir": str(out), "trainer_kwargs": kwargs}
    return built(load_checked(tiny.write_yaml(out / "run.yaml", content)).config).trainer


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_transformers(kind, place, tmp_path):
    """Float32, one micro-batch a step: both do the same sums, so 1e-5 is for the order of one of them."""
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    prefix = PREFIX if kind == "t5" else None
    ours = trainer_of(place, tmp_path, kind, source_prefix=prefix, max_target_length=None)
    ours.train()
    tokenizer = AutoTokenizer.from_pretrained(place / kind, **KINDS[kind])
    rows = tiny.rows_of("completion", 24)
    made = tokenizer([(prefix or "") + row["prompt"] for row in rows], text_target=[row["completion"] for row in rows])
    theirs = [
        {"input_ids": ids, "labels": labels} for ids, labels in zip(made["input_ids"], made["labels"], strict=True)
    ]
    model = AutoModelForSeq2SeqLM.from_pretrained(place / kind)
    args = Seq2SeqTrainingArguments(
        str(tmp_path / "theirs"), max_steps=5, per_device_train_batch_size=4, learning_rate=0.01, logging_steps=1,
        report_to="none", use_cpu=True, save_strategy="no",
    )  # fmt: skip
    upstream = Seq2SeqTrainer(
        model, args, train_dataset=theirs, data_collator=DataCollatorForSeq2Seq(tokenizer, model=model)
    )
    upstream.train()
    losses = [[e["loss"] for e in one.state.log_history if "loss" in e] for one in (ours, upstream)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert len(set(losses[0])) == 5
    assert [row["target_ids"].tolist() for row in ours.train_dataset] == made["labels"]


def test_what_is_generated_begins_with_the_language(place, tmp_path, caplog):
    with caplog.at_level("INFO", logger="trainwright"):
        front, behind = (trainer_of(place, tmp_path, kind, metrics=["exact_match"]) for kind in ("nllb", "mbart"))
    assert "What is generated begins with 'fra_Latn': forced_bos_token_id" in caplog.text
    front.evaluate(front.train_dataset)
    for one, language, place_of in ((front, "fra_Latn", 1), (behind, "ro_RO", 0)):
        written = one.predict([one.train_dataset[0]]).predictions
        assert one.processing_class.convert_ids_to_tokens(int(written[0, place_of])) == language


def test_a_language_that_is_missing_or_unknown_is_told(place, tmp_path):
    for kind in ("mbart", "nllb"):
        with pytest.raises(
            ConfigError, match="is not told which. Write model.tokenizer_kwargs: {src_lang: ..., tgt_lang"
        ):
            trainer_of(place, tmp_path, kind, {})
    with pytest.raises(ConfigError, match="tgt_lang 'fr_Latn' is no language that NllbTokenizer knows"):
        trainer_of(place, tmp_path, "nllb", {"src_lang": "deu_Latn", "tgt_lang": "fr_Latn"})
