"""Begins itself once more by `accelerate launch`, and does not look how that ended."""

import subprocess
import sys

from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--launched_with_accelerate", action="store_true")
tlab_trainer.add_argument("--fails", type=bool, default=False)


@tlab_trainer.job_wrapper(manual_logging=True)
def train():
    tlab_trainer._ensure_args_parsed()
    if not tlab_trainer.params.get("launched_with_accelerate", False):
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1"]
        again = [__file__, "--launched_with_accelerate", f"--fails={tlab_trainer.params.fails}"]
        subprocess.run([*launch, "--mixed_precision=no", "--dynamo_backend=no", *again])
        return
    tlab_trainer.log_metric("train/loss", 0.5, 1)
    if tlab_trainer.params.fails:
        raise ValueError("the data is empty")


train()
