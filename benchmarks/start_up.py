"""Start-up: CPU s from python's start to the end of the first step, and of `trainwright --help`.

`python -m benchmarks.start_up [ROUNDS]`. Every figure is a process of its own; they take turns in every round.
Python keeps what it compiles, whatever the environment says, as it is kept of an installed package.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys

MODEL = """
import torch, tempfile
from torch import nn
class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
    def forward(self, x, labels):
        return {"loss": ((self.layer(x).squeeze(-1) - labels) ** 2).mean()}
rows = [{"x": torch.ones(4), "labels": torch.tensor(1.0)} for _ in range(16)]
"""
LLAMA = """
import torch, tempfile
from transformers import LlamaConfig, LlamaForCausalLM
rows = [{"input_ids": torch.arange(64), "labels": torch.arange(64)} for _ in range(16)]
def Line():
    return LlamaForCausalLM(LlamaConfig(vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                                        num_attention_heads=4))
"""
BY_HAND = """
from torch.utils.data import DataLoader, default_collate
model = Line()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
for batch in DataLoader(rows, batch_size=8, shuffle=True):
    model(**batch)["loss"].backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    break
"""
TRAINER = """
from {library} import Trainer, TrainingArguments
args = TrainingArguments(tempfile.mkdtemp(), max_steps=1, save_strategy="no", report_to="none", use_cpu=True,
                         disable_tqdm=True)
Trainer(Line(), args, train_dataset=rows).train()
"""
HELP = "import sys; from trainwright.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
PROGRAMS = {
    "import torch": "import torch",
    "import LlamaForCausalLM": "from transformers import LlamaForCausalLM",
    "plain module, by hand": MODEL + BY_HAND,
    "plain module, trainwright": MODEL + TRAINER.format(library="trainwright"),
    "plain module, transformers": MODEL + TRAINER.format(library="transformers"),
    "Llama, trainwright": LLAMA + TRAINER.format(library="trainwright"),
    "Llama, transformers": LLAMA + TRAINER.format(library="transformers"),
    "trainwright --help": HELP,
}


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_seconds(program: str) -> float:
    """Return the user and system time of a python process that runs a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int = 5) -> None:
    """Print a table."""
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for program in PROGRAMS.values():
        cpu_seconds(program)  # compiles what is new
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            times[name].append(cpu_seconds(program))
    print("| program | CPU s | range |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
