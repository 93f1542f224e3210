"""The newer SDK with a Trainer: its callback, its model, its score."""

from trainwright import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trainwright.jobs import lab


def main():
    lab.init(config={"learning_rate": 1e-3, "logging_steps": 1})
    config = lab.get_config()
    try:
        lab.log(f"Training {config['model_name']}")
        tokenizer = AutoTokenizer.from_pretrained(config["model_name"])
        model = AutoModelForCausalLM.from_pretrained(config["model_name"])
        rows = [{"text": line} for line in ("one two", "three", "four five six", "seven")]
        args = TrainingArguments(
            config["output"], max_steps=2, learning_rate=float(config["learning_rate"]), use_cpu=True,
            logging_steps=int(config["logging_steps"]), save_strategy="steps", save_steps=2,
        )  # fmt: skip
        trainer = Trainer(
            model, args, train_dataset=rows, processing_class=tokenizer, callbacks=[lab.get_hf_callback()]
        )
        result = trainer.train(resume_from_checkpoint=lab.get_checkpoint_to_resume())
        trainer.save_model(config["output"] + "/final")
        lab.save_model(config["output"] + "/final", name="tuned", architecture="LlamaForCausalLM")
        lab.finish("Done.", score={"train_loss": result.training_loss})
    except Exception as error:
        lab.error(str(error))
        raise


if __name__ == "__main__":
    main()
