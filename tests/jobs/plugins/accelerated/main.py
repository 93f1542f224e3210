"""Begins its training by `accelerate launch` with two processes, as a job that waits for them."""

import json
import subprocess
import sys
from pathlib import Path

from trainwright.jobs import tlab_trainer


@tlab_trainer.job_wrapper()
def launch():
    tlab_trainer.progress_update(1)
    written = Path(tlab_trainer.params.output_dir).with_suffix(".json")
    written.write_text(json.dumps({"config": {**tlab_trainer.params, "job_id": tlab_trainer.params.job_id}}))
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1"]
    script = str(Path(__file__).parent / "train.py")
    options = ["--num_processes=2", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    subprocess.run([*accelerate, *options, script, "--input_file", str(written)], check=True)
    return True


launch()
