"""Fine-tunes by transformers' own Trainer; everything comes from the input file."""

import transformers

from trainwright.jobs import tlab_trainer


@tlab_trainer.job_wrapper(wandb_project_name="plugins")
def train_model():
    config = tlab_trainer.params._config
    assert config["job_id"] == tlab_trainer.params.job_id
    assert tlab_trainer.params.input_file.endswith(".json")
    datasets = tlab_trainer.load_dataset(["train", "test"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(config["model_name"])
    model = transformers.AutoModelForCausalLM.from_pretrained(config["model_name"])
    rows = {
        name: data.map(lambda row: tokenizer(row["text"]), remove_columns=["text"]) for name, data in datasets.items()
    }
    arguments = transformers.TrainingArguments(
        tlab_trainer.params.output_dir,
        num_train_epochs=int(tlab_trainer.params.num_train_epochs),
        learning_rate=float(tlab_trainer.params.learning_rate),
        per_device_train_batch_size=4,
        logging_steps=1,
        eval_strategy="epoch",
        report_to=tlab_trainer.report_to,
        run_name=f"job_{tlab_trainer.params.job_id}_{tlab_trainer.params.template_name}",
        use_cpu=True,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[tlab_trainer.create_progress_callback()],
    )
    trainer.train()
    trainer.save_model(output_dir=tlab_trainer.params.output_dir)
    return True


if __name__ == "__main__":
    train_model()
