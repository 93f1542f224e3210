"""Labels are numbers or classes by their dataset, not by the first row of a batch: against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from tests import tiny
from trainwright import DataError, Trainer, TrainingArguments, default_data_collator
from trainwright.data.labels import has_float_labels


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(2, 1)
        self.seen = []

    def forward(self, input_ids, labels=None, attention_mask=None):
        self.seen.append(labels)
        return {"loss": ((self.line(input_ids.float()).squeeze(-1) - labels.float()) ** 2).mean()}


WHOLE = [0, 1, 0, 1, 1, 0, 1]
MIXED = {
    "floats": [1, 0, 0.5, 1, 0, 0.25, 1],
    "a float at the end": [*WHOLE[:-1], 0.5],
    "numpy": [np.int64(1), np.int64(0), np.float32(0.5), *WHOLE[:4]],
    "switches": [True, False, 0.5, True, 1, 0, 1],
    "tensors": [torch.tensor(1), torch.tensor(0), torch.tensor(0.5), *map(torch.tensor, WHOLE[:4])],
}


def labels_of(tmp_path, rows, collator=None, **given):
    model = Model()
    args = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=2, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True, per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows, data_collator=collator, **given)
    trainer.train()
    trained = len(model.seen)
    trainer.evaluate()
    return model.seen[:trained], model.seen[trained:]


@pytest.mark.parametrize("column", ["label", "labels", "label_ids"])
@pytest.mark.parametrize(
    ("kind", "padded"), [*((kind, False) for kind in MIXED), *((kind, True) for kind in MIXED if kind != "tensors")]
)
def test_labels_are_numbers_where_one_of_the_dataset_is(tmp_path, kind, column, padded):
    rows = [{"input_ids": [1, n], column: label} for n, label in enumerate(MIXED[kind])]
    given = {"processing_class": tiny.tokenizer()} if padded else {}
    trained, evaluated = labels_of(tmp_path, rows, **given)
    assert {labels.dtype for labels in trained + evaluated} == {torch.float32}
    expected = sorted(float(label) for label in MIXED[kind])
    assert sorted(torch.cat(evaluated).tolist()) == pytest.approx(expected)
    assert sorted(torch.cat(trained[:4]).tolist()) == pytest.approx(expected)  # the first pass


def test_whole_numbers_are_classes(tmp_path):
    for values in (WHOLE, [bool(n) for n in WHOLE], list(np.array(WHOLE))):
        rows = [{"input_ids": [1, n], "label": label} for n, label in enumerate(values)]
        trained, evaluated = labels_of(tmp_path, rows)
        assert {labels.dtype for labels in trained + evaluated} == {torch.int64}


def test_declared_features_and_parts_of_lists():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"label": [1.0, 0.0]})
    assert has_float_labels(table)
    assert not has_float_labels(table.cast_column("label", datasets.Value("int64")))
    classes = datasets.Features({"label": datasets.ClassLabel(names=["a", "b"])})
    assert not has_float_labels(datasets.Dataset.from_dict({"label": [1, 0]}, features=classes))
    assert has_float_labels(datasets.Dataset.from_dict({"labels": [[0.5, 1.0], [1.0, 0.0]]}))
    assert has_float_labels(Subset([{"label": 1}, {"label": 0.5}], [0]))
    assert has_float_labels(ConcatDataset([[{"label": 1}], Subset([{"label": 0.5}], [0])]))
    assert not has_float_labels(ConcatDataset([[{"label": 1}], [{"label": 0}]]))
    assert not has_float_labels([{"x": 0.5, "label": None}])


def test_the_users_own_collator_decides_itself(tmp_path):
    def collate(rows):
        return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}

    rows = [{"input_ids": [1, n], "labels": label} for n, label in enumerate([1, 0, 0, 1, 1, 0.5])]
    _, evaluated = labels_of(tmp_path, rows, collate)
    assert [labels.dtype for labels in evaluated[-3:]] == [torch.int64, torch.int64, torch.float32]  # asked before


class Classes(torch.nn.Module):
    def __init__(self, out):
        super().__init__()
        torch.manual_seed(0)
        self.line = torch.nn.Linear(4, out)

    def forward(self, x, labels=None):
        scores = self.line(x)
        if labels.dtype == torch.bool:
            return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(scores.squeeze(-1), labels.float())}
        return {"loss": torch.nn.functional.cross_entropy(scores, labels.long())}


@pytest.mark.parametrize(
    ("kind", "labels"),
    [(torch.uint8, [156, 156, 3, 156, 4, 5, 6, 7]), (torch.uint8, [156] * 8), (torch.bool, [1, 1, 0, 1, 0, 0, 1, 1])],
)
def test_classes_whose_type_has_no_minus_100_all_count(tmp_path, kind, labels):
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)) * 3
    labels = torch.tensor(labels, dtype=kind)
    model = Classes(1 if kind is torch.bool else 200)
    with torch.no_grad():
        expected = float(model(x, labels)["loss"])
    args = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=1,
        per_device_eval_batch_size=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": one, "labels": label} for one, label in zip(x, labels, strict=True)]
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-6)


def test_labels_that_are_texts_are_named():
    with pytest.raises(DataError, match="A label is the text '1'; turn labels into numbers first"):
        default_data_collator([{"label": 0, "x": 1}, {"label": "1", "x": 1}])
