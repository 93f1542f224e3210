"""The newer SDK with a loop of its own: progress with metrics, files that are kept, a table."""

from pathlib import Path

import pandas

from trainwright.jobs import lab

lab.init("first")
config = lab.get_config()
steps = int(config.get("steps", 5))
lab.set_config({"seen": True})
rows = []
for step in range(1, steps + 1):
    rows.append({"step": step, "loss": 1 / step})
    lab.update_progress(100 * step / steps, metrics={"train/loss": 1 / step}, step=step)
Path("weights.txt").write_text("1 2 3")
lab.save_checkpoint("weights.txt", name=f"checkpoint-{steps}.txt")
lab.save_artifact("weights.txt")
table = lab.save_artifact(pandas.DataFrame(rows), name="losses", type="evals")
assert len(pandas.read_csv(table)) == steps
lab.set_job_data_field("note", "all well")
lab.finish(score={"loss": rows[-1]["loss"]})
