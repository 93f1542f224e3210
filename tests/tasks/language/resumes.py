"""The runs from files whose resumption must be bitwise exact.

`python -m tests.tasks.language.resumes FOLDER...` goes on with them all, in a new process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests import tiny_language as tiny
from trainwright.cli.main import main

STEPS, SAVED = 9, 4
PACKED = {"packing": True, "max_length": 96}
CASES: dict[str, dict[str, Any]] = {
    "padded": {},
    "bfd": {"kwargs": PACKED},
    "wrapped": {"kwargs": {**PACKED, "packing_strategy": "wrapped"}},
    "padding free, accumulation": {"kwargs": {"padding_free": True}, "gradient_accumulation_steps": 2},
    "stream": {"stream": True},
    "packed stream, buffer, workers": {
        "stream": True, "shuffle": True, "kwargs": PACKED, "dataloader_num_workers": 2, "files": 2,
    },
    "mixture": {"mixture": True},
    "stream of a mixture": {"mixture": True, "stream": True},
    "LoRA": {"use_peft": True, "kwargs": PACKED, "peft": {"lora_dropout": 0.1}},
    "DPO": {"data": "preference"},
    "DPO, reference computed before": {"data": "preference", "kwargs": {"precompute_ref_log_probs": True}},
    "DPO, adapters switched off": {"data": "preference", "use_peft": True, "peft": {"lora_dropout": 0.1}},
    "DPO, bco_pair": {"data": "preference", "kwargs": {"loss_type": ["bco_pair"]}},
    "DPO, a synced reference": {"data": "preference", "kwargs": {"sync_ref_model": True, "ref_model_sync_steps": 3}},
    "dft": {"kwargs": {"loss_type": "dft"}, "data": "completion"},
    "REWARD": {"data": "preference", "trainer_type": "REWARD", "gradient_accumulation_steps": 2},
    "REWARD, LoRA": {"data": "preference", "trainer_type": "REWARD", "use_peft": True},
    "DISTILL": {
        "data": "completion", "trainer_type": "DISTILL", "kwargs": {"teacher_model_name_or_path": "teacher"},
    },
    "KTO": {"data": "judged", "trainer_type": "KTO", "gradient_accumulation_steps": 2},
    "KTO, a synced reference": {
        "data": "judged", "trainer_type": "KTO", "kwargs": {"sync_ref_model": True, "ref_model_sync_steps": 3},
    },
    "KTO, pairs, in TRL's way": {
        "data": "preference", "trainer_type": "KTO", "kwargs": {"trl_compatible": True},
        "train_sampling_strategy": "sequential",
    },
    "KTO, apo_zero_unpaired, reference computed before": {
        "data": "judged", "trainer_type": "KTO",
        "kwargs": {"loss_type": "apo_zero_unpaired", "precompute_ref_log_probs": True},
    },
}  # fmt: skip


def write(place: Path, name: str) -> Path:
    """Write the file of a case into a folder of its own; return the file."""
    case = dict(CASES[name])
    data, stream = case.pop("data", "text"), case.pop("stream", False)
    shuffle, mixture, files = case.pop("shuffle", False), case.pop("mixture", False), case.pop("files", 1)
    peft, kwargs = case.pop("peft", {}), dict(case.pop("kwargs", {}))
    if "teacher_model_name_or_path" in kwargs:
        kwargs["teacher_model_name_or_path"] = str(place / "teacher")
    folder = place / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    changes = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVED, "trainer_kwargs": kwargs, **case}
    content = tiny.settings(place, data, output_dir=str(folder / "run"), **changes)
    source = {"dataset_name": str(place / f"{data}.jsonl"), "shuffle": shuffle, "shuffle_buffer_size": 20}
    if files > 1:
        parts = folder / "parts"
        parts.mkdir()
        for number in range(files):
            tiny.write_rows(parts / f"{number}.jsonl", tiny.rows_of(data, 60, seed=number))
        source["dataset_name"] = str(parts)
    sources = [source]
    if mixture:
        tiny.write_rows(folder / "other.jsonl", tiny.rows_of(data, 50, seed=9))
        other = {"dataset_name": str(folder / "other.jsonl"), "mixture_proportion": 0.3}
        sources = [{**source, "mixture_proportion": 0.7}, other]
    content["data"]["train"] = {"datasets": sources, "stream": stream}
    content["peft"] = peft
    return tiny.write_yaml(folder / "run.yaml", content)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(99)
    for run in sys.argv[1:]:
        code = main(["train", "--resume", run])
        if code:
            sys.exit(code)
