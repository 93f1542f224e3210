"""Turns a model into another form: a folder that it names itself, no data and no metrics."""

import shutil
from pathlib import Path

from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--output_model_path", type=Path, required=True)


@tlab_trainer.job_wrapper(progress_start=0, progress_end=100)
def export():
    params = tlab_trainer.params
    made = tlab_trainer.create_transformerlab_model(
        f"org/{Path(params.model_name).name}-copy",
        "LlamaForCausalLM",
        {"quantisation": params.quantisation, "source": params.model_name},
        output_dir=params.output_model_path,
        parent_model="org/parent",
    )
    shutil.copytree(params.model_name, made, dirs_exist_ok=True)
    return True


export()
