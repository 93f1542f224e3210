"""The scripts of seed 000, with only their import lines changed, and what they train."""

from __future__ import annotations

import json
from pathlib import Path

ADAPTED = """
from trainwright.jobs import tlab_trainer
from trainwright import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, Trainer


@tlab_trainer.job_wrapper(progress_start=0, progress_end=100)
def train_model():
    # 1. Load dataset with helper
    datasets = tlab_trainer.load_dataset()
    dataset = datasets["train"]
    
    # 2. Load model and tokenizer (same as before)
    model = AutoModelForCausalLM.from_pretrained(tlab_trainer.model_name)
    tokenizer = AutoTokenizer.from_pretrained(tlab_trainer.model_name)
    
    # 3. Setup training arguments with parameters from Transformer Lab
    training_args = TrainingArguments(
        output_dir=tlab_trainer.params.output_dir,
        learning_rate=float(tlab_trainer.params.learning_rate),
        num_train_epochs=int(tlab_trainer.params.num_train_epochs),
        report_to=tlab_trainer.report_to,
        # other arguments...
    )
    
    # 4. Create progress callback
    progress_callback = tlab_trainer.create_progress_callback(framework="huggingface")
    
    # 5. Create trainer with callback
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=dataset,
        tokenizer=tokenizer,
        callbacks=[progress_callback],
    )
    
    # 6. Train and save
    trainer.train()
    trainer.save_model(tlab_trainer.output_dir)
    
    return True

# Call the function
train_model()
"""  # noqa: W293

MANUAL = """
from trainwright.jobs import tlab_trainer
import torch


class model:
    @staticmethod
    def train_step(batch):
        return torch.tensor(1.0)


class scheduler:
    @staticmethod
    def get_last_lr():
        return [0.5]


batch = None


@tlab_trainer.job_wrapper(manual_logging=True)
def train_model():
    # Setup model, data, etc.
    
    total_steps = 1000
    for step in range(total_steps):
        # Training logic here
        loss = model.train_step(batch)
        
        # Log metrics manually
        tlab_trainer.log_metric("train/loss", loss.item(), step)
        tlab_trainer.log_metric("train/lr", scheduler.get_last_lr()[0], step)
        
        # Update progress
        progress = (step / total_steps) * 100
        tlab_trainer.progress_update(progress)
"""  # noqa: W293

CALLED = MANUAL + "\n\ntrain_model()\n"
ASYNC = (
    MANUAL.replace("job_wrapper", "async_job_wrapper").replace("def train_model", "async def train_model")
    + "\n\nimport asyncio\nasyncio.run(train_model())\n"
)
UPSTREAM = ADAPTED.replace("from trainwright import Auto", "from transformers import Auto").replace(
    "    # 3.", "    dataset = dataset.map(lambda row: {**(ids := tokenizer(row['text'])), 'labels': ids['input_ids']})"
    "\n    # 3."
).replace("tokenizer=tokenizer", "processing_class=tokenizer").replace(
    "report_to=tlab_trainer.report_to", "report_to=[], use_cpu=True, per_device_train_batch_size=1"
)  # fmt: skip

SLOW = """
import time
from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--steps", type=int, default=600)

@tlab_trainer.job_wrapper()
def train():
    for step in range(tlab_trainer.params.steps):
        tlab_trainer.log_metric("loss", 1 / (step + 1), step)
        tlab_trainer.progress_update(100 * step / tlab_trainer.params.steps)
        time.sleep(0.05)
    print("done")

train()
"""


def write_model_and_data(folder: Path) -> dict[str, str]:
    """Write a small language model with its tokenizer, and texts; return the parameters that name them."""
    from tests import tiny_language

    tiny_language.new_model().save_pretrained(folder / "model")
    tiny_language.new_tokenizer().save_pretrained(folder / "model")
    rows = [{"text": row["text"]} for row in tiny_language.rows_of("text")][:12]
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data" / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    return {"model_name": str(folder / "model"), "dataset_name": str(folder / "data"), "learning_rate": "1e-3",
            "num_train_epochs": "1"}  # fmt: skip
