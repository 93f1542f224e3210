"""Tasks whose batches or losses are of another kind: pictures with texts, speech, choices, boxes, written answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import (
    BertForMultipleChoice,
    CLIPConfig,
    CLIPModel,
    DataCollatorForMultipleChoice,
    PretrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from tests import tiny
from tests.scripts.common import begin, finish


def of_pairs(library: Any, command: list[str]) -> dict[str, float]:
    """Train pictures and texts to find each other: the collator asks for the loss by `return_loss`, without labels."""
    args, _, last = begin(library.TrainingArguments, command)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 40, "max_position_embeddings": 8, "eos_token_id": 2}
    picture = {**small, "image_size": 8, "patch_size": 4}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=picture, projection_dim=8))
    numbers = np.random.default_rng(0)
    pictures, texts = numbers.random((24, 3, 8, 8)).tolist(), numbers.integers(3, 40, (24, 6)).tolist()
    rows = Dataset.from_dict({"image": pictures, "input_ids": texts})
    rows.set_transform(lambda batch: {**batch, "pixel_values": [torch.tensor(image) for image in batch["image"]]})

    def collate(examples: list[Any]) -> dict[str, Any]:
        ids = torch.tensor([example["input_ids"] for example in examples])
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "return_loss": True,
        }  # fmt: skip

    trainer = library.Trainer(model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate)
    return finish(trainer, args, last, rows, tasks="contrastive-image-text-modeling")


def of_speech(library: Any, command: list[str]) -> dict[str, float]:
    """Train a model that writes down what it hears (CTC); the metrics change what they get in place."""
    args, _, last = begin(library.TrainingArguments, command)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            conv_dim=(8, 8), conv_kernel=(8, 4), conv_stride=(4, 4), num_conv_pos_embeddings=4, pad_token_id=0,
            num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, apply_spec_augment=False, hidden_dropout=0.0,
            attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0,
            ctc_loss_reduction="mean",
        )
    )  # fmt: skip
    model.freeze_feature_encoder()
    numbers = np.random.default_rng(0)
    rows = Dataset.from_list([
        {
            "input_values": numbers.normal(size=160 + 20 * (i % 4)).tolist(),
            "labels": numbers.integers(1, 8, 2 + i % 3).tolist(),
        }
        for i in range(24)
    ])  # fmt: skip

    def filled(rows: list[list[Any]], value: float) -> torch.Tensor:
        return torch.tensor([row + [value] * (max(map(len, rows)) - len(row)) for row in rows])

    def collate(examples: list[Any]) -> dict[str, torch.Tensor]:
        sounds = filled([example["input_values"] for example in examples], 0.0)
        return {"input_values": sounds, "labels": filled([example["labels"] for example in examples], -100)}

    def compute_metrics(pred: Any) -> dict[str, float]:
        pred.label_ids[pred.label_ids == -100] = 0
        heard = pred.predictions[0]
        heard[heard == -100] = 0
        return {"letters": float((heard > 0).mean()), "wanted": float((pred.label_ids > 0).sum())}

    trainer = library.Trainer(
        model=model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda logits, labels: (logits.argmax(-1), labels),
    )  # fmt: skip
    return finish(trainer, args, last, rows, prediction=rows, tasks="automatic-speech-recognition")


def of_choices(library: Any, command: list[str]) -> dict[str, float]:
    """Train a model that chooses among four endings."""
    args, _, last = begin(library.TrainingArguments, command)
    torch.manual_seed(0)
    tokenizer, numbers = tiny.tokenizer(), np.random.default_rng(0)
    rows = Dataset.from_list([
        {"input_ids": [numbers.integers(3, 50, 4 + (i + j) % 3).tolist() for j in range(4)], "label": i % 4}
        for i in range(24)
    ])  # fmt: skip

    def compute_metrics(eval_predictions: Any) -> dict[str, float]:
        predictions, label_ids = eval_predictions
        return {"accuracy": (np.argmax(predictions, axis=1) == label_ids).astype(np.float32).mean().item()}

    trainer = library.Trainer(
        model=BertForMultipleChoice(tiny.bert_config()), args=args, train_dataset=rows, eval_dataset=rows,
        processing_class=tokenizer, data_collator=DataCollatorForMultipleChoice(tokenizer),
        compute_metrics=compute_metrics,
    )  # fmt: skip
    return finish(trainer, args, last, rows, prediction=rows, tasks="multiple-choice")


class Detector(PreTrainedModel):
    """Finds as many boxes as a picture has; its outputs begin with a dictionary, as those of transformers' do."""

    def __init__(self) -> None:
        super().__init__(PretrainedConfig())
        self.boxes = nn.Linear(48, 8)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> dict[str, Any]:
        """Return the mean distance of the boxes, and the boxes; shape (pictures, 2, 4)."""
        found = self.boxes(pixel_values.flatten(1)).unflatten(1, (2, 4)).sigmoid()
        pairs = [(found[i, : len(one["boxes"])], one["boxes"]) for i, one in enumerate(labels or [])]
        if not pairs:
            return {"logits": found.sum(-1), "pred_boxes": found}
        loss = torch.stack([functional.l1_loss(ours, theirs) for ours, theirs in pairs]).mean()
        return {"loss": loss, "loss_dict": {"boxes": loss.detach()}, "logits": found.sum(-1), "pred_boxes": found}


def of_boxes(library: Any, command: list[str]) -> dict[str, float]:
    """Train a detector, whose labels are a list of dictionaries; batches are not joined for the metrics."""
    args, _, last = begin(library.TrainingArguments, command)
    args.eval_do_concat_batches = False
    args.remove_unused_columns = False
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    rows = [
        {
            "pixel_values": torch.rand(3, 4, 4, generator=generator),
            "labels": {"boxes": torch.rand(1 + i % 2, 4, generator=generator), "orig_size": torch.tensor([4, 4])},
        }
        for i in range(22)
    ]

    def collate(batch: list[Any]) -> dict[str, Any]:
        return {"pixel_values": torch.stack([x["pixel_values"] for x in batch]), "labels": [x["labels"] for x in batch]}

    def compute_metrics(results: Any) -> dict[str, float]:
        sizes = [torch.tensor(np.array([x["orig_size"] for x in batch])) for batch in results.label_ids]
        boxes = [torch.tensor(x["boxes"]) for batch in results.label_ids for x in batch]
        found = [torch.tensor(batch[2]) for batch in results.predictions]
        return {
            "pictures": float(sum(map(len, sizes))),
            "wanted": float(torch.cat(boxes).sum()),
            "found": float(torch.cat(found).sum()),
        }

    trainer = library.Trainer(
        model=Detector(), args=args, train_dataset=rows, eval_dataset=rows, data_collator=collate,
        compute_metrics=compute_metrics,
    )  # fmt: skip
    return finish(trainer, args, last, rows, tasks="object-detection")


def of_written_answers(library: Any, command: list[str]) -> dict[str, float]:
    """Train a model that writes answers, with an `evaluate` of its own that sets how they are generated."""
    args, _, last = begin(library.Seq2SeqTrainingArguments, command)

    class QuestionAnsweringSeq2SeqTrainer(library.Seq2SeqTrainer):  # type: ignore[misc, name-defined]
        def evaluate(self, eval_dataset: Any = None, metric_key_prefix: str = "eval", **gen_kwargs: Any) -> Any:
            gen_kwargs = gen_kwargs.copy()
            if gen_kwargs.get("num_beams") is None and self.args.generation_num_beams is not None:
                gen_kwargs["num_beams"] = self.args.generation_num_beams
            self._gen_kwargs = gen_kwargs
            loader = self.get_eval_dataloader(eval_dataset)
            compute_metrics, self.compute_metrics = self.compute_metrics, None
            try:
                output = self.evaluation_loop(
                    loader, description="Evaluation", prediction_loss_only=None, metric_key_prefix=metric_key_prefix
                )
            finally:
                self.compute_metrics = compute_metrics
            metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.compute_metrics(output).items()} | output.metrics
            if self.args.should_log:
                self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    numbers = np.random.default_rng(0)
    rows = Dataset.from_dict({
        "input_ids": numbers.integers(3, 50, (24, 6)).tolist(), "labels": numbers.integers(3, 50, (24, 4)).tolist(),
    })  # fmt: skip
    trainer = QuestionAnsweringSeq2SeqTrainer(
        model=tiny.t5(), args=args, train_dataset=rows, eval_dataset=rows,
        compute_metrics=lambda p: {"length": p.predictions.shape[1], "written": int(p.predictions.sum())},
    )  # fmt: skip
    return finish(trainer, args, last, rows, evaluation={"max_length": 7, "num_beams": 2}, tasks="question-answering")
