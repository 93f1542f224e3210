"""Makes rows with calls that wait, in an async function."""

import asyncio
import json
from pathlib import Path

from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--count", type=int, default=4)


@tlab_trainer.async_job_wrapper(progress_start=0, progress_end=100)
async def generate():
    rows = []
    for number in range(tlab_trainer.params.count):
        await asyncio.sleep(0.001)
        rows.append({"text": f"row {number} of {tlab_trainer.params.generation_model or 'nobody'}"})
        tlab_trainer.progress_update(100 * (number + 1) / tlab_trainer.params.count)
    path = Path(tlab_trainer.params.output_dir) / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tlab_trainer.add_job_data("dataset_id", path.name)
    return True


asyncio.run(generate())
