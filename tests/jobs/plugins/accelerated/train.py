"""What each of the processes does."""

import os

import torch

from trainwright import Trainer, TrainingArguments
from trainwright.jobs import tlab_trainer


class Line(torch.nn.Linear):
    def forward(self, x, labels):
        return {"loss": ((super().forward(x).squeeze(-1) - labels) ** 2).mean()}


@tlab_trainer.job_wrapper()
def train():
    assert tlab_trainer.params.job_id == tlab_trainer.params._config["job_id"]
    torch.manual_seed(0)
    rows = [{"x": torch.randn(4), "labels": torch.randn(())} for _ in range(16)]
    args = TrainingArguments(
        tlab_trainer.params.output_dir, max_steps=3, logging_steps=1, save_steps=3, per_device_train_batch_size=2,
        use_cpu=True, report_to=tlab_trainer.report_to,
    )  # fmt: skip
    callbacks = [tlab_trainer.create_progress_callback()]
    trainer = Trainer(Line(4, 1), args, train_dataset=rows, callbacks=callbacks)
    trainer.train()
    tlab_trainer.add_job_data("world_size", trainer.args.world_size)
    print("rank", os.environ["RANK"], "in", tlab_trainer.params.output_dir, flush=True)


train()
