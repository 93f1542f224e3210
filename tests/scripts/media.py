"""Classification of pictures and of sounds: rows are made by a transform, when they are fetched."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import ViTConfig, ViTForImageClassification, Wav2Vec2Config, Wav2Vec2ForSequenceClassification

from tests.scripts.common import begin, finish


def compute_metrics(p: Any) -> dict[str, float]:
    """Return the share of right classes."""
    return {"accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())}


def of_pictures(library: Any, command: list[str]) -> dict[str, float]:
    """Train a classifier of pictures; `--remove_unused_columns False` keeps the column that the transform reads."""
    args, _, last = begin(library.TrainingArguments, command)
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=2,
            intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    numbers = np.random.default_rng(0)
    rows = Dataset.from_dict({"image": numbers.random((24, 3, 8, 8)).tolist(), "labels": [i % 2 for i in range(24)]})

    def transforms(batch: Any) -> Any:
        batch["pixel_values"] = [torch.tensor(image) for image in batch["image"]]
        return batch

    rows.set_transform(transforms)

    def collate(examples: list[Any]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": torch.tensor([example["labels"] for example in examples])}

    trainer = library.Trainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        data_collator=collate,
    )
    return finish(trainer, args, last, rows, prediction=rows, tasks="image-classification", tags=["vision"])


def of_sounds(library: Any, command: list[str]) -> dict[str, float]:
    """Train a classifier of sounds of one length."""
    args, _, last = begin(library.TrainingArguments, command)
    torch.manual_seed(0)
    model = Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
            conv_kernel=(8, 4), conv_stride=(4, 2), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            num_labels=2, classifier_proj_size=8, mask_time_prob=0.0, hidden_dropout=0.0, attention_dropout=0.0,
            activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, num_feat_extract_layers=2,
        )
    )  # fmt: skip
    model.freeze_feature_encoder()
    numbers = np.random.default_rng(0)
    rows = Dataset.from_dict({"audio": numbers.normal(size=(24, 160)).tolist(), "label": [i % 2 for i in range(24)]})

    def transforms(batch: Any) -> Any:
        return {
            "input_values": [np.asarray(sound, dtype=np.float32) for sound in batch["audio"]],
            "labels": batch["label"],
        }

    rows.set_transform(transforms, output_all_columns=False)
    trainer = library.Trainer(
        model=model, args=args, train_dataset=rows, eval_dataset=rows, compute_metrics=compute_metrics
    )
    return finish(trainer, args, last, rows, prediction=rows, tasks="audio-classification", tags=["sound"])
