"""Classification of texts and words: losses against transformers' and torch's own, metrics against formulas by hand."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import tiny_language as tiny
from trainwright import ConfigError, DataError
from trainwright.config.composition import built
from trainwright.config.reading.read import load_checked
from trainwright.tasks.language.scores import of_classes, word_f1

CLOSE = 1e-6  # float32, sums in another order
NAMES = ["bad", "good", "so-so"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from transformers import BertConfig, BertModel

    place = tiny.make_place(tmp_path_factory.mktemp("classes"))
    torch.manual_seed(0)
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=64, pad_token_id=1)).save_pretrained(place / "bert")
    tiny.new_tokenizer().save_pretrained(place / "bert")
    rng = random.Random(3)
    texts = [{"text": tiny.sentence(rng, 3, 20), "label": NAMES[number % 3]} for number in range(24)]
    words = [
        {"tokens": (some := tiny.sentence(rng, 2, 9).split()), "ner_tags": [len(one) % 3 for one in some]}
        for _ in range(24)
    ]
    tiny.write_rows(place / "texts.jsonl", texts)
    tiny.write_rows(place / "words.jsonl", words)
    return place


def trainer_of(place, tmp_path, data, model="bert", kwargs=None, beside=None, **training):
    tmp_path.mkdir(exist_ok=True)
    content = tiny.settings(place, data, trainer_type="CLASSIFY", **{"max_steps": 3, **training})
    content["model"] = {"model_name": str(place / model), "model_kwargs": {"disable_dropout": True}}
    content["training"] |= {"output_dir": str(tmp_path / "out"), "trainer_kwargs": kwargs or {}}
    content |= beside or {}
    return built(load_checked(tiny.write_yaml(tmp_path / "run.yaml", content)).config)


def batches_of(trainer):
    return [
        trainer.data_collator([trainer.train_dataset[number] for number in rows]) for rows in ([0, 1, 2, 3], [4, 5])
    ]


@pytest.mark.parametrize("model", ["bert", "model"])
@pytest.mark.parametrize("data", ["texts", "words"])
def test_the_loss_is_that_of_transformers(place, tmp_path, data, model):
    trainer = trainer_of(place, tmp_path, data, model).trainer
    trainer.model.eval()
    for batch in batches_of(trainer):
        with torch.no_grad():
            mine = trainer.objective.loss(trainer.model, batch, None)
            theirs = trainer.model(**batch)
        assert type(trainer.model).__name__.endswith(
            "ForSequenceClassification" if data == "texts" else "Classification"
        )
        assert float(mine.value) == pytest.approx(float(theirs.loss), abs=CLOSE)


@pytest.mark.parametrize("data", ["texts", "words"])
def test_weights_of_classes_are_torchs_over_the_whole_step(place, tmp_path, data):
    weights = [0.5, 1.0, 3.0]
    trainer = trainer_of(
        place, tmp_path, data, "model", {"class_weights": weights}, max_steps=1, per_device_train_batch_size=3,
        gradient_accumulation_steps=4, learning_rate=0.0,
    ).trainer  # fmt: skip
    trainer.train()
    (entry,) = [one for one in trainer.state.log_history if "loss" in one]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(42))[:12]
    batch = trainer.data_collator([trainer.train_dataset[int(number)] for number in order])
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = torch.nn.CrossEntropyLoss(torch.tensor(weights))(logits.reshape(-1, 3), batch["labels"].reshape(-1))
    assert entry["loss"] == pytest.approx(float(wanted), abs=1e-5)  # float32, four micro-batches


def test_words_tokens_are_those_of_transformers_examples(place, tmp_path):
    trainer = trainer_of(place, tmp_path, "words").trainer
    row = json.loads((place / "words.jsonl").read_text().splitlines()[0])
    made = tiny.new_tokenizer()(row["tokens"], is_split_into_words=True)
    first = [place if place not in made.word_ids()[:number] else None for number, place in enumerate(made.word_ids())]
    wanted = [-100 if place is None else row["ner_tags"][place] for place in first]
    found = trainer.train_dataset[0]
    assert (found["input_ids"].tolist(), found["classes"].tolist()) == (made["input_ids"], wanted)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("data", ["texts", "words"])
def test_the_head_and_its_names_are_saved_with_the_model(place, tmp_path, data, adapters):
    import transformers

    evaluated = {"data": {name: {"datasets": [{"dataset_name": str(place / f"{data}.jsonl")}]}
                          for name in ("train", "validation")}}  # fmt: skip
    metrics = ["accuracy", "f1", "exact_match"]
    holder = trainer_of(
        place, tmp_path, data, "bert", {"metrics": metrics}, evaluated, use_peft=adapters, save_final_model=True,
        eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    holder.train()
    assert {f"eval_{name}" for name in metrics} <= set(holder.get_last_eval_metrics())
    kind = getattr(transformers, f"AutoModelFor{'Sequence' if data == 'texts' else 'Token'}Classification")
    again = kind.from_pretrained(tmp_path / "out") if not adapters else None
    trainer = holder.trainer
    if adapters:
        from peft import PeftModel

        names = {"id2label": dict(enumerate(NAMES if data == "texts" else "012"))}
        again = PeftModel.from_pretrained(kind.from_pretrained(place / "bert", **names), tmp_path / "out")
    else:
        assert list(again.config.id2label.values()) == (NAMES if data == "texts" else ["0", "1", "2"])
    batch = {name: value for name, value in batches_of(trainer)[0].items() if name != "labels"}
    trainer.model.eval()
    again.eval()
    with torch.no_grad():
        assert torch.equal(trainer.model(**batch).logits, again(**batch).logits)


def test_rows_that_are_cut_end_with_the_tokenizers_mark_again():
    from trainwright.data.text.class_rows import ClassBatch

    row = {"input_ids": torch.tensor([5, 6, 7, 8]), "classes": torch.tensor([0, 1, 2, 1])}
    made = ClassBatch(0, by_word=True, limit=4, end=(3,))([row])
    assert (made["input_ids"].tolist(), made["labels"].tolist()) == ([[5, 6, 7, 3]], [[0, 1, 2, -100]])


def test_metrics_are_those_of_the_formulas():
    logits = np.eye(3)[[0, 1, 1, 2, 2, 2]]
    labels = np.array([0, 1, 2, 2, 2, 0])
    found = of_classes(["accuracy", "f1"])(SimpleNamespace(predictions=logits, label_ids=labels))
    # class 0: TP 1, FN 1; class 1: TP 1, FP 1; class 2: TP 2, FP 1, FN 1
    assert found == pytest.approx({"accuracy": 4 / 6, "f1": (2 / 3 + 2 / 3 + 4 / 6) / 3})
    words = SimpleNamespace(
        predictions=np.eye(2)[[[0, 1, 0], [1, 1, 0]]], label_ids=np.array([[0, 1, -100], [1, 0, 0]])
    )
    assert of_classes(["exact_match", "accuracy"])(words) == {"exact_match": 0.5, "accuracy": 0.8}
    assert word_f1("a b b", "b b c d") == pytest.approx(2 * 2 / 7)
    assert word_f1("", "") == 1.0


MISTAKES = {
    "a metric": ("texts", {"metrics": ["acuracy"]}, ConfigError, "there is no metric 'acuracy'"),
    "weights": (
        "texts",
        {"class_weights": [1.0, 2.0]},
        ConfigError,
        "class_weights has 2 numbers, but there are 3 classes",
    ),
    "no weight": ("texts", {"class_weights": [0.0, 0.0, 0.0]}, ConfigError, "are not above 0"),
    "a class": (
        "texts",
        {"class_names": ["bad", "godo", "so-so"]},
        DataError,
        "there is no class 'good' among bad, godo",
    ),
    "twice": ("texts", {"class_names": ["bad", "bad"]}, ConfigError, "a class is named twice"),
    "columns": ("chat", {}, DataError, "CLASSIFY learns from 'text' and 'label', or 'tokens' and 'tags'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(place, tmp_path, name):
    data, kwargs, kind, said = MISTAKES[name]
    with pytest.raises(kind) as caught:
        trainer_of(place, tmp_path, data, "bert", kwargs)
    assert said in str(caught.value)


def test_a_tokenizer_that_would_lose_the_spaces_of_words_is_told(place, tmp_path, monkeypatch):
    from trainwright.data.sources.formats import Format
    from trainwright.data.text.class_rows import WordRules

    def refusing(*words, **settings):
        raise AssertionError("You need to instantiate RobertaTokenizerFast with add_prefix_space=True")

    refusing.is_fast = True
    rules = WordRules(refusing, Format.TOKENS, names=("a", "b"))
    with pytest.raises(DataError, match="tokenizer_kwargs: {add_prefix_space: true}"):
        next(rules.encode({"tokens": ["x"], "tags": [0]}))


def test_names_of_classes_that_datasets_knows_are_taken(place, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features).save_to_disk(tmp_path / "saved")
    beside = {"data": {"train": {"datasets": [{"dataset_name": str(tmp_path / "saved")}]}}}
    assert trainer_of(place, tmp_path, "texts", beside=beside).trainer.model.config.id2label == {0: "no", 1: "yes"}


def test_a_classifier_goes_on_with_its_classes_in_their_order(place, tmp_path):
    """Its head is of `so-so, good, bad`, which is not the order of the alphabet."""
    names = ["so-so", "good", "bad"]
    once = {"class_names": names}
    holder = trainer_of(place, tmp_path, "texts", kwargs=once, save_final_model=True, learning_rate=0.01)
    holder.train()
    tiny.new_tokenizer().save_pretrained(tmp_path / "out")
    again = trainer_of(place, tmp_path / "again", "texts", tmp_path / "out").trainer
    assert list(again.model.config.id2label.values()) == names
    before, after = holder.trainer, again
    batch = {name: value for name, value in batches_of(before)[0].items() if name != "labels"}
    before.model.eval()
    after.model.eval()
    with torch.no_grad():
        assert torch.equal(before.model(**batch).logits, after.model(**batch).logits)
    assert torch.equal(batches_of(before)[0]["labels"], batches_of(after)[0]["labels"])


def test_a_classifier_of_other_classes_gets_a_new_head(place, tmp_path):
    trainer_of(place, tmp_path, "texts", save_final_model=True).train()
    tiny.new_tokenizer().save_pretrained(tmp_path / "out")
    rows = [{"text": "a cat", "label": name} for name in "abcd"]
    tiny.write_rows(tmp_path / "four.jsonl", rows)
    beside = {"data": {"train": {"datasets": [{"dataset_name": str(tmp_path / "four.jsonl")}]}}}
    made = trainer_of(place, tmp_path / "again", "texts", tmp_path / "out", beside=beside).trainer.model
    assert made.classifier.weight.shape == (4, 32)
    assert made.config.num_labels == 4


def saved(path, names, labels):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_list([{"text": name, "label": name} for name in labels], features=features).save_to_disk(path)
    return {"dataset_name": str(path)}


@pytest.mark.parametrize("given", [None, ["yes", "no"]])
def test_numbers_are_the_names_that_their_own_dataset_has(place, tmp_path, given):
    """`no, yes` in one dataset and `yes, no` in the other: 0 is another class in each."""
    one = saved(tmp_path / "one", ["no", "yes"], ["no", "yes", "yes"])
    other = saved(tmp_path / "other", ["yes", "no"], ["no", "no", "yes"])
    beside = {"data": {"train": {"datasets": [one, other]}, "validation": {"datasets": [other]}}}
    kwargs = {} if given is None else {"class_names": given}
    trainer = trainer_of(place, tmp_path, "texts", kwargs=kwargs, beside=beside).trainer
    tokenizer, names = tiny.new_tokenizer(), trainer.model.config.id2label
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        for number in range(len(rows)):
            row = rows[number]
            assert tokenizer.decode(row["input_ids"]) == names[int(row["classes"][0])]


def test_names_are_given_to_numbers_that_have_others(place, tmp_path):
    """By `class_names` that share none with the dataset's."""
    beside = {"data": {"train": {"datasets": [saved(tmp_path / "one", ["0", "1"], ["1", "0"])]}}}
    trainer = trainer_of(place, tmp_path, "texts", kwargs={"class_names": ["no", "yes"]}, beside=beside).trainer
    assert [int(trainer.train_dataset[number]["classes"][0]) for number in range(2)] == [1, 0]


LABELS = {  # of some rows, what is given, and the classes of the rows or what is said
    "truth values": ([True, False, True], {}, ["1", "0", "1"]),
    "whole numbers with a point": ([1.0, 0.0], {}, ["1", "0"]),
    "texts of numbers": (["10", "2", "0"], {}, ["10", "2", "0"]),
    "texts of numbers that have names": (["1", "0"], {"class_names": ["no", "yes"]}, ["yes", "no"]),
    "a share": ([0.5, 1.0], {}, "0.5 is no class"),
    "none at all": ([None, None], {}, "no row has a class in 'label'"),
    "one that is none": (["a", "b", None], {}, "Row 2: there is no class in 'label'. Drop the row or fill it in"),
    "one that is empty": (["a", "b", ""], {}, "Row 2: there is no class in 'label'. Drop the row or fill it in"),
    "one below 0": ([0, 1, -1], {}, "-1 is no class, as rows that nobody has classed have it. Leave them out"),
    "a number by mistake": ([0, 1, 9_000_000], {}, "the classes go up to 9000000, but there are 3 of them"),
    "several of a row": ([[0, 1], [1]], {}, "a class is a text or a whole number from 0 on, and not [0, 1]"),
    "texts and numbers": (["a", 1], {}, "the classes are texts and numbers: 'a', 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_classes_of_every_kind(place, tmp_path, name):
    labels, kwargs, wanted = LABELS[name]
    tiny.write_rows(tmp_path / "rows.jsonl", [{"text": "a cat", "label": label} for label in labels])
    if name == "texts and numbers":
        for label in labels:
            tiny.write_rows(tmp_path / f"{label}.jsonl", [{"text": "a cat", "label": label}])
    files = [f"{label}.jsonl" for label in labels] if name == "texts and numbers" else ["rows.jsonl"]
    beside = {"data": {"train": {"datasets": [{"dataset_name": str(tmp_path / file)} for file in files]}}}
    if isinstance(wanted, str):
        with pytest.raises(DataError) as error:
            trainer_of(place, tmp_path, "texts", kwargs=kwargs, beside=beside)
        assert wanted in str(error.value)
        return
    trainer = trainer_of(place, tmp_path, "texts", kwargs=kwargs, beside=beside).trainer
    names = trainer.model.config.id2label
    assert [names[int(trainer.train_dataset[number]["classes"][0])] for number in range(len(labels))] == wanted
    if name == "texts of numbers":
        assert list(names.values()) == ["0", "2", "10"]


def test_a_row_without_a_token_is_left_out(place, tmp_path, caplog):
    rows = [{"text": text, "label": label} for text, label in (("", "a"), ("a cat", "b"), ("the mat", "a"))]
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    beside = {"data": {"train": {"datasets": [{"dataset_name": str(tmp_path / "rows.jsonl")}]}}}
    with caplog.at_level("INFO", logger="trainwright"):
        trainer = trainer_of(place, tmp_path, "texts", beside=beside).trainer
    assert len(trainer.train_dataset) == 2
    assert "1 of 3 rows of the training data have nothing to learn" in caplog.text


def test_a_second_text_is_not_lost(place, tmp_path):
    tiny.write_rows(tmp_path / "rows.jsonl", [{"text": "a", "text_pair": "b", "label": n} for n in (0, 1)])
    beside = {"data": {"train": {"datasets": [{"dataset_name": str(tmp_path / "rows.jsonl")}]}}}
    with pytest.raises(DataError, match="one text is classified, and 'text_pair' is a second one"):
        trainer_of(place, tmp_path, "texts", beside=beside)
