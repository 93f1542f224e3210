"""Evaluates a model: no training, a table of results, metrics without steps."""

import argparse
import csv
from pathlib import Path

import torch

from trainwright import AutoModelForCausalLM, AutoTokenizer
from trainwright.jobs import tlab_trainer

parser = argparse.ArgumentParser()  # the script's own, beside the job's
parser.add_argument("--limit", type=int, default=3)
parser.add_argument("--model_name")
arguments, _ = parser.parse_known_args()


@tlab_trainer.job_wrapper(manual_logging=True)
def evaluate():
    rows = tlab_trainer.load_dataset(["test"])["test"].select(range(1)).to_list() * arguments.limit
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name)
    model = AutoModelForCausalLM.from_pretrained(tlab_trainer.params.model_name).eval()
    table = Path(tlab_trainer.params.output_dir) / "results.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        for number, row in enumerate(rows):
            ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
            with torch.no_grad():
                loss = model(input_ids=ids, labels=ids).loss.item()
            writer.writerow([row["text"], loss])
            tlab_trainer.log_metric("eval/loss", loss)
            tlab_trainer.progress_update(100 * (number + 1) / len(rows))
    tlab_trainer.add_job_data("evaluation_results", str(table))
    return True


evaluate()
