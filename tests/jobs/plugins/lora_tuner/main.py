"""Fine-tunes an adapter: typed parameters, data by its parameter, a progress callback, a model at the end."""

from pathlib import Path

from peft import LoraConfig, get_peft_model

from trainwright import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--lora_r", type=int, default=2)
tlab_trainer.add_argument("--batch_size", type=int, default=4)


@tlab_trainer.job_wrapper(progress_start=0, progress_end=100)
def train():
    params = tlab_trainer.params
    if params.template_name is None:  # not given: None, as there
        params.template_name = "default"
    params["adaptor_dir"] = str(Path(params.output_dir) / f"adaptor_{params.job_id}")
    assert (params.template_name, params["template_name"], params.get("template_name")) == ("default",) * 3
    tokenizer = AutoTokenizer.from_pretrained(params.model_name)
    model = AutoModelForCausalLM.from_pretrained(params.model_name)
    model = get_peft_model(model, LoraConfig(r=params.lora_r, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    args = TrainingArguments(
        params.adaptor_dir,
        num_train_epochs=float(params.num_train_epochs),
        learning_rate=float(params.learning_rate),
        per_device_train_batch_size=params.batch_size,
        logging_steps=1,
        report_to=tlab_trainer.report_to,
        use_cpu=True,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=tlab_trainer.load_dataset()["train"],
        processing_class=tokenizer,
        callbacks=[tlab_trainer.create_progress_callback(framework="huggingface")],
    )
    trainer.train()
    trainer.save_model(params.adaptor_dir)
    tlab_trainer.add_job_data("adaptor", params.adaptor_dir)
    fused = model.merge_and_unload()
    folder = tlab_trainer.create_transformerlab_model(
        fused_model_name=f"{Path(params.model_name).name}_tuned",
        model_architecture="LlamaForCausalLM",
        json_data={"dataset": params.dataset_name, "lora_r": params.lora_r},
        pipeline_tag="text-generation",
    )
    fused.save_pretrained(folder)
    return True


train()
