"""Classifies texts: a tokenizer of its own, labels from the data, metrics at each evaluation."""

from trainwright import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--text_column", default="text")
tlab_trainer.add_argument("--fp16", action="store_true")


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@tlab_trainer.job_wrapper(progress_start=10, progress_end=90)
def main():
    tlab_trainer.progress_update(5)
    data = tlab_trainer.load_dataset(dataset_types=["train", "valid"])
    tokenizer = AutoTokenizer.from_pretrained(tlab_trainer.model_name)

    def encode(row):
        return {**tokenizer(row[tlab_trainer.params.text_column]), "labels": len(row["text"]) % 2}

    data = {name: rows.map(encode, remove_columns=["text"]) for name, rows in data.items()}
    model = AutoModelForSequenceClassification.from_pretrained(tlab_trainer.model_name, num_labels=2)
    model.config.pad_token_id = tokenizer.pad_token_id
    args = TrainingArguments(
        tlab_trainer.params.output_dir,
        num_train_epochs=float(tlab_trainer.params.num_train_epochs),
        learning_rate=float(getattr(tlab_trainer, "learning_rate", 1e-4)),
        warmup_steps=int(getattr(tlab_trainer, "warmup_steps", 0)),
        fp16=tlab_trainer.params.fp16,
        eval_strategy="epoch",
        logging_steps=1,
        report_to=tlab_trainer.report_to,
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=data["train"],
        eval_dataset=data["valid"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[tlab_trainer.create_progress_callback("hf")],
    )
    trainer.train()
    tlab_trainer.add_job_data("evaluation", trainer.evaluate())
    trainer.save_model(tlab_trainer.output_dir)


main()
