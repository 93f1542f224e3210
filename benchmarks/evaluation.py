"""Evaluation with metrics: seconds and peak memory over rows × 16 tokens × 32,000 classes.

`python -m benchmarks.evaluation [ROWS ...]`. Every figure is a process of its own; the engines take turns.
"""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, resource, sys, tempfile, time, torch
from torch import nn
library = __import__(sys.argv[1])
rows, vocabulary = int(sys.argv[2]), 32000
torch.set_num_threads(1)
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Embedding(vocabulary, 4)
        self.head = nn.Linear(4, vocabulary)
    def forward(self, input_ids, labels):
        logits = self.head(self.layer(input_ids))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}
data = [{"input_ids": torch.arange(16), "labels": torch.arange(16)} for _ in range(rows)]
args = library.TrainingArguments(tempfile.mkdtemp(), use_cpu=True, disable_tqdm=True, report_to="none",
                                 per_device_eval_batch_size=8)
trainer = library.Trainer(Head(), args, eval_dataset=data,
                          compute_metrics=lambda p: {"rows": float(p.predictions.shape[0])})
trainer.remove_callback(library.PrinterCallback)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
metrics = trainer.evaluate()
seconds = time.perf_counter() - start
assert metrics["eval_rows"] == rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": seconds, "megabytes": peak * 1024 / 1e6}))
"""


def measure(library: str, rows: int) -> dict[str, float]:
    """Return seconds and the growth of peak memory in MB for one evaluation in a new process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, library, str(rows)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(*sizes: int) -> None:
    """Print a table."""
    print("| rows | logits MB | trainwright s | transformers s | trainwright MB | transformers MB |")
    print("|---|---|---|---|---|---|")
    for rows in sizes or (64, 128, 256, 512):
        ours, theirs = measure("trainwright", rows), measure("transformers", rows)
        print(
            f"| {rows} | {rows * 16 * 32000 * 4 / 1e6:.0f} | {ours['seconds']:.1f} | {theirs['seconds']:.1f} | "
            f"{ours['megabytes']:.0f} | {theirs['megabytes']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
